"""From the chunks of a stream to the parts of an answer. Pure; the clock is the caller's."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable

import msgspec

from freehold.domain.answers import (
    AnswerUsage,
    Begun,
    ContentDelta,
    Ended,
    EndReason,
    Part,
    ReasoningDelta,
    ToolCallBegun,
    ToolCallDelta,
)
from freehold.domain.events import Alternative, Timings, TokenLogprob
from freehold.process.decoding import from_json

# What stands for a token of which only the bytes are known.
NO_TOKEN = -1

_REASONS = {
    "stop": EndReason.STOP,
    "length": EndReason.LENGTH,
    "tool_calls": EndReason.TOOL_CALLS,
}


class Nonsense(Exception):
    """An upstream says what no answer can be; ``str`` is what, for a log. Quotes nothing of it."""


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _Call(msgspec.Struct):
    index: int = 0
    id: str | None = None
    function: _Function | None = None


class _Delta(msgspec.Struct):
    """Reasoning has two names: vLLM's new one is the shorter."""

    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    tool_calls: list[_Call] | None = None


class _Top(msgspec.Struct):
    token: str
    logprob: float
    bytes: list[int] | None = None


class _TokenLogprob(_Top):
    top_logprobs: list[_Top] = []


class _Logprobs(msgspec.Struct):
    content: list[_TokenLogprob] | None = None


class _Choice(msgspec.Struct):
    """``stop_reason`` is vLLM's: the stop string that was met, or a token."""

    delta: _Delta = msgspec.field(default_factory=_Delta)
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None
    stop_reason: str | int | None = None


class _PromptDetails(msgspec.Struct):
    cached_tokens: int | None = None


class _CompletionDetails(msgspec.Struct):
    reasoning_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int | None = None
    prompt_tokens_details: _PromptDetails | None = None
    completion_tokens_details: _CompletionDetails | None = None


class Chunk(msgspec.Struct):
    """One event of a stream. ``error`` is there where the server could not go on."""

    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: object = None

    @property
    def says(self) -> bool:
        """Whether it is more than a sign of life."""
        deltas = ((choice.delta, choice.finish_reason) for choice in self.choices)
        return any(
            delta.content or delta.reasoning_content or delta.reasoning or delta.tool_calls or end
            for delta, end in deltas
        )


class Unusable(Nonsense):
    """What the model wrote is no answer; its server may be sound."""


def chunk_of(data: bytes) -> Chunk:
    """Raises `Nonsense`."""
    try:
        return from_json(data, Chunk)
    except (msgspec.DecodeError, RecursionError) as error:
        raise Nonsense("a chunk that is none") from error


