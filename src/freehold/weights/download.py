"""From a source's bytes to a blob: resume, hash, sync, rename.

    partial exists? → hash what is there → stream the rest from a source
                                             │ dropped: again from where it stopped
                                             │ unavailable: the next source
                                             ▼
                    size and SHA-256 right? → rename to blobs/<sha256>
                          no → delete the partial; the next source

Since the digest says which bytes are wanted, a partial may be finished by any
source of the same file. Where no digest is known in advance (rare: every large file
on the hub has one) a partial belongs to its origin and revision.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from freehold.domain.error_values import known
from freehold.domain.errors import (
    CannotResume,
    DigestMismatch,
    DiskFull,
    FreeholdError,
    GatedModel,
    InvalidModelFile,
    NotFound,
    SourceUnavailable,
)
from freehold.weights.files import CHUNK, disk_full_is_ours
from freehold.weights.progress import Progress
from freehold.weights.registry import ModelFile
from freehold.weights.sources.base import Offer, RemoteFile, Source
from freehold.weights.store import Store

log = logging.getLogger(__name__)

ATTEMPTS_PER_SOURCE = 4
FIRST_PAUSE_SECONDS = 0.5
# Kept free beside the download: manifests, records, and the rest of the system.
DISK_MARGIN = 64 * 1024 * 1024


@dataclass(frozen=True)
class Fetched:
    """A model that arrived: its files in order, and the offer they came from."""

    files: tuple[ModelFile, ...]
    offer: Offer


class Downloader:
    """Fetches offers into one store. ``pause`` waits between attempts (tests make it instant)."""

    def __init__(
        self,
        store: Store,
        progress: Progress,
        *,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._store = store
        self._progress = progress
        self._pause = pause

    def fetch(self, sources: Sequence[Source]) -> Fetched:
        """The first source that delivers the right bytes will do.

        Raises the most telling of their errors when none does.
        """
        failures: list[FreeholdError] = []
        for source in sources:
            if failures:
                self._progress.note(f"{failures[-1].message} Trying the {source.description}.")
            try:
                offer = source.resolve()
                self._check_room(offer)
                files = tuple(self._fetch_file(source, file, offer) for file in offer.files)
            except (SourceUnavailable, GatedModel, NotFound, DigestMismatch) as error:
                log.info("source %s failed: %s", source.description, error)
                failures.append(error)
            else:
                return Fetched(files, offer)
        raise _most_telling(failures)

    def _fetch_file(self, source: Source, file: RemoteFile, offer: Offer) -> ModelFile:
        key = file.sha256 or _key_without_digest(file, offer)
        with self._store.partial(key, waiting=self._say_waiting) as partial:
            if file.sha256 is not None and self._store.has(file.sha256):
                path = self._store.verify(file.sha256)
                return ModelFile(file.name, path.stat().st_size, file.sha256)
            resumed = partial.exists()
            digest, size = self._complete(source, file, partial)
            if resumed and file.sha256 not in (None, digest):
                # A power cut can leave a partial whose bytes never reached the disk.
                self._progress.note("What an earlier attempt left is damaged; starting over.")
                partial.unlink(missing_ok=True)
                digest, size = self._complete(source, file, partial)
            self._check_promises(file, partial, digest, size)
            self._store.adopt(partial, digest)
            return ModelFile(file.name, size, digest)

    def _complete(self, source: Source, file: RemoteFile, partial: Path) -> tuple[str, int]:
        """Bring ``partial`` to its full length; returns its SHA-256 and size."""
        digest = hashlib.sha256()
        done = _rehash(partial, digest, file.size)
        self._progress.begin(file.name, file.size, done)
        try:
            for attempt in range(ATTEMPTS_PER_SOURCE):
                try:
                    done += self._append(source, file, partial, done, digest)
                except CannotResume as error:
                    self._progress.note(f"{error.message} It is fetched from the beginning.")
                    partial.unlink()
                    done, digest = 0, hashlib.sha256()
                except SourceUnavailable as error:
                    arrived = partial.stat().st_size if partial.exists() else 0
                    if attempt + 1 == ATTEMPTS_PER_SOURCE or (arrived == done and attempt > 0):
                        error.values = known(error.values, file=file.name)
                        raise
                    done = arrived
                    log.info("%s; resuming at byte %d", error, done)
                    self._pause(FIRST_PAUSE_SECONDS * 2**attempt)
                else:
                    break
        finally:
            self._progress.end()
        return digest.hexdigest(), done

    def _append(
        self,
        source: Source,
        file: RemoteFile,
        partial: Path,
        offset: int,
        digest: hashlib._Hash,
    ) -> int:
        """Stream from ``offset`` on. What arrived is on disk and hashed even if this raises."""
        if file.size is not None and offset == file.size:
            return 0
        count = 0
        with disk_full_is_ours(partial.parent), partial.open("ab") as out:
            with source.stream(file, offset) as chunks:
                for chunk in chunks:
                    if file.size is not None and offset + count + len(chunk) > file.size:
                        raise SourceUnavailable(
                            f"{source.description} sends more than the {file.size} bytes that "
                            f"{file.name} should have.",
                            values={"file": file.name},
                        )
                    out.write(chunk)
                    out.flush()
                    digest.update(chunk)
                    count += len(chunk)
                    self._progress.advance(len(chunk))
            if file.size is not None and offset + count < file.size:
                raise SourceUnavailable(
                    f"{source.description} ended {file.name} after {offset + count} of "
                    f"{file.size} bytes.",
                    values={"file": file.name},
                )
        return count

    def _check_promises(self, file: RemoteFile, partial: Path, digest: str, size: int) -> None:
        if file.sha256 is not None and digest != file.sha256:
            partial.unlink(missing_ok=True)
            raise DigestMismatch(
                f"{file.name} as it arrived",
                expected=file.sha256,
                actual=digest,
                file=file.name,
                hint="The source does not hold the promised file. Nothing was kept.",
            )
        if size == 0:
            partial.unlink(missing_ok=True)
            raise InvalidModelFile(
                f"{file.name} is empty at its source.", values={"file": file.name}
            )

    def _check_room(self, offer: Offer) -> None:
        needed = sum(
            file.size
            for file in offer.files
            if file.size is not None and not (file.sha256 and self._store.has(file.sha256))
        )
        here = sum(
            path.stat().st_size
            for file in offer.files
            if (path := self._store.home / "partial" / (file.sha256 or "-")).is_file()
        )
        free = shutil.disk_usage(self._store.home).free
        if needed - here + DISK_MARGIN > free:
            raise DiskFull(
                f"{offer.origin} needs {_gigabytes(needed - here)} more and the disk of "
                f"{self._store.home} has {_gigabytes(free)} free.",
                hint="Free some space (`freehold prune` helps), or set FREEHOLD_HOME to a folder "
                "on another disk.",
                values={"needed_bytes": needed - here, "free_bytes": free},
            )

    def _say_waiting(self) -> None:
        self._progress.note("Another pull is fetching this file; waiting for it.")


def _rehash(partial: Path, digest: hashlib._Hash, size: int | None) -> int:
    """Feed what an earlier attempt left to ``digest``; a partial that is too long is dropped."""
    if not partial.exists():
        return 0
    length = partial.stat().st_size
    if size is not None and length > size:
        partial.unlink()
        return 0
    with partial.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return length


def _key_without_digest(file: RemoteFile, offer: Offer) -> str:
    identity = f"{offer.origin}\n{offer.revision}\n{file.name}\n{file.size}"
    return f"origin-{hashlib.sha256(identity.encode()).hexdigest()}"


def _most_telling(failures: Sequence[FreeholdError]) -> FreeholdError:
    """A wrong digest or a gate says more than an unreachable host."""
    for kind in (DigestMismatch, GatedModel, NotFound):
        for failure in failures:
            if isinstance(failure, kind):
                return failure
    return failures[0]


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.2f} GB"
