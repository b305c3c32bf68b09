"""From an engine's events to the parts of an answer. Pure; the clock is the caller's."""

from __future__ import annotations

import uuid
from collections.abc import Iterable

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
from freehold.domain.events import (
    Event,
    Finished,
    FinishReason,
    PromptProcessed,
    TextDelta,
    Timings,
    TokenLogprob,
)
from freehold.text.answer import AnswerParser, Call, ContentText, Piece, ReasoningText


class Interpreter:
    """Reads one answer. ``reasoning_end`` is the token that ends reasoning, if it is one token.

    ``reasons``: the answer may begin with reasoning. ``began`` is when the request arrived.
    """

    def __init__(
        self, parser: AnswerParser, *, reasons: bool, reasoning_end: int | None, began: float
    ) -> None:
        self._parser = parser
        self._reasoning_end = reasoning_end
        self._began = began
        self._begun: Begun | None = None
        self._calls = 0
        self._logprobs: tuple[TokenLogprob, ...] = ()
        self._first_answer: float | None = None
        self.reasoning = reasons
        self.tokens: list[int] = []
        self.reasoning_tokens = 0

    @property
    def calls(self) -> int:
        """Calls the answer holds so far."""
        return self._calls

    def read(self, event: Event, now: float) -> list[Part]:
        """What an event says. A second `PromptProcessed` and its like are the same answer's."""
        match event:
            case PromptProcessed(prompt_tokens, cached_tokens, logprobs):
                if self._begun is not None:
                    return []
                self._begun = Begun(prompt_tokens, cached_tokens, logprobs)
                return [self._begun]
            case TextDelta(text, tokens, logprobs):
                self._logprobs += logprobs
                pieces = self._parser.feed(text)
                self._count(tokens, pieces)
                return self._parts(pieces, now)
            case Finished(reason, _, timings, seed, stop):
                return [*self.rest(now), self.ended(_reason(reason, stop), timings, seed, stop)]

    def close_reasoning(self, marks_end: str, now: float) -> list[Part]:
        """The end mark is put in the model's mouth."""
        self.reasoning = False
        return self._parts(self._parser.feed(marks_end), now)

    def rest(self, now: float) -> list[Part]:
        """What was held back: nothing more comes."""
        parts = self._parts(self._parser.finish(), now)
        if self._logprobs:
            parts.append(ContentDelta("", self._taken()))
        return parts

    def ended(
        self, reason: EndReason, timings: Timings, seed: int | None, stop: str | None = None
    ) -> Ended:
        """The last part."""
        begun = self._begun or Begun(0, 0)
        if self._calls and reason is EndReason.STOP:
            reason = EndReason.TOOL_CALLS
        return Ended(
            reason=reason,
            usage=AnswerUsage(
                prompt_tokens=begun.prompt_tokens,
                cached_tokens=begun.cached_tokens,
                completion_tokens=len(self.tokens),
                reasoning_tokens=self.reasoning_tokens,
            ),
            timings=timings,
            seed=seed,
            stop=stop,
            first_answer=self._first_answer,
        )

    def _count(self, tokens: tuple[int, ...], pieces: Iterable[Piece]) -> None:
        self.tokens.extend(tokens)
        if not self.reasoning:
            return
        if self._reasoning_end is not None and self._reasoning_end in tokens:
            self.reasoning_tokens += tokens.index(self._reasoning_end) + 1
            self.reasoning = False
        elif all(isinstance(piece, ReasoningText) for piece in pieces):
            self.reasoning_tokens += len(tokens)
        else:  # there is no such token, or the answer began without reasoning
            self.reasoning = False
            if self._reasoning_end is not None:
                self.reasoning_tokens = 0

    def _parts(self, pieces: Iterable[Piece], now: float) -> list[Part]:
        parts: list[Part] = []
        for piece in pieces:
            match piece:
                case ReasoningText(text):
                    parts.append(ReasoningDelta(text))
                case ContentText(text):
                    self._answered(now)
                    parts.append(ContentDelta(text, self._taken()))
                case Call(name, arguments):
                    self._answered(now)
                    parts.append(ToolCallBegun(self._calls, f"call_{uuid.uuid4().hex[:24]}", name))
                    parts.append(ToolCallDelta(self._calls, arguments))
                    self._calls += 1
        return parts

    def _answered(self, now: float) -> None:
        if self._first_answer is None:
            self._first_answer = now - self._began

    def _taken(self) -> tuple[TokenLogprob, ...]:
        taken, self._logprobs = self._logprobs, ()
        return taken


def _reason(reason: FinishReason, stop: str | None) -> EndReason:
    if stop is not None:
        return EndReason.STOP_STRING
    return EndReason.LENGTH if reason is FinishReason.LENGTH else EndReason.STOP
