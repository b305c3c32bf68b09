"""The lock of a model: which bytes were fetched, from where, and what was stated about them.

A lock is one JSON document in the canonical form of RFC 8785, so equal locks are equal
bytes and one digest or signature names one content. Locks travel between machines, so
reading believes nothing a lock says about its own size, paths or digests.
"""

from __future__ import annotations

import datetime
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import msgspec
import rfc8785
from msgspec import UNSET, UnsetType

from freehold.domain.errors import InvalidLock, RefusedFile
from freehold.process.decoding import from_json
from freehold.trust.facts import Release
from freehold.trust.policy import Decision
from freehold.weights.files import is_sha256
from freehold.weights.naming import is_path
from freehold.weights.registry import Manifest

LOCK_FORMAT = 1
MAX_LOCK_BYTES = 4 << 20

_COMMIT = re.compile(r"[0-9a-f]{40}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)", re.ASCII)

Line = Annotated[str, msgspec.Meta(min_length=1, max_length=2048)]
# RFC 8785 writes numbers as doubles: above this, neighbours would be one number.
Size = Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)]


class LockedFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file of weights; ``path`` is what it was called at its source."""

    path: Line
    size: Size
    sha256: str


class KeptText(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A licence or a template that was found; its bytes are kept by `locks.Texts`."""

    origin: Line
    sha256: str


