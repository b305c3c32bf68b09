"""Facts about a model and its ancestors, asked of the hub one repository at a time.

    the model ──ask──► card, licence files ──► its parents ──ask──► … bounded in depth and number

A repository that cannot be asked stays what the catalogue says of it, or nothing.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from freehold.domain.errors import FreeholdError, InvalidReference, SourceUnavailable
from freehold.trust.facts import Rank, Release
from freehold.trust.lock import LicenceText
from freehold.trust.statements import merged, of_repository
from freehold.weights.naming import require_repository
from freehold.weights.documents import CARD, Documents

MAX_DEPTH = 8
MAX_RELEASES = 32

Ask = Callable[[str, str | None], Documents]


@dataclass(frozen=True)
class Gathered:
    """``releases``: the model first. ``texts``: licence files, to be kept. ``notes``: what could
    not be asked, and why.
    """

    releases: tuple[Release, ...]
    texts: tuple[tuple[LicenceText, bytes], ...] = ()
    notes: tuple[str, ...] = ()


def gather(known: Sequence[Release], commit: str | None, ask: Ask | None) -> Gathered:
    """Walk from ``known[0]``, whose repository is at ``commit``. ``ask`` None asks nobody.

    ``known`` is what the catalogue and the manifest say; several entries may be about one release.
    """
    said: dict[str, Release] = {}
    for each in known:
        said[each.name] = merged(said[each.name], each) if each.name in said else each
    releases: dict[str, Release] = {}
    texts: list[tuple[LicenceText, bytes]] = []
    notes: list[str] = []
    queue = deque([(known[0].name, 0)])
    while queue and len(releases) < MAX_RELEASES:
        name, depth = queue.popleft()
        if name in releases:
            continue
        release = said.get(name)
        if ask is not None and _is_repository(name):
            try:
                documents = ask(name, commit if depth == 0 else None)
            except SourceUnavailable as error:
                notes.append(f"{error.message} Nothing more is asked.")
                ask = None
            except FreeholdError as error:
                notes.append(error.message)
            else:
                found = of_repository(
                    name, documents.commit, documents.texts, documents.card
                )
                release = _joined(found, release)
                texts += _kept(documents)
                notes += [f"{name}: {each}" for each in documents.missing]
        if release is None:
            continue  # nothing is known of it: a gap in the lineage
        releases[name] = release
        if depth < MAX_DEPTH:
            queue.extend((parent, depth + 1) for parent in release.parents)
    if not releases:
        releases[known[0].name] = said[known[0].name]
    return Gathered(tuple(releases.values()), tuple(texts), tuple(notes))


# What the catalogue and the manifest say is what some card said at some time.
_SECOND_HAND = (Rank.CARD, Rank.CATALOGUE)


def _joined(found: Release, release: Release | None) -> Release:
    """What was known counts only as far as the repository itself says nothing."""
    if release is None:
        return found
    if found.evidence:
        own = tuple(each for each in release.evidence if each.rank not in _SECOND_HAND)
        release = Release(release.name, own, None, release.parents, release.relation)
    return merged(found, release)


def _kept(documents: Documents) -> list[tuple[LicenceText, bytes]]:
    place = f"hf:{documents.repository}@{documents.commit}"
    return [
        (LicenceText(f"{place}:{name}", hashlib.sha256(data).hexdigest()), data)
        for name, data in documents.texts.items()
        if name != CARD
    ]


def _is_repository(name: str) -> bool:
    try:
        require_repository(name)
    except InvalidReference:
        return False
    return True
