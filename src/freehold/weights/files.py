"""Hashing files, remembering what was hashed, and writing so that a crash loses nothing."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
import tempfile
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from freehold.domain.errors import DiskFull, UnsupportedFile

CHUNK = 1 << 20
_SHA256 = re.compile(r"[0-9a-f]{64}")


_LONGEST_NAME = 200  # characters, all ASCII; file systems take 255 bytes


# Left free on the disk beside what is written.
RESERVE = 256 * 1024 * 1024


def require_room(home: Path, needed: int, *, subject: str, hint: str) -> None:
    """Raise `DiskFull` where less than ``needed`` bytes and a reserve are free."""
    free = shutil.disk_usage(home).free
    if free < needed + RESERVE:
        raise DiskFull(
            f"{subject} needs about {needed / 1e9:.1f} GB of disk, and {free / 1e9:.1f} GB are "
            "free.",
            hint=hint,
            values={"needed_bytes": needed, "free_bytes": free},
        )


def file_name(reference: str) -> str:
    """``reference`` as the beginning of a file name: percent-encoded; a long one cut, with its
    SHA-256.
    """
    name = urllib.parse.quote(reference, safe="")
    if len(name) > _LONGEST_NAME:
        name = name[:100] + hashlib.sha256(reference.encode()).hexdigest()
    return name


def is_sha256(text: str) -> bool:
    return _SHA256.fullmatch(text) is not None


@dataclass(frozen=True)
class FileRecord:
    """A digest and the file state it was computed from.

    As long as size, inode, mtime and ctime are the recorded ones, the digest is
    taken to hold; when any differs the file is hashed again.
    """

    sha256: str
    size: int
    inode: int
    mtime_ns: int
    ctime_ns: int

    def still_describes(self, path: Path) -> bool:
        """False also when the file is gone."""
        try:
            return self == record(path, self.sha256)
        except OSError:
            return False


def record(path: Path, sha256: str) -> FileRecord:
    state = path.stat()
    return FileRecord(sha256, state.st_size, state.st_ino, state.st_mtime_ns, state.st_ctime_ns)


def hash_file(path: Path, *, advance: Callable[[int], None] | None = None) -> str:
    """SHA-256 of a whole file; ``advance`` is told the bytes of each chunk."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            if advance:
                advance(len(chunk))
    return digest.hexdigest()


def require_file(path: Path) -> None:
    """Raise `UnsupportedFile` unless ``path`` is a readable regular file."""
    if path.is_dir():
        raise UnsupportedFile(f"{path} is a directory.", hint="Name one .gguf file inside it.")
    if not path.exists():
        raise UnsupportedFile(f"{path} does not exist.", hint="Check the path.")
    if not path.is_file():
        raise UnsupportedFile(f"{path} is not a regular file.")
    if not os.access(path, os.R_OK):
        raise UnsupportedFile(f"{path} may not be read by this user.")


def write_atomically(path: Path, data: bytes) -> None:
    """Replace ``path`` with ``data``, or leave it as it was. Raises `DiskFull`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with disk_full_is_ours(path.parent):
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".writing-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames inside ``folder`` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def disk_full_is_ours(folder: Path) -> Iterator[None]:
    """Turn the system's "no space left" into `DiskFull`."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(
                f"The disk that holds {folder} is full.",
                hint="Free some space (`freehold prune` helps) and run the command again; "
                "what has arrived is kept.",
            ) from error
        raise
