"""A lock against another lock, and against the files that are here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from freehold.domain.errors import DigestMismatch, RefusedFile
from freehold.trust.lock import Lock
from freehold.weights.registry import ModelFile

_ONLY_THESE = (
    "A locked model is used as it was locked or not at all. Fetch the files of the lock, "
    "or make a new lock if the change is wanted."
)


def differences(lock: Lock, other: Lock) -> tuple[str, ...]:
    """What ``other`` has otherwise than ``lock``, in sentences; empty when they mean the same.

    Who decided what, and when and with which version something was fetched, is no difference
    of models.
    """
    return (
        *_changed("model", lock.reference, other.reference),
        *_changed("source", lock.source, other.source),
        *_changed("commit", lock.commit, other.commit),
        *_file_differences(lock, other),
        *_changed("chat template's SHA-256", lock.template_sha256, other.template_sha256),
        *_text_differences(lock, other),
        *_release_differences(lock, other),
    )


def require_locked(lock: Lock, files: Sequence[ModelFile], template_sha256: str | None) -> None:
    """Raise unless ``files``, in their order, are the bytes of ``lock``, with its template.

    Names do not matter, a blob in the store has none. Raises `DigestMismatch` or `RefusedFile`
    about the first difference.
    """
    if len(files) != len(lock.files):
        raise RefusedFile(
            f"{lock.reference} is locked to {_files(len(lock.files))}, but has "
            f"{_files(len(files))} here.",
            hint=_ONLY_THESE,
        )
    for locked, file in zip(lock.files, files, strict=True):
        if file.sha256 != locked.sha256:
            raise DigestMismatch(
                f"{locked.path} of {lock.reference}",
                expected=locked.sha256,
                actual=file.sha256,
                hint=_ONLY_THESE,
            )
        if file.size != locked.size:
            raise RefusedFile(
                f"{locked.path} of {lock.reference} has {file.size:,} bytes, "
                f"but the lock says {locked.size:,}.",
                hint=_ONLY_THESE,
            )
    _require_template(lock, template_sha256)


def _require_template(lock: Lock, template_sha256: str | None) -> None:
    if template_sha256 == lock.template_sha256:
        return
    if template_sha256 is None or lock.template_sha256 is None:
        has, locked = (
            ("no chat template", "with one")
            if template_sha256 is None
            else ("a chat template", "without one")
        )
        raise RefusedFile(f"{lock.reference} has {has}, but is locked {locked}.", hint=_ONLY_THESE)
    raise DigestMismatch(
        f"The chat template of {lock.reference}",
        expected=lock.template_sha256,
        actual=template_sha256,
        hint=_ONLY_THESE,
    )


def _files(count: int) -> str:
    return "1 file" if count == 1 else f"{count} files"


def _changed(what: str, before: str | None, after: str | None) -> Iterator[str]:
    if before != after:
        yield f"The {what} was {before or 'none'} and is {after or 'none'}."


def _file_differences(lock: Lock, other: Lock) -> Iterator[str]:
    before = {file.path: file for file in lock.files}
    after = {file.path: file for file in other.files}
    for path in sorted(before.keys() - after.keys()):
        yield f"The file {path} is gone."
    for path in sorted(after.keys() - before.keys()):
        yield f"The file {path} is new."
    both = [path for path in before if path in after]
    for path in both:
        yield from _changed(f"SHA-256 of {path}", before[path].sha256, after[path].sha256)
        yield from _changed(f"size of {path}", f"{before[path].size}", f"{after[path].size}")
    if both != [path for path in after if path in before]:
        yield "The files are in another order."


def _text_differences(lock: Lock, other: Lock) -> Iterator[str]:
    before = {(text.origin, text.sha256) for text in lock.texts}
    after = {(text.origin, text.sha256) for text in other.texts}
    for origin, sha256 in sorted(before - after):
        yield f"The licence text {origin} (SHA-256 {sha256}) is gone."
    for origin, sha256 in sorted(after - before):
        yield f"The licence text {origin} (SHA-256 {sha256}) is new."


def _release_differences(lock: Lock, other: Lock) -> Iterator[str]:
    before = {release.name: release for release in lock.releases}
    after = {release.name: release for release in other.releases}
    for name in sorted(before.keys() - after.keys()):
        yield f"The lineage has no {name} any more."
    for name in sorted(after.keys() - before.keys()):
        yield f"The lineage has {name} now."
    for name in sorted(before.keys() & after.keys()):
        one, two = before[name], after[name]
        yield from _changed(f"commit of {name}", one.commit, two.commit)
        if (one.parents, one.relation) != (two.parents, two.relation):
            yield f"What {name} was made of is stated otherwise."
        if set(one.evidence) != set(two.evidence):
            yield f"What is stated about the licence of {name} differs."
