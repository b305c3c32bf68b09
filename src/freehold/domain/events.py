"""What an engine says while it answers: a closed union, in this order.

    PromptRead       any number, from engines that tell, while a long prompt is read
    PromptProcessed  once, when the first token has been chosen
    TextDelta        any number; text is whole characters, never half of one
    Finished         once, last

A failure is not an event: the iterator raises an error of `domain.errors`.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class FinishReason(enum.StrEnum):
    STOP = "stop"  # the model ended its turn, or a stop string was met
    LENGTH = "length"  # max_tokens, or the end of the context


@dataclass(frozen=True)
class Alternative:
    """A token that might have come, by its bytes, and its natural log-probability."""

    token: int
    piece: bytes
    logprob: float


@dataclass(frozen=True)
class TokenLogprob:
    """One token and the likeliest in its place, best first.

    Log-probabilities are the model's own: before penalties, temperature and constraints.
    """

    chosen: Alternative
    top: tuple[Alternative, ...]


@dataclass(frozen=True)
class PromptRead:
    """``read`` of ``prompt_tokens`` are in the cache."""

    read: int
    prompt_tokens: int


@dataclass(frozen=True)
class PromptProcessed:
    """The prompt is in the cache. ``cached_tokens`` of ``prompt_tokens`` were already there, as far
    as it is known by now: `Finished` has the last word.

    ``logprobs``, where asked for, has an entry for every token but the first.
    """

    prompt_tokens: int
    cached_tokens: int
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True)
class TextDelta:
    """More answer. ``tokens`` were generated for it; text may be empty meanwhile.

    ``logprobs``, where asked for, has an entry for each of ``tokens``.
    """

    text: str
    tokens: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True)
class Usage:
    """Token counts of one finished request."""

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int


@dataclass(frozen=True)
class Timings:
    """Seconds as the engine measured them.

    ``queued`` before the first step, ``prefill`` until the first token, ``decode``
    from the first token to the last. Without ``queue_told`` the engine does not say how long it
    queued, and that time is part of ``prefill``.
    """

    queued: float
    prefill: float
    decode: float
    queue_told: bool = True


@dataclass(frozen=True)
class Finished:
    """``seed`` None: another process chose it and did not say.

    ``stop`` is the stop string that was met, if one was.
    """

    reason: FinishReason
    usage: Usage
    timings: Timings
    seed: int | None
    stop: str | None = None


Event = PromptRead | PromptProcessed | TextDelta | Finished
