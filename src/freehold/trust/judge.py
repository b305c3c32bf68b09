"""May this model be used, and for what: the verdict, from what was read about it and its ancestors.

Pure. What a licence allows and asks is in ``licences.toml``, whose licensor replaced which terms
in ``overrides.toml``; here are only the rules that join them.

- Each release is under what its evidence says (`weighing`). Levels that disagree: CONFLICT. The
  strongest not recognised, an empty licence file, or no statement at all: UNKNOWN.
- A quantisation (or a copy) adds no permission: it has its parent's verdict, and another label
  than the parent's is a CONFLICT.
- Anything else made from a model is under its own licence and under those of all its ancestors
  that bind derivatives, so the worst of them decides. Where an ancestor's licence must be
  carried by the label and is not, others may not be served under that label: CONFLICT; where
  the ancestor forbids commercial use and the label does not, running it is a CONFLICT too. The
  same where a name must begin in some way, does not, and the label does not carry the licence.
- An ancestor's terms that its own licensor replaced do not bind (`overrides`).
- A gap in the lineage (an ancestor nobody read, a circle, a cut) is UNKNOWN for both uses: the
  terms may be anybody's. A release that states no parent has no gap by that alone.
- A licence whose text must travel, and does not: the outcome stays, with a duty to add it.

The outcome is the worst of all that was found (`licences.severity`), so another parent never
improves it. "OK" asks at most that texts and notices go with copies.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from freehold.domain.sentences import Sentence, Value, said
from freehold.trust.facts import Rank, Relation, Release
from freehold.trust.licences import (
    Licence,
    Licences,
    Notices,
    When,
    severity,
    worst,
)
from freehold.trust.lineage import relation_between, walk
from freehold.trust.overrides import Overrides
from freehold.trust.verdict import Ancestor, Duty, Outcome, Ruling, Use, Verdict
from freehold.trust.weighing import Finding, Statement, weigh

_T = TypeVar("_T")
_SERVE = frozenset({Use.SERVE})
_BOTH = frozenset(Use)
_UNLIKE_PARENT = (
    "{release} is labelled {licence} and {parent} {theirs}; "
    "a quantisation or copy adds no permission, so one label is wrong or out of date."
)
_MADE_FROM = "{release} is made from {parent}, which is under {title}"
_OWED = {Use.RUN: frozenset({When.RUN}), Use.SERVE: frozenset(When)}


@dataclass(frozen=True)
class _Bound:
    """A licence that binds, and whose it is; ``derivative``: what was made from that release."""

    licence: Licence
    release: str
    derivative: str | None = None


@dataclass(frozen=True)
class _Case:
    """What one release and everything below it comes to."""

    findings: tuple[Finding, ...]
    bounds: tuple[_Bound, ...]
    overrides: tuple[Sentence, ...]


def judge(
    model: str, releases: Mapping[str, Release], table: Licences, overrides: Overrides
) -> Verdict:
    """The verdict on ``model``; ``releases`` hold what was read, by name."""
    lineage = walk(model, releases, table)
    case = _Judge(releases, table, overrides).case(lineage.root)
    gaps = (Finding(Outcome.UNKNOWN, gap, model) for gap in lineage.gaps)
    case = dataclasses.replace(case, findings=(*case.findings, *gaps))
    statement = weigh(releases[model], table) if model in releases else None
    return Verdict(
        model=model,
        run=_ruling(Use.RUN, case, statement),
        serve=_ruling(Use.SERVE, case, statement),
        declared=_declared(statement),
        concluded=_concluded(case.bounds),
        lineage=lineage,
        overrides=case.overrides,
        licences=tuple(dict.fromkeys(bound.licence.id for bound in case.bounds)),
    )


@dataclass(frozen=True)
class _Judge:
    releases: Mapping[str, Release]
    table: Licences
    overrides: Overrides

    def case(self, node: Ancestor) -> _Case:
        release = self.releases.get(node.name)
        if release is None:
            return _Case((), (), ())
        own = weigh(release, self.table)
        below = [self._from_parent(release, own, parent) for parent in node.parents]
        copies = [self._is_copy(release, parent.name) for parent in node.parents]
        is_copy = bool(copies) and all(copies)
        findings = [*_own_findings(own, is_copy=is_copy)]
        for case in below:
            findings += [*case.findings, *_unlike_ancestors(own, case.bounds)]
        bounds = [_Bound(licence, node.name) for licence in own.licences]
        if is_copy:
            # The same licence is the parent's already, with the parent's duties.
            theirs = {bound.licence.id for case in below for bound in case.bounds}
            bounds = [bound for bound in bounds if bound.licence.id not in theirs]
        return _Case(
            findings=_unique(findings),
            bounds=_unique([*bounds, *(bound for case in below for bound in case.bounds)]),
            overrides=_unique(sentence for case in below for sentence in case.overrides),
        )

    def _from_parent(self, release: Release, own: Statement, parent: Ancestor) -> _Case:
        """What ``release`` has from ``parent`` and what is below that."""
        case = self.case(parent)
        if self._is_copy(release, parent.name):
            return self._copied(own, parent, case)
        override = next(
            (
                row
                for licence in sorted(own.ids)
                if own.ids == {licence}
                and (row := self.overrides.between(release.name, parent.name, licence))
            ),
            None,
        )
        findings = [finding for finding in case.findings if not finding.labelling]
        bounds = [
            dataclasses.replace(bound, derivative=release.name)
            for bound in case.bounds
            if bound.licence.inherits
        ]
        if override is None:
            return _Case(tuple(findings), tuple(bounds), case.overrides)
        return _Case(
            findings=tuple(finding for finding in findings if finding.release != parent.name),
            bounds=tuple(bound for bound in bounds if bound.release != parent.name),
            overrides=(*case.overrides, override.sentence),
        )

    def _is_copy(self, release: Release, parent: str) -> bool:
        return relation_between(release, parent) is Relation.QUANTIZED

    def _copied(self, own: Statement, parent: Ancestor, case: _Case) -> _Case:
        release = self.releases.get(parent.name)
        if release is None or not own.ids:
            return case
        theirs = weigh(release, self.table)
        if not theirs.ids or own.agrees_with(theirs):
            return case
        values: dict[str, Value] = {
            "release": own.release,
            "licence": own.licence or "",
            "parent": parent.name,
            "theirs": theirs.licence or "",
        }
        code, template = "verdict.unlike_parent", _UNLIKE_PARENT
        change = self.overrides.changed(parent.name, own.licence or "", theirs.licence or "")
        if change is not None:
            code, template = "verdict.unlike_parent_changed", f"{template} {{change}}"
            values["change"] = change.sentence
        text = said(code, template, **values)
        finding = Finding(Outcome.CONFLICT, text, own.release, labelling=True)
        return dataclasses.replace(case, findings=(*case.findings, finding))


def _own_findings(own: Statement, *, is_copy: bool) -> Iterable[Finding]:
    if is_copy and own.is_silent:
        text = said(
            "verdict.silent_copy",
            "No licence was found for {release}; a quantisation or copy has its parent's.",
            release=own.release,
        )
        yield Finding(Outcome.OK, text, own.release)
        return
    yield from own.findings


def _unlike_ancestors(own: Statement, bounds: Iterable[_Bound]) -> Iterable[Finding]:
    """Where the label of a derivative does not carry what its ancestors ask."""
    if not own.ids:
        return
    for bound in bounds:
        if bound.derivative == own.release:
            yield from _unlike(own, bound)


def _unlike(own: Statement, bound: _Bound) -> Iterable[Finding]:
    licence = bound.licence
    names = {"release": own.release, "parent": bound.release, "title": licence.title}
    label = own.licence or ""
    if not licence.adaptations:
        rest = ": adapted versions may not be passed on."
        text = said("verdict.no_adaptations", _MADE_FROM + rest, **names)
        yield Finding(Outcome.CONFLICT, text, own.release, _SERVE, labelling=True)
    carried = not own.ids.isdisjoint({licence.id, *licence.carried_by})
    if licence.label_must_carry and not carried and not _is_as_strict(own, licence):
        rest = ", but its label ({label}) does not say so."
        text = said("verdict.label_does_not_say", _MADE_FROM + rest, **names, label=label)
        forbids = licence.run is Outcome.NON_COMMERCIAL
        uses = _BOTH if forbids else _SERVE
        yield Finding(Outcome.CONFLICT, text, own.release, uses, labelling=True)
    for duty in licence.duty:
        if duty.name_prefix is None or duty.fulfilled_by(own.release):
            continue
        asks = _MADE_FROM + ' and asks that the name begin with "{prefix}": it does not'
        names["prefix"] = duty.name_prefix
        if carried:
            text = said("verdict.name", f"{asks}.", **names)
            yield Finding(Outcome.DUTIES, text, own.release, _SERVE, labelling=True)
        else:
            rest = ", and the label ({label}) does not carry that licence."
            text = said("verdict.name_and_label", asks + rest, **names, label=label)
            yield Finding(Outcome.CONFLICT, text, own.release, _SERVE, labelling=True)


def _is_as_strict(own: Statement, licence: Licence) -> bool:
    """A non-commercial label is not blamed for an ancestor's other non-commercial licence."""
    strict = Outcome.NON_COMMERCIAL
    return licence.serve is strict and worst(row.serve for row in own.licences) is strict


