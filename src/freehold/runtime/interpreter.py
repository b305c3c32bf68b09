"""From an engine's events to the parts of an answer. Pure; the clock is the caller's."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from dataclasses import replace

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
    PromptRead,
    TextDelta,
    Timings,
    TokenLogprob,
)
from freehold.text.answer import AnswerParser, Call, ContentText, Piece, ReasoningText


class Interpreter:
    """Reads one answer. ``reasoning_end`` is the token that ends reasoning, if it is one token.

    ``began`` is when the request arrived; ``prompt_tokens``: how long its prompt is, if known.
    """

    def __init__(
        self,
        parser: AnswerParser,
        *,
        reasoning_end: int | None,
        began: float,
        prompt_tokens: int = 0,
    ) -> None:
        self._parser = parser
        self._reasoning_end = reasoning_end
        self._began = began
        self._begun: Begun | None = None
        self._read = PromptRead(0, prompt_tokens) if prompt_tokens else None
        self._calls = 0
        self._cut = False
        self._logprobs: tuple[TokenLogprob, ...] = ()
        self._first_answer: float | None = None
        self._first_token: float | None = None
        self._latest_token: float | None = None
        self.tokens: list[int] = []
        self.reasoning_tokens = 0

    @property
    def reasoning(self) -> bool:
        """Whether it is in the middle of its reasoning."""
        return self._parser.reasoning

    @property
    def calls(self) -> int:
        """Calls the answer holds so far."""
        return self._calls

    @property
    def usage(self) -> AnswerUsage:
        """What has been read and written so far."""
        begun = self._begun or Begun(0, 0)
        return AnswerUsage(
            prompt_tokens=begun.prompt_tokens,
            cached_tokens=begun.cached_tokens,
            completion_tokens=len(self.tokens),
            reasoning_tokens=self.reasoning_tokens,
        )

    @property
    def reading(self) -> PromptRead | None:
        """How far the prompt has been read, until the first token comes."""
        return self._read if self._begun is None else None

    @property
    def first_token(self) -> float | None:
        """How many seconds after the request's arrival the first token came (TTFT)."""
        return None if self._first_token is None else self._first_token - self._began

    @property
    def first_answer(self) -> float | None:
        """The same of the first part that is not reasoning (TTFA)."""
        return self._first_answer

    @property
    def writing(self) -> float:
        """Seconds from the first token to the latest."""
        if self._first_token is None or self._latest_token is None:
            return 0.0
        return self._latest_token - self._first_token

    def read(self, event: Event, now: float) -> list[Part]:
        """What an event says. A second `PromptProcessed` and its like are the same answer's."""
        match event:
            case PromptRead():
                self._read = event
                return []
            case PromptProcessed(prompt_tokens, cached_tokens, logprobs):
                if self._begun is not None:
                    return []
                self._begun = Begun(prompt_tokens, cached_tokens, logprobs)
                self._first_token = now
                return [self._begun]
            case TextDelta(text, tokens, logprobs):
                self._logprobs += logprobs
                self._latest_token = now
                before = self._parser.reasoning
                pieces = self._parser.feed(text)
                self._count(tokens, pieces, before=before)
                return self._parts(pieces, now)
            case Finished(reason, usage, timings, seed, stop):
                if self._begun is not None and not self._cut:  # some engines know it only now
                    self._begun = replace(self._begun, cached_tokens=usage.cached_tokens)
                if self._cut:  # the engine measured the rest alone
                    timings = self.measured(now)
                return [*self.rest(now), self.ended(_reason(reason, stop), timings, seed, stop)]

    def close_reasoning(self, marks_end: str, now: float) -> list[Part]:
        """The end mark is put in the model's mouth."""
        self._cut = True
        return self._parts(self._parser.feed(marks_end), now)

    def measured(self, now: float) -> Timings:
        """As seen from here: waiting counts as reading the prompt."""
        first = self._first_token if self._first_token is not None else now
        return Timings(0.0, first - self._began, now - first)

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
        if self._calls and reason is EndReason.STOP:
            reason = EndReason.TOOL_CALLS
        return Ended(
            reason=reason,
            usage=self.usage,
            timings=timings,
            seed=seed,
            stop=stop,
            first_answer=self._first_answer,
        )

    def _count(self, tokens: tuple[int, ...], pieces: Iterable[Piece], *, before: bool) -> None:
        """``before``: these tokens came in the middle of reasoning."""
        self.tokens.extend(tokens)
        if self._parser.reasoning:
            self.reasoning_tokens += len(tokens)
        elif before or any(isinstance(piece, ReasoningText) for piece in pieces):
            end = self._reasoning_end
            inside = tokens.index(end) + 1 if end is not None and end in tokens else len(tokens)
            self.reasoning_tokens += inside

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
