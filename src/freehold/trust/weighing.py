"""What one release is under: its evidence recognised, ranked, and compared.

The licence file counts most, then the card, the file's header and the catalogue. Levels that
disagree are a conflict; where the strongest that says anything is not recognised, nothing
weaker makes up for it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from freehold.domain.sentences import Sentence, said
from freehold.trust import licence_text
from freehold.trust.facts import Evidence, Rank, Release
from freehold.trust.licences import Licence, Licences, Terms, severity
from freehold.trust.verdict import Outcome, Use, Weighed

BOTH = frozenset(Use)
_RANKS = tuple(Rank)
_SAYS_NOTHING = frozenset({"other", "unknown"})  # the hub's own words for it


@dataclass(frozen=True)
class Finding:
    """Something that speaks against a release, or is worth saying about it.

    ``labelling``: it is wrong with how the release is labelled, not with what it is under.
    """

    outcome: Outcome
    text: Sentence
    release: str
    uses: frozenset[Use] = BOTH
    labelling: bool = False


@dataclass(frozen=True)
class Statement:
    """What the evidence of one release comes to.

    ``licences`` bind whoever has the release; ``ids`` are all those named, of alternatives too.
    ``terms`` is what the strongest recognised level says, for sentences.
    """

    release: str
    weighed: tuple[Weighed, ...]
    terms: Terms | None
    licences: tuple[Licence, ...]
    ids: frozenset[str]
    findings: tuple[Finding, ...]
    has_text: bool
    has_copyright: bool

    @property
    def licence(self) -> str | None:
        return self.terms.name if self.terms is not None else None

    def agrees_with(self, other: Statement) -> bool:
        """The same licences, or a name without a version on one side that the other can mean."""
        return (
            self.ids == other.ids
            or any(other.ids <= frozenset(row.covers) for row in self.licences)
            or any(self.ids <= frozenset(row.covers) for row in other.licences)
        )

    @property
    def is_silent(self) -> bool:
        """Nothing read about the release says anything about a licence."""
        return not any(_says_something(weighed.evidence) for weighed in self.weighed)


@dataclass(frozen=True)
class _Said:
    evidence: Evidence
    terms: Terms | None


def weigh(release: Release, table: Licences) -> Statement:
    """Recognise and compare all evidence about ``release``."""
    said = [_Said(evidence, recognised(evidence, table)) for evidence in _ranked(release.evidence)]
    speaking = [one for one in said if _says_something(one.evidence)]
    known = [one for one in speaking if one.terms is not None]
    texts = [one for one in known if one.evidence.rank is Rank.LICENCE_FILE]
    findings = [
        *_unrecognised(release.name, speaking),
        *_contradictions(release.name, known, table),
    ]
    return Statement(
        release=release.name,
        weighed=tuple(Weighed(one.evidence, one.terms.name if one.terms else None) for one in said),
        terms=known[0].terms if known else None,
        licences=_binding(known),
        ids=_named(known),
        findings=tuple(findings),
        has_text=bool(texts),
        has_copyright=any(one.evidence.copyright for one in texts),
    )


def recognised(evidence: Evidence, table: Licences) -> Terms | None:
    """What a piece of evidence means; None where the table does not know it, or it says nothing."""
    if evidence.rank is Rank.LICENCE_FILE:
        row = table.worded(evidence.normalised_sha256 or "")
        return Terms(((row,),)) if row is not None else None
    stated = evidence.stated
    if stated is not None and stated.strip().casefold() not in _SAYS_NOTHING:
        return table.named(stated)
    if evidence.name is not None:
        return table.named(evidence.name)
    return table.linked(evidence.link) if evidence.link is not None else None


def words(evidence: Evidence) -> Sentence:
    """How a piece of evidence says it, for sentences."""
    if evidence.rank is Rank.LICENCE_FILE:
        return said("evidence.file", "the licence file ({origin})", origin=evidence.origin)
    label = evidence.stated or "no licence"
    if evidence.name is not None:
        label = f"{label}, {evidence.name}"
    return said(
        "evidence.label",
        "the {rank} ({origin}) says {label!r}",
        rank=str(evidence.rank),
        origin=evidence.origin,
        label=label,
    )


def _ranked(evidence: Iterable[Evidence]) -> list[Evidence]:
    def order(one: Evidence) -> tuple[int, tuple[str, ...]]:
        texts = (one.origin, one.stated, one.name, one.link, one.copyright)
        hashes = (one.normalised_sha256, one.text_sha256)
        return _RANKS.index(one.rank), tuple(text or "" for text in (*texts, *hashes))

    return sorted(set(evidence), key=order)


def _says_something(evidence: Evidence) -> bool:
    if evidence.rank is Rank.LICENCE_FILE:
        return True
    return any(part is not None for part in (evidence.stated, evidence.name, evidence.link))


def _binding(known: list[_Said]) -> tuple[Licence, ...]:
    """Everything that any level names; of an "or", what asks least.

    A name without a version counts for nothing beside one of those that it can mean.
    """
    found = {licence for one in known if one.terms is not None for licence in one.terms.chosen}
    ids = {licence.id for licence in found}
    exact = (licence for licence in found if ids.isdisjoint(licence.covers))
    return tuple(sorted(exact, key=lambda licence: licence.id))


def _named(known: list[_Said]) -> frozenset[str]:
    """The ids of everything named, alternatives included, without what `_binding` leaves out."""
    ids = frozenset[str]().union(*(one.terms.ids for one in known if one.terms is not None))
    chosen = {licence.id for one in known if one.terms for licence in one.terms.chosen}
    return ids - chosen | {licence.id for licence in _binding(known)}


def _unrecognised(name: str, speaking: list[_Said]) -> Iterable[Finding]:
    if not speaking:
        text = said("verdict.silent", "No licence was found for {release}.", release=name)
        yield Finding(Outcome.UNKNOWN, text, name)
        return
    strongest = speaking[0].evidence.rank
    for one in speaking:
        if one.terms is None and one.evidence.rank is strongest:
            yield Finding(Outcome.UNKNOWN, _unknown_text(name, one.evidence), name)


def _unknown_text(name: str, evidence: Evidence) -> Sentence:
    if evidence.rank is not Rank.LICENCE_FILE:
        if evidence.name is None and (evidence.stated or "").casefold() in _SAYS_NOTHING:
            code, rest = "verdict.names_none", ", which names no licence."
        else:
            code = "verdict.not_known"
            rest = ", which is no licence known here; read it before you rely on it."
    elif licence_text.is_empty(evidence.normalised_sha256 or ""):
        code, rest = "verdict.empty", " is empty, and nothing is granted by an empty file."
    else:
        code = "verdict.no_such_text"
        rest = (
            " matches no licence text known here; "
            "read it, for it may differ from the label in one sentence."
        )
    return said(code, "{release}: {evidence}" + rest, release=name, evidence=words(evidence))


def _contradictions(name: str, known: list[_Said], table: Licences) -> Iterable[Finding]:
    files = [one for one in known if one.evidence.rank is Rank.LICENCE_FILE]
    labels = [one for one in known if one.evidence.rank is not Rank.LICENCE_FILE]
    for one in labels:
        other = _second_name(one, table)
        if other is not None:
            text = said(
                "verdict.two_names",
                "{release}: {evidence}, and the two are different licences ({licences}).",
                release=name,
                evidence=words(one.evidence),
                licences=other,
            )
            yield Finding(Outcome.CONFLICT, text, name)
    for one in labels:
        if files and not _agree(_binding(files), one):
            yield _disagreement(name, files[0], one)
    for one in labels[1:]:
        if not _agree(_binding(labels[:1]), one):
            yield _disagreement(name, labels[0], one)


def _second_name(one: _Said, table: Licences) -> str | None:
    """A card whose ``license`` and ``license_name`` are two different licences."""
    if one.terms is None or one.evidence.name is None:
        return None
    other = table.named(one.evidence.name)
    if other is None or other.ids & one.terms.ids:
        return None
    return f"{one.terms.name} and {other.name}"


def _agree(stronger: tuple[Licence, ...], weaker: _Said) -> bool:
    """Whether a label says what the stronger level says, notices of further parts aside."""
    assert weaker.terms is not None
    ids = {licence.id for licence in stronger}
    if weaker.terms.ids == ids or any(ids <= set(row.covers) for row in weaker.terms.chosen):
        return True
    if not weaker.terms.ids <= ids:
        return False
    further = [licence for licence in stronger if licence.id not in weaker.terms.ids]
    return all(
        severity(licence.outcome(use)) <= severity(weaker.terms.outcome(use))
        for licence in further
        for use in Use
    )


def _disagreement(name: str, stronger: _Said, weaker: _Said) -> Finding:
    assert stronger.terms is not None
    assert weaker.terms is not None
    first = words(stronger.evidence)
    if stronger.evidence.rank is Rank.LICENCE_FILE:
        licence = stronger.terms.name
        first = said("evidence.file_is", "{file} is {licence}", file=first, licence=licence)
    text = said(
        "verdict.disagree",
        "{release}: {first}, but {second}; the two are different licences.",
        release=name,
        first=first,
        second=words(weaker.evidence),
    )
    return Finding(Outcome.CONFLICT, text, name)
