"""What must travel with the weights: licence texts, notices, and whose work it is.

    LICENSES/<licence>.txt   every text that binds, as it was found, else as it was published
    NOTICE                   copyright lines, duties, and what could not be found
    ATTRIBUTION              the lineage: what was made of what, under which licence

`plan` decides which files with which content; `write_notice` writes them, and never over a
file that says something else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from freehold.domain.errors import InvalidSetting, Unavailable
from freehold.trust import licences
from freehold.trust.facts import Evidence
from freehold.trust.licences import Notices
from freehold.trust.lock import Lock
from freehold.trust.verdict import Ancestor, Verdict
from freehold.weights.files import write_atomically
from freehold.weights.naming import is_path

StoredText = Callable[[str], bytes | None]
"""The licence text with a SHA-256, as it was fetched; None when it is not here."""

CanonicalText = Callable[[str], str | None]
"""The published text of a licence of the table; None when none comes with freehold."""

_FOLDER = "LICENSES"


@dataclass(frozen=True)
class NoticeFile:
    """``path`` is relative to the folder."""

    path: str
    data: bytes


@dataclass(frozen=True)
class NoticePlan:
    """The files, and in sentences what should be among them but could not be found."""

    files: tuple[NoticeFile, ...]
    missing: tuple[str, ...]


def plan(lock: Lock, verdict: Verdict, texts: StoredText, canonical: CanonicalText) -> NoticePlan:
    """Decide what to write; touches nothing but what the two callables read."""
    releases = tuple(_releases(verdict.lineage.root))
    collected = _collect(lock, releases, verdict, texts, canonical)
    missing = (*collected.missing, *_missing_copyrights(releases, verdict), *verdict.lineage.gaps)
    return NoticePlan(
        files=(
            *collected.files,
            NoticeFile("NOTICE", _notice(lock, verdict, releases, collected, missing)),
            NoticeFile("ATTRIBUTION", _attribution(lock, verdict)),
        ),
        missing=missing,
    )


def write_notice(
    folder: Path,
    lock: Lock,
    verdict: Verdict,
    texts: StoredText,
    *,
    canonical: CanonicalText,
) -> NoticePlan:
    """Write the plan into ``folder``, which is made if need be.

    Raises `InvalidSetting`, before anything is written, when a file of another content is in
    the way.
    """
    planned = plan(lock, verdict, texts, canonical)
    for file in planned.files:
        _require_free(folder, file)
    try:
        for file in planned.files:
            write_atomically(folder / file.path, file.data)
    except OSError as error:
        raise Unavailable(f"{folder} cannot be written: {error.strerror}.") from error
    return planned


def _require_free(folder: Path, file: NoticeFile) -> None:
    if not _is_free(folder, file):
        raise InvalidSetting(
            f"{folder / file.path} is in the way; what is not the same is never overwritten.",
            hint="Name an empty folder, or one that does not exist yet.",
        )


def _is_free(folder: Path, file: NoticeFile) -> bool:
    target = folder / file.path
    if any(place.is_symlink() for place in (target, target.parent) if place != folder):
        return False
    try:
        return target.read_bytes() == file.data
    except FileNotFoundError:
        return True
    except OSError:
        return False


# Licence texts


@dataclass(frozen=True)
class _Placed:
    """A text, where it goes, and the sentence that says what it is."""

    file: NoticeFile
    caption: str


@dataclass(frozen=True)
class _Collected:
    placed: tuple[_Placed, ...]
    missing: tuple[str, ...]

    @property
    def files(self) -> tuple[NoticeFile, ...]:
        return tuple(one.file for one in self.placed)


def _collect(
    lock: Lock,
    releases: tuple[Ancestor, ...],
    verdict: Verdict,
    texts: StoredText,
    canonical: CanonicalText,
) -> _Collected:
    """The text of every release that binds: its own file first, the published one failing that."""
    placed: dict[str, _Placed] = {}
    missing: list[str] = []
    found: set[str] = set()
    for licence, release, evidence in _licence_files(releases, verdict):
        data = texts(evidence.text_sha256) if evidence.text_sha256 else None
        if data is None:
            missing.append(f"The licence text at {evidence.origin} is not here any more.")
            continue
        found |= {licence} if licence else set()
        path = _free_path(placed, licence or "not-recognised", data)
        caption = f"{licence or 'not recognised'}, of {release.name}, as at {evidence.origin}"
        placed.setdefault(path, _Placed(NoticeFile(path, data), caption))
    for licence in _binding(verdict):
        if licence in found:
            continue
        text = canonical(licence)
        if text is None:
            missing.append(
                f"The text of the licence {licence} was not found; get it from its publisher."
            )
            continue
        path = _free_path(placed, licence, text.encode())
        caption = f"{licence}, as published; the model's own copy was not found"
        placed[path] = _Placed(NoticeFile(path, text.encode()), caption)
    _add_upstream(placed, lock, texts)
    return _Collected(tuple(placed.values()), tuple(dict.fromkeys(missing)))


def _add_upstream(placed: dict[str, _Placed], lock: Lock, texts: StoredText) -> None:
    """Notices and use policies that were found beside the licences: they travel as they are."""
    there = {hashlib.sha256(one.file.data).hexdigest() for one in placed.values()}
    for text in lock.texts:
        name = text.origin.rpartition(":")[2]
        data = texts(text.sha256) if text.sha256 not in there else None
        if data is not None and not name.casefold().startswith(("licen", "copying")):
            path = _free_path(placed, name.partition(".")[0].lower(), data)
            placed[path] = _Placed(NoticeFile(path, data), f"{name}, as at {text.origin}")


def _licence_files(
    releases: Iterable[Ancestor], verdict: Verdict
) -> Iterator[tuple[str | None, Ancestor, Evidence]]:
    """Licence files of texts that bind; one nobody recognised may bind, so it comes along."""
    binding = _binding(verdict)
    for release in releases:
        for weighed in release.evidence:
            binds = weighed.licence is None or weighed.licence in binding
            if weighed.evidence.text_sha256 is not None and binds:
                yield weighed.licence, release, weighed.evidence


def _free_path(placed: dict[str, _Placed], licence: str, data: bytes) -> str:
    """Where a text goes. Copies of one licence that differ (by their copyright line) all go in."""
    stem = licence if is_path(licence) and "/" not in licence else "licence"
    path = f"{_FOLDER}/{stem}.txt"
    if path in placed and placed[path].file.data != data:
        path = f"{_FOLDER}/{stem}-{hashlib.sha256(data).hexdigest()[:12]}.txt"
    return path


def _binding(verdict: Verdict) -> tuple[str, ...]:
    return tuple(dict.fromkeys(verdict.licences))


# The notice


def _notice(
    lock: Lock,
    verdict: Verdict,
    releases: tuple[Ancestor, ...],
    collected: _Collected,
    missing: Sequence[str],
) -> bytes:
    copyrights = [f"{line} ({name})" for name, line in _copyrights(releases)]
    duties = [f"{duty.text} ({duty.licence}, {duty.release})" for duty in verdict.serve.duties]
    captions = [f"{one.file.path}: {one.caption}" for one in collected.placed]
    return _document(
        f"Notices for {lock.reference}",
        [
            "This file and those beside it belong with every copy of the weights. It says what "
            "was found, not what the law is.",
        ],
        {
            "Copyright": copyrights,
            "Licence texts": captions,
            "To do when serving the model to others or passing it on": duties,
            "Terms replaced by their own licensor": verdict.overrides,
            "Not found": missing,
        },
    )


def _missing_copyrights(releases: tuple[Ancestor, ...], verdict: Verdict) -> Iterator[str]:
    stated = {name for name, _ in _copyrights(releases)}
    binding = _binding(verdict)
    for release in releases:
        if release.licence is None or release.licence not in binding or release.name in stated:
            continue
        row = licences.bundled().get(release.licence)
        if row is not None and row.notices is Notices.TEXT_AND_COPYRIGHT:
            yield (
                f"No copyright line was found for {release.name}, whose licence {release.licence} "
                "asks for one; its publisher can tell."
            )


def _copyrights(releases: Iterable[Ancestor]) -> list[tuple[str, str]]:
    """Pairs of release and copyright line, each once."""
    found = (
        (release.name, weighed.evidence.copyright)
        for release in releases
        for weighed in release.evidence
    )
    return list(dict.fromkeys((name, line) for name, line in found if line))


# The attribution


def _attribution(lock: Lock, verdict: Verdict) -> bytes:
    fetched = [
        f"from {lock.source}" + (f" at commit {lock.commit}" if lock.commit else ""),
        f"on {lock.fetched_at}",
        *(f"{file.path}, {file.size} bytes, SHA-256 {file.sha256}" for file in lock.files),
    ]
    return _document(
        f"Where {lock.reference} comes from",
        [],
        {
            "Fetched": fetched,
            "Made of": list(_tree(verdict.lineage.root, 0)),
            "Gaps in what is known": verdict.lineage.gaps,
        },
    )


def _tree(release: Ancestor, depth: int) -> Iterator[str]:
    commit = f" at commit {release.commit}" if release.commit else ""
    licence = release.licence or ("no licence recognised" if release.known else "not read")
    relation = f", {release.relation} of:" if release.relation and release.parents else ""
    yield f"{'  ' * depth}{_line(release.name)}{commit} ({licence}){relation}"
    for parent in release.parents:
        yield from _tree(parent, depth + 1)


def _releases(root: Ancestor) -> Iterator[Ancestor]:
    """The model and its ancestors, each once, nearest first."""
    seen: set[str] = set()
    waiting = [root]
    while waiting:
        release = waiting.pop(0)
        if release.name not in seen:
            seen.add(release.name)
            yield release
            waiting += release.parents


def _document(title: str, opening: Iterable[str], sections: dict[str, Sequence[str]]) -> bytes:
    """Plain text; a section without entries is left out."""
    title = _line(title)
    lines = [title, "=" * len(title)]
    for paragraph in opening:
        lines += ["", _line(paragraph)]
    for heading, entries in sections.items():
        if entries:
            lines += ["", heading, "-" * len(heading), *(f"- {_entry(each)}" for each in entries)]
    return ("\n".join(lines) + "\n").encode()


def _entry(text: str) -> str:
    indent = len(text) - len(text.lstrip(" "))
    return " " * indent + _line(text)


def _line(text: str) -> str:
    """One line: what strangers wrote must not look like a section of ours."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