class Lock(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a model is, down to the byte.

    ``source`` is where its files came from, ``commit`` the 40 hex digits of the hub's commit,
    ``template_sha256`` the digest of the chat template in the header (None: it has none);
    ``texts`` are licences and notices, ``templates`` the chat templates of its ancestors. The
    first of ``releases`` is the model itself. ``fetched_at`` is ISO 8601 with its offset.
    ``derived_from`` is the digest of the file that this one was made of here, by requantising.
    """

    format: int = LOCK_FORMAT
    reference: Line
    source: Line
    commit: str | None = None
    files: Annotated[tuple[LockedFile, ...], msgspec.Meta(min_length=1, max_length=1000)]
    template_sha256: str | None = None
    texts: Annotated[tuple[KeptText, ...], msgspec.Meta(max_length=500)] = ()
    templates: Annotated[tuple[KeptText, ...], msgspec.Meta(max_length=500)] = ()
    releases: Annotated[tuple[Release, ...], msgspec.Meta(min_length=1, max_length=500)]
    decisions: Annotated[tuple[Decision, ...], msgspec.Meta(max_length=1000)] = ()
    tool_version: Line
    fetched_at: str
    # Left out of the bytes where it does not apply: locks made before it was known stay the same.
    derived_from: str | UnsetType = UNSET


class _Versioned(msgspec.Struct):
    format: int


def lock_of(
    manifest: Manifest,
    *,
    template: str | None,
    releases: tuple[Release, ...],
    texts: tuple[KeptText, ...] = (),
    templates: tuple[KeptText, ...] = (),
) -> Lock:
    """The lock of a fetched model. ``template`` is the chat template in its header."""
    return Lock(
        reference=manifest.reference,
        source=manifest.origin,
        commit=manifest.revision if _is_commit(manifest.revision) else None,
        files=tuple(
            # What another program called a file may be no acceptable path; bytes decide anyway.
            LockedFile(
                file.name if is_path(file.name) else f"{file.sha256}.gguf", file.size, file.sha256
            )
            for file in manifest.files
        ),
        template_sha256=template_digest(template),
        texts=texts,
        templates=templates,
        releases=releases,
        tool_version=manifest.tool_version,
        fetched_at=manifest.fetched_at,
        derived_from=manifest.derived_from or UNSET,
    )


def template_digest(template: str | None) -> str | None:
    """SHA-256 of a chat template as a lock has it."""
    return None if template is None else hashlib.sha256(template.encode()).hexdigest()


def with_decision(lock: Lock, decision: Decision) -> Lock:
    """The lock with one decision more. A signature of the old one does not cover it."""
    return msgspec.structs.replace(lock, decisions=(*lock.decisions, decision))


# Bytes


def encode(lock: Lock) -> bytes:
    """The canonical bytes. Raises `InvalidLock` for what `decode` would refuse."""
    try:
        data = rfc8785.dumps(msgspec.to_builtins(lock))
    except (rfc8785.CanonicalizationError, UnicodeEncodeError) as error:
        raise InvalidLock(f"The lock cannot be written: {error}.") from error
    decode(data)
    return data


def digest(lock: Lock) -> str:
    """SHA-256 of the canonical bytes."""
    return hashlib.sha256(encode(lock)).hexdigest()


def decode(data: bytes, *, what: str = "The lock") -> Lock:
    """Read a lock; ``what`` is what messages call it. Raises `InvalidLock`.

    The JSON may be written in any way; what counts is its content.
    """
    if len(data) > MAX_LOCK_BYTES:
        raise InvalidLock(f"{what} is larger than {MAX_LOCK_BYTES:,} bytes; it will not be read.")
    try:
        version = from_json(data, _Versioned).format
        if version > LOCK_FORMAT:
            raise InvalidLock(
                f"{what} was written by a newer freehold (format {version}).",
                hint="Upgrade freehold, or ask for a lock of the older format.",
            )
        lock = from_json(data, Lock)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _damaged(what, f"it is not what a lock looks like: {error}") from error
    for fault in _faults(lock):
        raise _damaged(what, fault)
    return lock


def read(path: Path) -> Lock:
    """The lock in a file. Raises `RefusedFile`."""
    return decode(read_bounded(path, MAX_LOCK_BYTES), what=str(path))


def read_bounded(path: Path, limit: int) -> bytes:
    """At most ``limit`` bytes of ``path`` and one more, so too long a file shows.

    Raises `RefusedFile` when it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(limit + 1)
    except OSError as error:
        raise RefusedFile(f"{path} cannot be read: {error.strerror}.") from error


def _faults(lock: Lock) -> Iterator[str]:
    if lock.format != LOCK_FORMAT:
        yield f"there is no format {lock.format}"
    if lock.commit is not None and not _is_commit(lock.commit):
        yield f"{lock.commit!r} is not a commit; a branch or a tag may change"
    if not _is_time(lock.fetched_at):
        yield f"{lock.fetched_at!r} is not a time"
    if lock.derived_from is not UNSET:
        yield from _digest_faults(lock.derived_from)
    if lock.template_sha256 is not None:
        yield from _digest_faults(lock.template_sha256)
    yield from _file_faults(lock)
    yield from _release_faults(lock)
    for text in (*lock.texts, *lock.templates):
        yield from _digest_faults(text.sha256)
    for decision in lock.decisions:
        if not _is_time(decision.when):
            yield f"{decision.when!r} is not a time"


def _file_faults(lock: Lock) -> Iterator[str]:
    paths = [file.path for file in lock.files]
    for path in paths:
        if not is_path(path):
            yield f"{path!r} is not an acceptable file name"
    if len(set(paths)) < len(paths):
        yield "it lists a file twice"
    for file in lock.files:
        yield from _digest_faults(file.sha256)


def _release_faults(lock: Lock) -> Iterator[str]:
    names = [release.name for release in lock.releases]
    if len(set(names)) < len(names):
        yield "it lists a release twice"
    for release in lock.releases:
        if release.commit is not None and not _is_commit(release.commit):
            yield f"{release.commit!r} is not a commit"
        for evidence in release.evidence:
            for sha256 in (evidence.text_sha256, evidence.normalised_sha256):
                if sha256 is not None:
                    yield from _digest_faults(sha256)


def _digest_faults(sha256: str) -> Iterator[str]:
    if not is_sha256(sha256):
        yield f"{sha256!r} is not a SHA-256"


def _is_commit(text: str | None) -> bool:
    return text is not None and _COMMIT.fullmatch(text) is not None


def _is_time(text: str) -> bool:
    if not _TIME.fullmatch(text):
        return False
    try:
        datetime.datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def _damaged(what: str, fault: str) -> InvalidLock:
    return InvalidLock(
        f"{what} is damaged: {fault}.",
        hint="Make it anew on a machine that has the model: freehold lock REFERENCE",
    )
