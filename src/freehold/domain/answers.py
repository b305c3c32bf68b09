"""What a model's words mean to a client: a closed union, between engine events and dialects.

    Begun            once, first: the prompt has been read
    ReasoningDelta   any number, before the answer
    ContentDelta     any number
    ToolCallBegun    then any number of ToolCallDelta with its number
    Ended            once, last

Parts of several tool calls are not interleaved. The deltas of a kind add up to the whole.
A failure is not a part: the iterator raises an error of `domain.errors`.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from freehold.domain.chat import ToolCall
from freehold.domain.events import Timings, TokenLogprob


@dataclass(frozen=True)
class Begun:
    """``logprobs`` of the prompt where asked for, for every token but the first."""

    prompt_tokens: int
    cached_tokens: int
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True)
class ReasoningDelta:
    """More of what the model thinks before it answers; the markers around it are left out."""

    text: str


@dataclass(frozen=True)
class ContentDelta:
    """More answer.

    ``logprobs``, where asked for, are of the tokens generated since the last delta, those of
    reasoning and of tool calls too; text may be empty.
    """

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True)
class ToolCallBegun:
    """The model calls a tool; ``number`` counts the calls of one answer from 0."""

    number: int
    id: str
    name: str


@dataclass(frozen=True)
class ToolCallDelta:
    """More of the arguments of call ``number``: together one JSON object."""

    number: int
    arguments: str


class EndReason(enum.StrEnum):
    STOP = "stop"  # the model ended its turn
    STOP_STRING = "stop_string"  # a stop string was met
    LENGTH = "length"  # max_tokens, or the end of the context
    TOOL_CALLS = "tool_calls"  # the model waits for what its calls return


@dataclass(frozen=True)
class AnswerUsage:
    """Token counts of one answer; ``reasoning_tokens`` are part of ``completion_tokens``."""

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    reasoning_tokens: int = 0


@dataclass(frozen=True)
class Ended:
    """``stop`` is the stop string that was met. ``first_answer`` is how many seconds after the
    request's arrival the first part came that is not reasoning (TTFA); None if none came.
    """

    reason: EndReason
    usage: AnswerUsage
    timings: Timings
    seed: int | None
    stop: str | None = None
    first_answer: float | None = None


Part = Begun | ReasoningDelta | ContentDelta | ToolCallBegun | ToolCallDelta | Ended


@dataclass(frozen=True)
class WholeAnswer:
    """All parts of one answer, put together."""

    content: str
    reasoning: str
    tool_calls: tuple[ToolCall, ...]
    logprobs: tuple[TokenLogprob, ...]
    begun: Begun
    ended: Ended