class Reader:
    """Reads one answer. ``began`` is when its request arrived, ``clock`` tells the same time.

    Without ``parallel_calls`` only the first call is told. ``first_token`` and ``first_answer`` are
    seconds after ``began``.
    """

    def __init__(
        self,
        *,
        began: float,
        seed: int | None,
        parallel_calls: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._began = began
        self._seed = seed
        self._parallel_calls = parallel_calls
        self._clock = clock
        self._usage: _Usage | None = None
        self._begun = False
        self._call: int | None = None  # its index there
        self._calls = 0
        self._arguments: list[str] = []
        self._deltas = 0
        self._reason: EndReason | None = None
        self._stop: str | None = None
        self.first_token: float | None = None
        self.first_answer: float | None = None

    @property
    def complete(self) -> bool:
        """Whether the upstream has said why it ended."""
        return self._reason is not None

    @property
    def counted(self) -> bool:
        """Whether the upstream has said what was used; else every delta counts as a token."""
        return self._usage is not None

    @property
    def usage(self) -> AnswerUsage:
        """What has been read and written so far, as far as it is known."""
        usage = self._usage or _Usage()
        prompt, completion = usage.prompt_tokens_details, usage.completion_tokens_details
        written = usage.completion_tokens
        return AnswerUsage(
            prompt_tokens=usage.prompt_tokens,
            cached_tokens=(prompt.cached_tokens or 0) if prompt else 0,
            completion_tokens=self._deltas if written is None else written,
            reasoning_tokens=(completion.reasoning_tokens or 0) if completion else 0,
        )

    def read(self, chunk: Chunk) -> list[Part]:
        """What a chunk says. Raises `Nonsense`."""
        if chunk.error is not None:
            raise Nonsense("an error in the middle of its answer")
        if chunk.usage is not None:
            self._usage = chunk.usage
        parts: list[Part] = []
        for choice in chunk.choices[:1]:
            parts += self._delta(choice)
            if choice.finish_reason is not None:
                parts += self._finished(choice)
        if (parts or self.complete) and not self._begun:
            self._begun = True
            self.first_token = self._clock() - self._began
            used = self.usage
            parts.insert(0, Begun(used.prompt_tokens, used.cached_tokens))
        return parts

    def ended(self) -> Ended:
        """The last part, after `complete`."""
        assert self._reason is not None
        reason = self._reason
        if self._calls and reason is EndReason.STOP:
            reason = EndReason.TOOL_CALLS
        now = self._clock()
        first = self.first_token or 0.0
        return Ended(
            reason=reason,
            usage=self.usage,
            timings=Timings(0.0, first, now - self._began - first),
            seed=self._seed,
            stop=self._stop,
            first_answer=self.first_answer,
        )

    def _delta(self, choice: _Choice) -> list[Part]:
        delta, parts = choice.delta, list[Part]()
        if thought := delta.reasoning_content or delta.reasoning:
            parts.append(ReasoningDelta(thought))
        found = _logprobs(choice.logprobs)
        text = (delta.content or "") + (delta.refusal or "")
        if text or found:
            parts.append(ContentDelta(text, found))
        for call in delta.tool_calls or ():
            parts += self._called(call)
        if parts:
            self._deltas += 1
            if text or delta.tool_calls:
                self._answered()
        return parts

    def _answered(self) -> None:
        if self.first_answer is None:
            self.first_answer = self._clock() - self._began

    def _called(self, call: _Call) -> list[Part]:
        parts: list[Part] = []
        function = call.function or _Function()
        if call.index != self._call:
            if self._call is not None and call.index < self._call:
                raise Nonsense("tool calls that are mixed up")
            if not function.name:
                raise Nonsense("a tool call without a name")
            parts += self._close_call()
            self._call = call.index
            self._calls += 1
            if self._told:
                identity = call.id or f"call_{uuid.uuid4().hex[:24]}"
                parts.append(ToolCallBegun(self._calls - 1, identity, function.name))
        if function.arguments and self._told:
            self._arguments.append(function.arguments)
            parts.append(ToolCallDelta(self._calls - 1, function.arguments))
        return parts

    @property
    def _told(self) -> bool:
        """Whether the call of the moment is."""
        return self._parallel_calls or self._calls == 1

    def _close_call(self) -> list[Part]:
        """Arguments are one JSON object; some servers write none as nothing."""
        if self._call is None or (not self._told):
            return []
        said, self._arguments = "".join(self._arguments), []
        if not said.strip():
            return [ToolCallDelta(self._calls - 1, "{}")]
        try:
            from_json(said, dict)
        except (msgspec.DecodeError, RecursionError) as error:
            raise Unusable("a tool call whose arguments are no JSON object") from error
        return []

    def _finished(self, choice: _Choice) -> list[Part]:
        reason = _REASONS.get(choice.finish_reason or "")
        if reason is None:  # filtered, aborted: that is no answer
            raise Unusable("an end that is none of ours")
        # A call that was cut off is told as far as it came.
        parts = [] if reason is EndReason.LENGTH else self._close_call()
        if reason is EndReason.STOP and isinstance(choice.stop_reason, str):
            reason, self._stop = EndReason.STOP_STRING, choice.stop_reason
        self._reason = reason
        return parts


def _logprobs(found: _Logprobs | None) -> tuple[TokenLogprob, ...]:
    if found is None or not found.content:
        return ()
    return tuple(
        TokenLogprob(_alternative(each), tuple(map(_alternative, each.top_logprobs)))
        for each in found.content
    )


def _alternative(found: _Top) -> Alternative:
    try:
        piece = bytes(found.bytes) if found.bytes is not None else found.token.encode()
    except (ValueError, UnicodeEncodeError) as error:
        raise Nonsense("bytes of a token that are none") from error
    return Alternative(NO_TOKEN, piece, found.logprob)
