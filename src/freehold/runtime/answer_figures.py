"""The figures of a kept answer, at its end or before, in one piece or several. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from freehold.domain.answers import AnswerUsage
from freehold.runtime.kept import Figures


@dataclass(frozen=True)
class Stretch:
    """What one run of the engine wrote of an answer, after ``before`` tokens of earlier runs.

    Seconds: ``first_token`` and ``reasoning`` after the request, ``decode`` for writing all of it.
    """

    usage: AnswerUsage
    before: int
    context: int
    first_token: float | None
    reasoning: float | None
    decode: float
    end: str


def figures_of(stretch: Stretch, earlier: Figures | None) -> Figures:
    """Of the whole answer; ``earlier``: what was written of it before it was gone on with."""
    usage = stretch.usage
    if earlier is None:
        return Figures(
            prompt_tokens=max(0, usage.prompt_tokens - stretch.before),
            cached_tokens=usage.cached_tokens,
            completion_tokens=stretch.before + usage.completion_tokens,
            reasoning_tokens=usage.reasoning_tokens,
            context=stretch.context,
            first_token=stretch.first_token,
            reasoning_seconds=stretch.reasoning,
            decode=stretch.decode,
            finish_reason=stretch.end,
        )
    return Figures(
        prompt_tokens=earlier.prompt_tokens,
        cached_tokens=earlier.cached_tokens,
        completion_tokens=stretch.before + usage.completion_tokens,
        reasoning_tokens=earlier.reasoning_tokens + usage.reasoning_tokens,
        context=stretch.context or earlier.context,
        first_token=earlier.first_token,
        reasoning_seconds=_sum(earlier.reasoning_seconds, stretch.reasoning),
        decode=earlier.decode + _of_every_token(stretch),
        finish_reason=stretch.end,
    )


def _of_every_token(stretch: Stretch) -> float:
    """The first token of a further stretch has no gap before it that was measured: it is given the
    pace of the others, or the whole would look faster than it was.
    """
    written = stretch.usage.completion_tokens
    return stretch.decode * written / (written - 1) if written > 1 else 0.0


def _sum(one: float | None, other: float | None) -> float | None:
    return other if one is None else one if other is None else one + other
