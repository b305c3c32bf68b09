"""What somebody wants of a model: the side conditions of a plan."""

from __future__ import annotations

from dataclasses import dataclass

from freehold.trust.verdict import Outcome, Use

PROMPT = 512

# A verdict that lets the use be begun at once. What it asks for is said beside it.
ALLOWED = frozenset({Outcome.OK, Outcome.DUTIES})


@dataclass(frozen=True)
class Wishes:
    """None: no such wish.

    ``users`` ask at the same time, each with a prompt of ``prompt`` tokens and a sequence of
    ``context`` tokens. ``first_token`` are seconds until the last of them sees the first token
    when all ask at once; ``tokens_per_second`` is what each sees then. ``memory`` are bytes of
    ordinary memory that may be used at most. ``uses`` must be allowed by the licence.
    """

    users: int = 1
    context: int | None = None
    prompt: int = PROMPT
    first_token: float | None = None
    tokens_per_second: float | None = None
    memory: int | None = None
    task: str | None = None
    uses: frozenset[Use] = frozenset()
