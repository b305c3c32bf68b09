"""The content-addressed store: blobs named by their SHA-256, and nothing else.

    HOME/
      store.json            {"version": 1}
      blobs/<sha256>        read-only, whole, hashed when it arrived
      records/<sha256>.json size, inode, mtime and ctime at that moment
      partial/<key>         bytes of a download under way, one writer at a time
      partial/<key>.lock    held by that writer
      manifests/            see `registry`
      locks/store.lock      shared by pulls, exclusive for prune

A blob appears by rename, after its digest was right and its bytes were synced;
whatever kills the process, a file under ``blobs`` is whole. A blob without a
record (killed between the two) is hashed again before use.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import filelock
import msgspec

from freehold.domain.errors import DigestMismatch, StoreBusy, Unavailable
from freehold.process.decoding import from_json
from freehold.weights.files import (
    FileRecord,
    disk_full_is_ours,
    hash_file,
    is_sha256,
    record,
    sync_folder,
    write_atomically,
)

STORE_VERSION = 1

# Version n -> what turns a store of version n into one of version n + 1. A step must
# be safe to run again: it may have been killed half-way.
MIGRATIONS: Mapping[int, Callable[[Path], None]] = {}


@dataclass(frozen=True)
class Blob:
    sha256: str
    path: Path
    size: int


class Store:
    """One store on disk. Any number of processes may use it at once."""

    def __init__(self, home: Path) -> None:
        self.home = home

    @classmethod
    def open(cls, home: Path) -> Store:
        """Create or migrate as needed. Raises `Unavailable` if that cannot be done."""
        store = cls(home)
        try:
            for folder in ("blobs", "records", "partial", "manifests", "locks", "state"):
                (home / folder).mkdir(parents=True, exist_ok=True)
            with filelock.FileLock(home / "locks" / "version.lock"):
                store._bring_up_to_date()
        except (FileExistsError, NotADirectoryError) as error:
            raise Unavailable(
                f"The store {home} cannot be used: {error.filename} is not a folder.",
                hint="Set FREEHOLD_HOME to a folder of yours.",
            ) from error
        except OSError as error:
            raise Unavailable(
                f"The store {home} cannot be written: {error.strerror}.",
                hint="Set FREEHOLD_HOME to a folder of yours.",
            ) from error
        return store

    def _bring_up_to_date(self) -> None:
        version = self._version()
        if version > STORE_VERSION:
            raise Unavailable(
                f"The store {self.home} was written by a newer freehold (format {version}).",
                hint="Upgrade freehold, or set FREEHOLD_HOME to another folder.",
            )
        while version < STORE_VERSION:
            if version > 0:
                MIGRATIONS[version](self.home)
            version += 1
            write_atomically(
                self.home / "store.json", json.dumps({"version": version}).encode() + b"\n"
            )

    def _version(self) -> int:
        try:
            return int(json.loads((self.home / "store.json").read_bytes())["version"])
        except FileNotFoundError:
            return 0  # new, or it lost the file: then every step runs, again if need be
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            raise Unavailable(
                f"{self.home / 'store.json'} is damaged.",
                hint=f'Its whole content should be {{"version": {STORE_VERSION}}}.',
            ) from error

    # Blobs

    def blob_path(self, sha256: str) -> Path:
        """Where a blob lives. Refuses anything but 64 lower-case hex digits."""
        if not is_sha256(sha256):
            raise ValueError(f"not a SHA-256: {sha256!r}")
        return self.home / "blobs" / sha256

    def has(self, sha256: str) -> bool:
        return self.blob_path(sha256).is_file()

    def blobs(self) -> tuple[Blob, ...]:
        found: list[Blob] = []
        for path in sorted((self.home / "blobs").iterdir()):
            if is_sha256(path.name):
                with contextlib.suppress(FileNotFoundError):  # removed since it was listed
                    found.append(Blob(path.name, path, path.stat().st_size))
        return tuple(found)

    def adopt(self, partial: Path, sha256: str) -> Path:
        """Make a finished partial a blob. The caller has verified its digest."""
        target = self.blob_path(sha256)
        with disk_full_is_ours(self.home):
            descriptor = os.open(partial, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            if partial.stat().st_nlink == 1:  # a hard link's mode is its other owner's too
                partial.chmod(0o444)
            partial.replace(target)
            sync_folder(target.parent)
            self._remember(record(target, sha256))
        return target

    def verify(self, sha256: str, *, advance: Callable[[int], None] | None = None) -> Path:
        """The blob's path, after making sure it still is what it was.

        Hashes the file again when its recorded state changed. Raises
        `DigestMismatch` if the content did.
        """
        path = self.blob_path(sha256)
        known = self._recall(sha256)
        if known is not None and known.still_describes(path):
            return path
        actual = hash_file(path, advance=advance)
        if actual != sha256:
            raise DigestMismatch(
                f"The stored file {path}",
                expected=sha256,
                actual=actual,
                file=path.name,
                hint="It was changed after it was fetched. Remove the model with "
                "`freehold rm` and pull it again.",
            )
        self._remember(record(path, sha256))
        return path

    def remove_blob(self, sha256: str) -> int:
        """Delete a blob and its record; returns the bytes freed."""
        path = self.blob_path(sha256)
        try:
            size = path.stat().st_size
            path.unlink()
        except FileNotFoundError:
            size = 0
        self._record_path(sha256).unlink(missing_ok=True)
        return size

    # Partial downloads

    @contextlib.contextmanager
    def partial(self, key: str, *, waiting: Callable[[], None]) -> Iterator[Path]:
        """Exclusive use of one partial file; ``waiting`` is called if another holds it."""
        path = self.home / "partial" / key
        lock = filelock.FileLock(self.home / "partial" / f"{key}.lock")
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            waiting()
            lock.acquire()
        try:
            if path.is_symlink():  # never ours: what is written there would go elsewhere
                path.unlink()
            yield path
        finally:
            lock.release()

    def partials(self) -> tuple[Path, ...]:
        return tuple(sorted(path for path in (self.home / "partial").iterdir()))

    # Who may delete

    @contextlib.contextmanager
    def pulling(self) -> Iterator[None]:
        """Held while a model arrives: its first blobs have no manifest yet."""
        with self._store_lock(fcntl.LOCK_SH):
            yield

    @contextlib.contextmanager
    def cleaning(self) -> Iterator[None]:
        """Held while unreferenced blobs are deleted. Raises `StoreBusy` during a pull."""
        try:
            with self._store_lock(fcntl.LOCK_EX | fcntl.LOCK_NB):
                yield
        except BlockingIOError:
            raise StoreBusy(
                "A pull is running; nothing was deleted.", hint="Try again when it has ended."
            ) from None

    @contextlib.contextmanager
    def _store_lock(self, how: int) -> Iterator[None]:
        with (self.home / "locks" / "store.lock").open("ab") as file:
            fcntl.flock(file, how)
            yield  # closing the file releases the lock, also when we are killed

    # Records

    def path_record(self, path: Path) -> FileRecord | None:
        """What is remembered of a file outside the store."""
        return _read_record(self._path_record_path(path))

    def remember_path(self, path: Path, known: FileRecord) -> None:
        write_atomically(self._path_record_path(path), msgspec.json.encode(known))

    def _path_record_path(self, path: Path) -> Path:
        state = path.stat()
        return self.home / "state" / "files" / f"{state.st_dev:x}-{state.st_ino:x}.json"

    def _record_path(self, sha256: str) -> Path:
        return self.home / "records" / f"{sha256}.json"

    def _recall(self, sha256: str) -> FileRecord | None:
        known = _read_record(self._record_path(sha256))
        return known if known is not None and known.sha256 == sha256 else None

    def _remember(self, known: FileRecord) -> None:
        write_atomically(self._record_path(known.sha256), msgspec.json.encode(known))


def _read_record(path: Path) -> FileRecord | None:
    try:
        return from_json(path.read_bytes(), FileRecord)
    except (OSError, msgspec.DecodeError):
        return None
