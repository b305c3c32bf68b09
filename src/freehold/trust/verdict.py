"""The words of a verdict: what may be done with a model, for what reasons, on what conditions.

`judge` reaches verdicts; this module only says what one is.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from freehold.domain.sentences import Sentence
from freehold.trust.facts import Evidence, Relation


class Outcome(enum.StrEnum):
    """What the texts allow. Not legal advice.

    ``OK`` asks at most that licence texts and notices travel with copies of the weights.
    """

    OK = "OK"
    DUTIES = "OK with duties"
    NON_COMMERCIAL = "NON-COMMERCIAL"
    RESTRICTED = "RESTRICTED"
    CONFLICT = "CONFLICT"
    UNKNOWN = "UNKNOWN"


class Use(enum.StrEnum):
    """``run``: privately, for oneself. ``serve``: to others, or passing the weights on."""

    RUN = "run"
    SERVE = "serve"


@dataclass(frozen=True)
class Duty:
    """One thing to do, said so that one can do it, and which licence of which release asks it."""

    text: Sentence
    licence: str
    release: str


@dataclass(frozen=True)
class Ruling:
    """The answer for one use. ``reasons`` are whole sentences, the deciding one first."""

    outcome: Outcome
    reasons: tuple[Sentence, ...]
    duties: tuple[Duty, ...]


@dataclass(frozen=True)
class Weighed:
    """A piece of evidence and the licence in the table it was taken for; None: not recognised."""

    evidence: Evidence
    licence: str | None


@dataclass(frozen=True)
class Ancestor:
    """One release of the lineage. ``known`` is false where nothing was read about it."""

    name: str
    commit: str | None
    licence: str | None
    known: bool
    relation: Relation | None
    parents: tuple[Ancestor, ...]
    evidence: tuple[Weighed, ...]


@dataclass(frozen=True)
class Lineage:
    """The tree from the model (``root``) to what it was made of; ``gaps`` say what is missing."""

    root: Ancestor
    gaps: tuple[Sentence, ...]

    @property
    def complete(self) -> bool:
        return not self.gaps


@dataclass(frozen=True)
class Verdict:
    """May this model be used, for what, on what conditions.

    ``declared`` is what its own card or header says; ``concluded`` an SPDX expression of
    everything that binds (None: nothing recognised). ``overrides`` are sentences about
    ancestors whose terms their own licensor replaced. ``licences`` are the rows of the
    licence table that bind, the model's own first.
    """

    model: str
    run: Ruling
    serve: Ruling
    declared: str | None
    concluded: str | None
    lineage: Lineage
    overrides: tuple[Sentence, ...]
    licences: tuple[str, ...] = ()

    def ruling(self, use: Use) -> Ruling:
        return self.run if use is Use.RUN else self.serve
