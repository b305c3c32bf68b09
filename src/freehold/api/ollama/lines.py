"""Answers in Ollama's words: the lines of a stream, or one object. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from pydantic import BaseModel

from freehold.api.ollama.schema import (
    Answer,
    AssistantMessage,
    ChatResponse,
    FunctionCall,
    GenerateResponse,
    TokenLogprob,
    ToolCall,
    TopLogprob,
)
from freehold.domain import answers, chat, events

# What stands for minus infinity, which JSON cannot say.
_LEAST_LOGPROB = -9999.0
_NANOSECONDS = 1_000_000_000

_REASONS: Mapping[answers.EndReason, str] = {
    answers.EndReason.STOP: "stop",
    answers.EndReason.STOP_STRING: "stop",
    answers.EndReason.LENGTH: "length",
    answers.EndReason.TOOL_CALLS: "stop",
}


@dataclass(frozen=True)
class Moment:
    """When something is said: the time of day, in UTC, and the seconds since the request came."""

    time: datetime
    passed: float


@dataclass(frozen=True)
class Said:
    """A stretch of an answer, or the whole of it."""

    content: str = ""
    thinking: str = ""
    calls: tuple[chat.ToolCall, ...] = ()
    logprobs: tuple[events.TokenLogprob, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.content or self.thinking or self.calls or self.logprobs)


class Wording(Protocol):
    """How generate or chat words what was said. ``frame`` holds the fields both have."""

    def __call__(self, said: Said, frame: Mapping[str, Any]) -> Answer: ...


def generated(said: Said, frame: Mapping[str, Any]) -> Answer:
    """Generate's wording. Calls cannot come: it knows no tools."""
    return GenerateResponse(
        response=said.content,
        thinking=said.thinking or None,
        logprobs=_logprobs(said.logprobs),
        **frame,
    )


def chatted(said: Said, frame: Mapping[str, Any]) -> Answer:
    """Chat's wording."""
    message = AssistantMessage(
        content=said.content,
        thinking=said.thinking or None,
        tool_calls=[_call(call) for call in said.calls] or None,
    )
    return ChatResponse(message=message, logprobs=_logprobs(said.logprobs), **frame)


@dataclass(frozen=True)
class Speaker:
    """Words one answer. ``model`` is the name it was asked by; ``loaded`` the seconds until the
    model was ready.
    """

    wording: Wording
    model: str
    loaded: float

    def more(self, said: Said, at: Moment) -> Answer:
        """A line that is not the last."""
        return self.wording(said, {**self._frame(at), "done": False})

    def last(self, said: Said, ended: answers.Ended, at: Moment) -> Answer:
        """The last line, or the whole answer."""
        frame = {
            **self._frame(at),
            **self._over(_REASONS[ended.reason], at),
            "prompt_eval_count": ended.usage.prompt_tokens,
            "prompt_eval_duration": nanoseconds(ended.timings.prefill),
            "eval_count": ended.usage.completion_tokens,
            "eval_duration": nanoseconds(ended.timings.decode),
        }
        return self.wording(said, frame)

    def whole(self, answer: answers.WholeAnswer, at: Moment) -> Answer:
        said = Said(answer.content, answer.reasoning, answer.tool_calls, answer.logprobs)
        return self.last(said, answer.ended, at)

    def nothing(self, reason: str, at: Moment) -> Answer:
        """For a request that only loads or unloads."""
        return self.wording(Said(), {**self._frame(at), **self._over(reason, at)})

    def _frame(self, at: Moment) -> dict[str, Any]:
        return {"model": self.model, "created_at": timestamp(at.time)}

    def _over(self, reason: str, at: Moment) -> dict[str, Any]:
        return {
            "done": True,
            "done_reason": reason,
            "total_duration": nanoseconds(at.passed),
            "load_duration": nanoseconds(self.loaded),
        }


class Lines:
    """The parts of one answer as lines. A call is told when its arguments are whole."""

    def __init__(self, speaker: Speaker) -> None:
        self._speaker = speaker
        self._call: answers.ToolCallBegun | None = None
        self._arguments: list[str] = []

    def of(self, part: answers.Part, at: Moment) -> list[Answer]:
        """What one part is to the client: any number of lines."""
        if isinstance(part, answers.ToolCallDelta):
            self._arguments.append(part.arguments)
            return []
        lines = self._finished_call(at)
        match part:
            case answers.ToolCallBegun():
                self._call = part
            case answers.ContentDelta(text, logprobs):
                lines += self._more(Said(content=text, logprobs=logprobs), at)
            case answers.ReasoningDelta(text):
                lines += self._more(Said(thinking=text), at)
            case answers.Ended():
                lines.append(self._speaker.last(Said(), part, at))
            case answers.Begun():
                pass
        return lines

    def _more(self, said: Said, at: Moment) -> list[Answer]:
        return [self._speaker.more(said, at)] if said else []

    def _finished_call(self, at: Moment) -> list[Answer]:
        if self._call is None:
            return []
        call = chat.ToolCall(self._call.id, self._call.name, "".join(self._arguments))
        self._call, self._arguments = None, []
        return self._more(Said(calls=(call,)), at)


def as_json(line: BaseModel) -> str:
    """On one line; what is None is left out."""
    return line.model_dump_json(exclude_none=True)


def timestamp(time: datetime) -> str:
    """RFC 3339. ``time`` is in UTC."""
    return time.isoformat(timespec="microseconds").replace("+00:00", "Z")


def nanoseconds(seconds: float) -> int:
    return round(seconds * _NANOSECONDS)


def _call(call: chat.ToolCall) -> ToolCall:
    return ToolCall(
        id=call.id, function=FunctionCall(name=call.name, arguments=json.loads(call.arguments))
    )


def _logprobs(found: Iterable[events.TokenLogprob]) -> list[TokenLogprob] | None:
    return [
        TokenLogprob(
            **_top(one.chosen).model_dump(),
            top_logprobs=[_top(other) for other in one.top] or None,
        )
        for one in found
    ] or None


def _top(alternative: events.Alternative) -> TopLogprob:
    return TopLogprob(
        token=alternative.piece.decode("utf-8", "replace"),
        logprob=max(alternative.logprob, _LEAST_LOGPROB),
        bytes=list(alternative.piece),
    )
