"""The way from a model to the models it was made of. Pure: a walk over what was read.

Bounded in depth, width and size; whatever is cut off, missing or circular is a gap, and a
lineage with a gap is never clean.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from freehold.domain.sentences import Sentence, said
from freehold.trust.facts import Relation, Release
from freehold.trust.licences import Licences, spelling
from freehold.trust.verdict import Ancestor, Lineage
from freehold.trust.weighing import Statement, weigh

DEEPEST = 8  # generations above the model
MOST_PARENTS = 32  # of one release
MOST_RELEASES = 256  # in one tree, counted each time one is met

# How names say that a release is another's weights in other numbers.
_QUANTISED = frozenset(
    {
        *("gguf", "ggml", "gptq", "awq", "exl2", "exl3", "mlx", "bnb", "hqq", "aqlm", "imatrix"),
        *("fp8", "fp4", "nvfp4", "mxfp4", "int4", "int8", "4bit", "8bit", "w4a16", "w8a16", "w8a8"),
        *("q2", "q3", "q4", "q5", "q6", "q8", "quantized", "quantised"),
    }
)


def relation_between(child: Release, parent: str) -> Relation | None:
    """As stated; else quantised, where the child's name is the parent's, with a format or alone."""
    if child.relation is not None:
        return child.relation
    own, theirs = (_short(name) for name in (child.name, parent))
    if own == theirs:
        return Relation.QUANTIZED
    if not theirs or theirs not in own:
        return None
    marks = re.split(r"[-.]+", own.replace(theirs, "-", 1))
    return Relation.QUANTIZED if _QUANTISED.intersection(marks) else None


def relation_of(release: Release) -> Relation | None:
    """Of a release to all its parents; None where nobody states it and the names do not say."""
    if release.relation is not None:
        return release.relation
    found = {relation_between(release, parent) for parent in release.parents}
    if found == {Relation.QUANTIZED}:
        return Relation.QUANTIZED
    return Relation.MERGE if len(release.parents) > 1 else None


def walk(model: str, releases: Mapping[str, Release], table: Licences) -> Lineage:
    """The tree of ``model``, its gaps as sentences in the order they were met."""
    walker = _Walker(releases, table)
    root = walker.ancestor(model, named_by=None, path=())
    return Lineage(root, tuple(dict.fromkeys(walker.gaps)))


@dataclass
class _Walker:
    releases: Mapping[str, Release]
    table: Licences

    def __post_init__(self) -> None:
        self.gaps: list[Sentence] = []
        self._met = 0
        self._statements: dict[str, Statement] = {}

    def ancestor(self, name: str, *, named_by: str | None, path: tuple[str, ...]) -> Ancestor:
        self._met += 1
        release = self.releases.get(name)
        if release is None:
            self.gaps.append(_missing(name, named_by))
            return Ancestor(name, None, None, known=False, relation=None, parents=(), evidence=())
        statement = self._statements.setdefault(name, weigh(release, self.table))
        return Ancestor(
            name=name,
            commit=release.commit,
            licence=statement.licence,
            known=True,
            relation=relation_of(release),
            parents=self._parents(release, (*path, name)),
            evidence=statement.weighed,
        )

    def _parents(self, release: Release, path: tuple[str, ...]) -> tuple[Ancestor, ...]:
        stated = sorted(set(release.parents))
        if len(stated) > MOST_PARENTS:
            self.gaps.append(
                said(
                    "gap.parents",
                    "{release} names {count} parents, too many to follow.",
                    release=release.name,
                    count=len(stated),
                )
            )
        found = []
        for parent in stated[:MOST_PARENTS]:
            if parent in path:
                circle = "{release} names {parent} as its base, in a circle."
                self.gaps.append(said("gap.circle", circle, release=release.name, parent=parent))
            elif len(path) > DEEPEST:
                deep = "{release} has more than {most} generations of base models."
                self.gaps.append(said("gap.depth", deep, release=path[0], most=DEEPEST))
            elif self._met >= MOST_RELEASES:
                many = "{release} has more ancestors than are followed."
                self.gaps.append(said("gap.ancestors", many, release=path[0]))
            else:
                found.append(self.ancestor(parent, named_by=release.name, path=path))
        return tuple(found)


def _missing(name: str, named_by: str | None) -> Sentence:
    if named_by is None:
        return said("gap.unread", "Nothing was read about {release}.", release=name)
    return said(
        "gap.base_unread",
        "{release} names {parent} as its base, and nothing was read about that.",
        release=named_by,
        parent=name,
    )


def _short(name: str) -> str:
    return spelling(name.rpartition("/")[2])