def _ruling(use: Use, case: _Case, own: Statement | None) -> Ruling:
    outcomes = [bound.licence.outcome(use) for bound in case.bounds]
    findings = [finding for finding in case.findings if use in finding.uses]
    outcomes += [finding.outcome for finding in findings]
    sentences = [(finding.outcome, finding.text) for finding in findings]
    for bound in case.bounds:
        sentences += _licence_sentences(use, bound)
    missing = _missing_texts(own) if use is Use.SERVE and own is not None else ()
    sentences += [(Outcome.OK, duty.text) for duty in missing]
    ordered = sorted(dict.fromkeys(sentences), key=lambda one: (-severity(one[0]), one[1]))
    return Ruling(
        outcome=worst(iter(outcomes)),
        reasons=tuple(text for _, text in ordered),
        duties=_unique_duties((*_duties(use, case.bounds), *missing)),
    )


def _licence_sentences(use: Use, bound: _Bound) -> Iterable[tuple[Outcome, Sentence]]:
    licence = bound.licence
    outcome = licence.outcome(use)
    names = {"release": bound.release, "title": licence.title}
    terms = licence.reasons(use)
    if terms:
        template = "{release} is under {title}. {terms}"
        yield outcome, said("verdict.under_because", template, **names, terms=terms)
    else:
        yield outcome, said("verdict.under", "{release} is under {title}.", **names)
    if not licence.read and outcome is not Outcome.UNKNOWN:
        sources = "; ".join(licence.source)
        yield (
            Outcome.OK,
            said(
                "verdict.not_read",
                "The text of {title} was not read for the licence table; "
                "what is said of it rests on: {sources}.",
                title=licence.title,
                sources=sources,
            ),
        )


