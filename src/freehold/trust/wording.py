"""A verdict as data for JSON and as lines for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from freehold.trust.verdict import Ancestor, Duty, Ruling, Use, Verdict, Weighed

NOT_ADVICE = "This is what the texts say, not legal advice."


def verdict_data(verdict: Verdict) -> dict[str, object]:
    """The verdict as plain JSON values."""
    rulings = ((Use.RUN, verdict.run), (Use.SERVE, verdict.serve))
    return {
        "model": verdict.model,
        "run": str(verdict.run.outcome),
        "serve": str(verdict.serve.outcome),
        "reasons": {str(use): list(ruling.reasons) for use, ruling in rulings},
        "duties": _duties_data(rulings),
        "declared": verdict.declared,
        "concluded": verdict.concluded,
        "lineage": {
            "complete": verdict.lineage.complete,
            "gaps": list(verdict.lineage.gaps),
            "root": _ancestor_data(verdict.lineage.root),
        },
        "evidence": [
            _evidence_data(ancestor.name, weighed)
            for ancestor in _all(verdict.lineage.root)
            for weighed in ancestor.evidence
        ],
        "overrides": list(verdict.overrides),
    }


def _duties_data(rulings: Iterable[tuple[Use, Ruling]]) -> list[dict[str, object]]:
    """Each duty once, with the uses that bring it."""
    uses: dict[Duty, list[str]] = {}
    for use, ruling in rulings:
        for duty in ruling.duties:
            uses.setdefault(duty, []).append(str(use))
    return [
        {"text": duty.text, "for": brought, "licence": duty.licence, "release": duty.release}
        for duty, brought in uses.items()
    ]


def lines(verdict: Verdict) -> list[str]:
    """The verdict in plain text, a line an item; nothing of a stranger's can move the cursor."""
    found = [
        verdict.model,
        f"  for yourself   {verdict.run.outcome}",
        f"  for others     {verdict.serve.outcome}",
        f"  declared       {verdict.declared or 'nothing'}",
        f"  concluded      {verdict.concluded or 'nothing recognised'}",
    ]
    same = verdict.run.reasons == verdict.serve.reasons
    for use, ruling in ((Use.RUN, verdict.run), (Use.SERVE, verdict.serve)):
        if use is Use.SERVE and same:
            break
        whom = "both" if same else "yourself" if use is Use.RUN else "others"
        found += _block(f"Why, for {whom}", ruling.reasons)
    found += _block("Duties for yourself", map(_duty_line, verdict.run.duties))
    found += _block("Duties towards others", map(_duty_line, verdict.serve.duties))
    found += ["Lineage", *_lineage_lines(verdict.lineage.root)]
    found += _block("What is missing", verdict.lineage.gaps)
    found += _block("Overrides", verdict.overrides)
    evidence = (
        _evidence_line(ancestor.name, weighed)
        for ancestor in _all(verdict.lineage.root)
        for weighed in ancestor.evidence
    )
    found += _block("Evidence, strongest first", evidence)
    return [_plain(line) for line in (*found, NOT_ADVICE)]


def _block(title: str, items: Iterable[str]) -> list[str]:
    entries = [f"  - {item}" for item in items]
    return [title, *entries] if entries else []


def _duty_line(duty: Duty) -> str:
    return f"{duty.text} ({duty.licence}, {duty.release})"


def _lineage_lines(node: Ancestor, depth: int = 1) -> Iterator[str]:
    if not node.known:
        said = "nothing was read about it"
    elif not node.parents:
        said = f"{node.licence or 'no licence found'}; no base model stated"
    else:
        said = f"{node.licence or 'no licence found'}; {node.relation or 'made'} of"
    commit = f" @{node.commit[:12]}" if node.commit else ""
    yield f"{'  ' * depth}{node.name}{commit}: {said}"
    for parent in node.parents:
        yield from _lineage_lines(parent, depth + 1)


def _evidence_line(release: str, weighed: Weighed) -> str:
    evidence = weighed.evidence
    said = [part for part in (evidence.stated, evidence.name, evidence.copyright) if part]
    words = f" says {', '.join(map(repr, said))}" if said else ""
    taken = weighed.licence or "not recognised"
    return f"{release}: {evidence.origin}{words} ({evidence.rank}; {taken})"


def _ancestor_data(node: Ancestor) -> dict[str, object]:
    return {
        "name": node.name,
        "commit": node.commit,
        "licence": node.licence,
        "known": node.known,
        "states_base": bool(node.parents),
        "relation": str(node.relation) if node.relation is not None else None,
        "parents": [_ancestor_data(parent) for parent in node.parents],
    }


def _evidence_data(release: str, weighed: Weighed) -> dict[str, object]:
    evidence = weighed.evidence
    return {
        "release": release,
        "rank": str(evidence.rank),
        "origin": evidence.origin,
        "stated": evidence.stated,
        "name": evidence.name,
        "link": evidence.link,
        "text_sha256": evidence.text_sha256,
        "normalised_sha256": evidence.normalised_sha256,
        "copyright": evidence.copyright,
        "licence": weighed.licence,
    }


def _all(root: Ancestor) -> list[Ancestor]:
    """Every release of the tree once, the model first, breadth first."""
    found: dict[str, Ancestor] = {}
    level = [root]
    while level:
        for node in level:
            found.setdefault(node.name, node)
        level = [parent for node in level for parent in node.parents]
    return list(found.values())


def _plain(line: str) -> str:
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line)
