"""The engine's loop without processes: the test's own thread drives it, step by step."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from freehold.domain.chat import GenerateRequest
from freehold.domain.events import FinishReason, PromptProcessed, TokenLogprob, Usage
from freehold.domain.sampling import Sampling
from freehold.engines.base import EngineConfig
from freehold.engines.llamacpp.binding import Context
from freehold.engines.llamacpp.inbox import Closed, Inbox
from freehold.engines.llamacpp.loop import Loop
from freehold.engines.llamacpp.messages import (
    AdapterReply,
    Generate,
    Inspect,
    Inspected,
    SequenceDelta,
    Step,
)
from freehold.engines.llamacpp.outbox import Outbox
from freehold.text.vocabulary import start_native

GREEDY = Sampling(temperature=0)


@dataclass
class Answer:
    """All that was said about one request, as one."""

    tokens: tuple[int, ...] = ()
    text: str = ""
    logprobs: tuple[TokenLogprob, ...] = ()
    processed: PromptProcessed | None = None
    reason: FinishReason | None = None
    usage: Usage | None = None
    failed: str | None = None

    @property
    def over(self) -> bool:
        return self.reason is not None or self.failed is not None

    def hear(self, delta: SequenceDelta) -> None:
        assert not self.over, "an answer went on after its end"
        self.tokens += delta.tokens
        self.text += delta.text
        self.logprobs += delta.logprobs
        self.processed = self.processed or delta.processed
        if delta.finished is not None:
            self.reason, self.usage = delta.finished.reason, delta.finished.usage
        if delta.failed is not None:
            self.failed = delta.failed.message


@dataclass
class Stage:
    """A context and its loop. ``before_step`` is called before each step.

    ``gone`` are requests that were cancelled: what is still said to them is not heard.
    """

    context: Context
    loop: Loop
    inbox: Inbox
    outbox: Outbox
    before_step: Callable[[], None] = lambda: None
    answers: dict[str, Answer] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)
    inspected: Inspected | None = None
    replies: list[AdapterReply] = field(default_factory=list)
    steps: int = 0

    def ask(self, request: GenerateRequest) -> None:
        self.answers[request.request_id] = Answer()
        self.inbox.put(Generate(request))

    def turn(self) -> None:
        """Hear what was said to the loop, make one step, hear what it says."""
        self.before_step()
        if self.loop.drain(wait=False):
            self.loop.step()
        self.steps += 1
        self._listen()

    def _listen(self) -> None:
        while not self.outbox.empty:
            message = self.outbox.take()
            if isinstance(message, Step):
                for delta in message.deltas:
                    if delta.request_id not in self.gone:
                        self.answers[delta.request_id].hear(delta)
            elif isinstance(message, Inspected):
                self.inspected = message
            elif isinstance(message, AdapterReply):
                self.replies.append(message)

    def inspect(self) -> Inspected:
        self.inbox.put(Inspect())
        self.turn()
        assert self.inspected is not None
        return self.inspected

    def play(self, limit: int = 100_000) -> None:
        """Until every request has its answer."""
        for _ in range(limit):
            if all(answer.over for answer in self.answers.values()) and self.outbox.empty:
                return
            self.turn()
        raise AssertionError("the loop goes on for ever")

    def answer_all(self, requests: Sequence[GenerateRequest]) -> list[Answer]:
        """Ask them all at once and play to the end."""
        for request in requests:
            self.ask(request)
        self.play()
        return [self.answers[request.request_id] for request in requests]


@contextlib.contextmanager
def staged(path: Path, config: EngineConfig) -> Iterator[Stage]:
    start_native()
    config = replace(config, paths=(str(path),))
    context = Context(config)
    inbox, outbox = Inbox(), Outbox()
    stage = Stage(context, Loop(context, config, inbox, outbox), inbox, outbox)
    try:
        yield stage
    finally:
        inbox.put(Closed())
        context.close()


def config(*, context: int = 512, parallel: int = 4, **settings: object) -> EngineConfig:
    return replace(EngineConfig("test", (), context, parallel, threads=1), **settings)  # type: ignore[arg-type]


# Log-probabilities differ by so much between ways of computing the same: sums of float32 in
# another order, an f16 cache filled by another kernel, and, with quantised weights, activations
# quantised in blocks of other rows. See docs/engine.md.
TOLERANCE = 0.05
QUANTISED_TOLERANCE = 0.5


def difference(one: Answer, other: Answer, tolerance: float = TOLERANCE) -> str | None:
    """How two greedy answers differ, in the sense of "the same answer"; None if they do not.

    Both need log-probabilities with two alternatives. The same tokens; or, where they part, two
    tokens whose log-probabilities are within ``tolerance`` of each other, in both.
    """
    for number, (left, right) in enumerate(zip(one.logprobs, other.logprobs, strict=False)):
        if left.chosen.token == right.chosen.token:
            gap = abs(left.chosen.logprob - right.chosen.logprob)
            if gap > tolerance:
                return f"token {number}: log-probabilities {gap:.3f} apart"
            continue
        for answer, rival in ((left, right.chosen.token), (right, left.chosen.token)):
            seconds = {entry.token: entry.logprob for entry in answer.top}
            if answer.chosen.logprob - seconds.get(rival, -math.inf) > tolerance:
                return f"token {number}: {left.chosen.token} and {right.chosen.token}, no tie"
        return None
    if len(one.tokens) != len(other.tokens):
        return f"{len(one.tokens)} and {len(other.tokens)} tokens"
    return None