def _duties(use: Use, bounds: Iterable[_Bound]) -> Iterable[Duty]:
    for bound in bounds:
        for duty in bound.licence.duty:
            if duty.when not in _OWED[use]:
                continue
            if duty.derivatives and bound.derivative is None:
                continue
            if bound.derivative is not None and duty.fulfilled_by(bound.derivative):
                continue
            yield Duty(duty.sentence, bound.licence.id, bound.release)


def _missing_texts(own: Statement) -> tuple[Duty, ...]:
    """Duties to add what copies must carry and the release does not have."""
    found = []
    for licence in own.licences:
        if licence.notices is Notices.NONE:
            continue
        wants_holder = licence.notices is Notices.TEXT_AND_COPYRIGHT
        if not own.has_text:
            holder = " with the copyright line of its holder, which nothing read names"
            text = said(
                "duty.add_text_and_holder" if wants_holder else "duty.add_text",
                "Licence text missing: {release} is labelled {licence} and comes without "
                f"its text. Add {{title}}{holder if wants_holder else ''} to every copy.",
                release=own.release,
                licence=licence.id,
                title=licence.title,
            )
        elif wants_holder and not own.has_copyright:
            text = said(
                "duty.add_holder",
                "Copyright line missing: the licence text of {release} names no holder. "
                "Find out who holds the copyright and keep that line with every copy.",
                release=own.release,
            )
        else:
            continue
        found.append(Duty(text, licence.id, own.release))
    return tuple(found)


def _declared(statement: Statement | None) -> str | None:
    """The licence in the words of the card, or of the file's header."""
    if statement is None:
        return None
    for weighed in statement.weighed:
        evidence = weighed.evidence
        if evidence.rank in (Rank.CARD, Rank.HEADER) and (evidence.stated or evidence.name):
            if evidence.name is not None and (evidence.stated or "other").casefold() == "other":
                return evidence.name
            return evidence.stated
    return None


def _concluded(bounds: Iterable[_Bound]) -> str | None:
    """An SPDX expression of everything that binds."""
    return " AND ".join(sorted({bound.licence.expression for bound in bounds})) or None


def _unique_duties(duties: Iterable[Duty]) -> tuple[Duty, ...]:
    """The same duty to the same licence once, for the release nearest to the model."""
    kept: dict[tuple[str, str], Duty] = {}
    for duty in duties:
        kept.setdefault((duty.text, duty.licence), duty)
    return tuple(kept.values())


def _unique(items: Iterable[_T]) -> tuple[_T, ...]:
    return tuple(dict.fromkeys(items))
