"""One answer of vLLM's as events, over one exchange or two. Pure; the clock is the caller's."""

from __future__ import annotations

from dataclasses import replace

from freehold.domain.chat import GenerateRequest
from freehold.domain.errors import EngineError
from freehold.domain.events import (
    Event,
    Finished,
    FinishReason,
    PromptProcessed,
    TextDelta,
    Timings,
    TokenLogprob,
    Usage,
)
from freehold.domain.sampling import Constraint
from freehold.engines.answer import Answer
from freehold.engines.vllm.hearing import Choice, Chunk, Heard, Listener
from freehold.engines.vllm.phases import Course, Next
from freehold.text.token_table import TokenTable


class Telling:
    """``request`` has a seed; ``context`` is what it has to fit, in tokens; ``began`` and every
    ``now`` are in seconds of one clock.
    """

    def __init__(
        self, request: GenerateRequest, table: TokenTable, context: int, began: float
    ) -> None:
        room = context - len(request.prompt)
        self._asked = replace(request, max_tokens=min(request.max_tokens, room))
        self._table = table
        self._began = began
        self._course = Course(self._asked)
        self._cached = 0
        self._cached_counts = True
        self.prompt_logprobs: tuple[TokenLogprob, ...] = ()
        self._begin()

    def _begin(self) -> None:
        """Nothing is said yet."""
        self._answer = Answer(self._asked)
        self._listener = Listener(self._asked, self._table, self._answer)
        self._held: list[Heard] = []
        self._first: float | None = None
        self._tokens = 0
        self._reason: FinishReason | None = None
        self._next = Next.GO_ON

    @property
    def request(self) -> GenerateRequest:
        """What to ask now."""
        return self._course.request

    @property
    def constraint(self) -> Constraint | None:
        """What to ask it with."""
        return self._course.constraint

    @property
    def cut(self) -> bool:
        """Whether this exchange is to be broken off: the rest is not wanted."""
        return self._next in (Next.BIND, Next.RESTART) or self._answer.stop is not None

    def read_before(self) -> None:
        """The prompt was read by another exchange, in time; what it cached here is its own."""
        self._course = Course(replace(self._asked, deadline=None))
        self._cached_counts = False

    def hear(self, chunk: Chunk, now: float) -> list[Event]:
        """Raises `EngineError` for an answer that was broken off."""
        counts = self._course.first and self._cached_counts
        if chunk.cached_tokens is not None and counts:
            self._cached = chunk.cached_tokens
        events: list[Event] = []
        for whole in chunk.choices:
            self._next, choice = self._follow(whole)
            if self._next is Next.RESTART:
                return []
            heard = self._listener.hear(choice)
            self._reason = heard.reason
            if self._course.deciding and heard.reason is None:
                self._held.append(heard)
            else:
                events += self._shown(heard, now)
        return events

    def _follow(self, choice: Choice) -> tuple[Next, Choice]:
        """What follows, and what of the chunk counts: nothing behind the end of the free part.

        vLLM sends a token at a time while its reader keeps up, and merges what is left lying.
        """
        tokens = choice.token_ids or ()
        if not self._course.free:
            return Next.GO_ON, choice
        for count, token in enumerate(tokens, 1):
            following = self._course.hear(token, self._listener.piece(token))
            if following is Next.BIND:
                return following, choice.cut(count)
            if following is Next.RESTART:
                return following, choice
        return Next.GO_ON, choice

    def _shown(self, heard: Heard, now: float) -> list[Event]:
        """What was held and what is new; the first brings the prompt's along."""
        events: list[Event] = []
        if self._first is None:
            self._first = now
            events.append(self._processed())
        for each in (*self._held, heard):
            if each.text or each.tokens:
                self._tokens += len(each.tokens)
                events.append(TextDelta(each.text, each.tokens, each.logprobs))
        self._held.clear()
        return events

    def _processed(self) -> PromptProcessed:
        return PromptProcessed(len(self._asked.prompt), self._cached, self.prompt_logprobs)

    def go_on(self) -> bool:
        """After an exchange: whether another follows. Then it is the one to ask now."""
        following, self._next = self._next, Next.GO_ON
        if following is Next.RESTART:
            self._course.restart()
            self._begin()
            return True
        if following is Next.BIND:
            self._course.bind()
            if self._course.request.max_tokens > 0:
                return True
            self._reason = FinishReason.LENGTH
        return False

    def end(self, now: float) -> list[Event]:
        """After the last exchange. Raises `EngineError` if that was broken off."""
        if self._reason is None:
            raise EngineError("vLLM ended the answer without saying how.")
        events: list[Event] = []
        if self._first is None:  # it ended with its first token
            self._first = now
            events.append(self._processed())
        reason, stop = self._reason, self._answer.stop
        if stop is None:
            spoken = self._answer.end(reason)
            reason, stop = spoken.reason or reason, self._answer.stop
            if spoken.text:
                events.append(TextDelta(spoken.text, ()))
        usage = Usage(len(self._asked.prompt), self._cached, self._tokens)
        timings = Timings(0.0, self._first - self._began, now - self._first, queue_told=False)
        seed = self._asked.sampling.seed
        return [*events, Finished(reason, usage, timings, seed=seed, stop=stop)]
