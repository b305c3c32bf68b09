"""Facts about a model and its ancestors, asked of the hub one repository at a time.

    the model ──ask──► card, licence files ──► its parents ──ask──► … bounded in depth and number

A repository that cannot be asked stays what the catalogue says of it, or nothing.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import msgspec

from freehold.domain.errors import FreeholdError, SourceUnavailable
from freehold.process.decoding import from_json
from freehold.trust.facts import Rank, Release
from freehold.trust.lock import KeptText
from freehold.trust.statements import merged, of_repository
from freehold.weights.documents import TEMPLATE, TOKENIZER, Documents, is_licence_text
from freehold.weights.naming import is_repository

MAX_DEPTH = 8
MAX_RELEASES = 32

Ask = Callable[[str, str | None], Documents]


@dataclass(frozen=True)
class Gathered:
    """``releases``: the model first. ``texts``: licence files, to be kept; ``templates``: chat
    templates. ``notes``: what could not be asked, and why.
    """

    releases: tuple[Release, ...]
    texts: tuple[tuple[KeptText, bytes], ...] = ()
    templates: tuple[tuple[KeptText, bytes], ...] = ()
    notes: tuple[str, ...] = ()


def gather(known: Sequence[Release], commit: str | None, ask: Ask | None) -> Gathered:
    """Walk from ``known[0]``, whose repository is at ``commit``. ``ask`` None asks nobody.

    ``known`` is what the catalogue and the manifest say; several entries may be about one release.
    """
    said: dict[str, Release] = {}
    for each in known:
        said[each.name] = merged(said[each.name], each) if each.name in said else each
    start = known[0].name
    questions = _Questions(ask)
    releases: dict[str, Release] = {}
    queue = deque([(start, 0)])
    while queue and len(releases) < MAX_RELEASES:
        name, depth = queue.popleft()
        if name in releases:
            continue
        release = _joined(questions.put(name, commit if depth == 0 else None), said.get(name))
        if release is None:
            continue  # nothing is known of it: a gap in the lineage
        releases[name] = release
        if depth < MAX_DEPTH:
            queue.extend((parent, depth + 1) for parent in release.parents)
    found = tuple(releases.values()) or (said[start],)
    return Gathered(
        found, tuple(questions.texts), tuple(questions.templates), tuple(questions.notes)
    )


class _Questions:
    """What the hub answers, until it cannot be reached."""

    def __init__(self, ask: Ask | None) -> None:
        self.texts: list[tuple[KeptText, bytes]] = []
        self.templates: list[tuple[KeptText, bytes]] = []
        self.notes: list[str] = []
        self._ask = ask

    def put(self, name: str, revision: str | None) -> Release | None:
        """None: it was not asked, or could not say; `notes` tell why."""
        if self._ask is None or not is_repository(name):
            return None
        try:
            documents = self._ask(name, revision)
        except SourceUnavailable as error:
            self.notes.append(f"{error.message} Nothing more is asked.")
            self._ask = None
            return None
        except FreeholdError as error:
            self.notes.append(error.message)
            return None
        self.texts += _licences(documents)
        self.templates += _templates(documents)
        self.notes += [f"{name}: {each}" for each in documents.missing]
        return of_repository(name, documents.commit, documents.texts, documents.card)


# What the catalogue and the manifest say is what some card said at some time.
_SECOND_HAND = (Rank.CARD, Rank.CATALOGUE)


def _joined(found: Release | None, release: Release | None) -> Release | None:
    """What was known counts only as far as the repository itself says nothing."""
    if found is None or release is None:
        return found or release
    if found.evidence:
        own = tuple(each for each in release.evidence if each.rank not in _SECOND_HAND)
        release = Release(release.name, own, None, release.parents, release.relation)
    return merged(found, release)


def _licences(documents: Documents) -> Iterator[tuple[KeptText, bytes]]:
    for name, data in documents.texts.items():
        if is_licence_text(name):
            yield _kept(documents, name, data), data


def _templates(documents: Documents) -> Iterator[tuple[KeptText, bytes]]:
    """The chat template of a repository, the file before the tokenizer's configuration."""
    if TEMPLATE in documents.texts:
        data = documents.texts[TEMPLATE]
        yield _kept(documents, TEMPLATE, data), data
    elif template := _configured(documents.texts.get(TOKENIZER, b"")):
        yield _kept(documents, f"{TOKENIZER}#chat_template", template), template


class _Tokenizer(msgspec.Struct):
    chat_template: str | None = None


def _configured(data: bytes) -> bytes | None:
    """None also where a stranger's configuration is not what it should be."""
    try:
        template = from_json(data, _Tokenizer).chat_template
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return template.encode("utf-8", "replace") if template else None


def _kept(documents: Documents, name: str, data: bytes) -> KeptText:
    place = f"hf:{documents.repository}@{documents.commit}"
    return KeptText(f"{place}:{name}", hashlib.sha256(data).hexdigest())
