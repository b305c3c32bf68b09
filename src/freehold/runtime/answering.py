"""One answer while it runs: events in, parts out; reasoning cut at its budget.

engine ──events──▶ Interpreter ──parts──▶
   ▲                    │ reasoning has used its budget
   └── the same prompt and what was said, with the end mark behind it ◀┘
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field, replace
from typing import Protocol

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
    WholeAnswer,
)
from freehold.domain.chat import GenerateRequest, ToolCall
from freehold.domain.errors import EngineError, FreeholdError, InvalidRequest
from freehold.domain.events import Event, TextDelta, TokenLogprob
from freehold.runtime.accounting import Account, Closing
from freehold.runtime.interpreter import Interpreter
from freehold.runtime.observing import ModelTally, Pace, Reading, Written
from freehold.text.expectation import Expectation

Generate = Callable[[GenerateRequest], AsyncGenerator[Event, None]]


@dataclass(frozen=True)
class Plan:
    """How all answers to one request are read. ``began``: when it arrived (monotonic seconds).

    ``budget`` bounds the tokens of reasoning. Without ``parallel_calls`` an answer ends with its
    first call. ``said``: the text of an answer that is gone on with. ``model`` is its name,
    ``tally`` where its answers are counted, ``reads`` is told of each when it begins, ``took`` at
    its end what it used, however it ended.
    """

    model: str
    expected: Expectation
    began: float
    budget: int | None = None
    parallel_calls: bool = True
    said: str = ""
    tally: ModelTally = field(default_factory=ModelTally)
    reads: Callable[[Reading], None] = lambda _: None
    took: Callable[[AnswerUsage], None] = lambda _: None

    @property
    def account(self) -> Account:
        return Account(self.model, self.tally, self.reads, self.took)


class Answering(Protocol):
    """An answer that can be run, once. Closing the iterator early cancels."""

    @property
    def seen(self) -> Written:
        """What there is of it, at any time."""
        ...

    def parts(self) -> AsyncGenerator[Part, None]: ...


class Answer:
    """One answer, not yet begun. Raises `InvalidRequest` if its reasoning cannot be cut."""

    def __init__(
        self, generate: Generate, request: GenerateRequest, plan: Plan, reasoning_end: int | None
    ) -> None:
        if plan.budget is not None and reasoning_end is None:
            raise InvalidRequest(
                "This model's reasoning cannot be cut at a budget: no token of its own ends it.",
                field="reasoning",
            )
        self._generate = generate
        self._request = request
        self._plan = plan
        self._reasoning_end = reasoning_end
        parser = plan.expected.parser()
        parser.feed(plan.said)  # what it says has been told before
        self._reader = Interpreter(
            parser,
            reasoning_end=reasoning_end,
            began=plan.began,
            prompt_tokens=len(request.prompt),
        )

    @property
    def seen(self) -> Written:
        return self._reader

    async def parts(self) -> AsyncGenerator[Part, None]:
        """Run it, once. Closing the iterator early cancels. Its end is logged, however it comes."""
        reader, account = self._reader, self._plan.account
        account.open(reader)
        end, ended = "cancelled", None
        try:
            async with contextlib.aclosing(self._run(reader)) as parts:
                async for part in parts:
                    if isinstance(part, Ended):
                        end, ended = part.reason.value, part.timings
                    yield part
        except FreeholdError as error:
            end = error.code
            raise
        finally:
            decode = ended.decode if ended is not None else 0.0
            decode = decode or reader.measured(time.monotonic()).decode
            queued = ended.queued if ended is not None and ended.queue_told else None
            closing = Closing(self._request.request_id, end, queued, decode)
            account.close(closing, reader)

    async def _run(self, reader: Interpreter) -> AsyncGenerator[Part, None]:
        request: GenerateRequest | None = self._request
        pace = Pace(self._plan.tally.between_tokens)
        while request is not None:
            following = None
            async with contextlib.aclosing(self._generate(request)) as events:
                async for event in events:
                    now = time.monotonic()
                    if isinstance(event, TextDelta):
                        pace.hear(len(event.tokens), now)
                    parts = self._wanted(reader, reader.read(event, now))
                    for part in parts:
                        yield part
                    if parts and isinstance(parts[-1], Ended):
                        return
                    if self._spent(reader):
                        following = self._cut(reader)
                        break
                else:
                    raise EngineError("The engine ended without finishing the answer.")
            for part in self._after_cut(reader):
                yield part
            request = following

    def _spent(self, reader: Interpreter) -> bool:
        budget = self._plan.budget
        room = self._request.max_tokens - len(reader.tokens)
        spent = budget is not None and reader.reasoning and reader.reasoning_tokens >= budget
        return spent and room > 1

    def _cut(self, reader: Interpreter) -> GenerateRequest:
        """Go on behind the end of reasoning, from what was said before it."""
        marks, constraint = self._plan.expected.marks, self._request.constraint
        assert self._reasoning_end is not None
        assert marks is not None
        reader.tokens.append(self._reasoning_end)
        reader.reasoning_tokens += 1
        if constraint is not None and constraint.after == marks.end:
            constraint = replace(constraint, after=None)
        return replace(
            self._request,
            request_id=uuid.uuid4().hex,
            prompt=(*self._request.prompt, *reader.tokens),
            max_tokens=self._request.max_tokens - len(reader.tokens),
            constraint=constraint,
            deadline=None,  # the answer has begun
            prompt_logprobs=None,
        )

    def _after_cut(self, reader: Interpreter) -> list[Part]:
        marks = self._plan.expected.marks
        assert marks is not None
        return reader.close_reasoning(marks.end, time.monotonic())

    def _wanted(self, reader: Interpreter, parts: list[Part]) -> list[Part]:
        """All of it; or, where one call is enough, up to the end of that."""
        if self._plan.parallel_calls or not reader.calls:
            return parts
        end = next(n for n, part in enumerate(parts, 1) if isinstance(part, ToolCallDelta))
        timings = reader.measured(time.monotonic())
        return [*parts[:end], reader.ended(EndReason.TOOL_CALLS, timings, None)]


async def merged(answers: tuple[Answering, ...]) -> AsyncGenerator[tuple[int, Part], None]:
    """The parts of all answers as they come, each with its answer's number.

    The first failure of any is raised, and ends the others.
    """
    if len(answers) == 1:
        async with contextlib.aclosing(answers[0].parts()) as parts:
            async for part in parts:
                yield 0, part
        return
    # Short: a reader who is slow holds the answers back, and the engine merges what they say.
    queue: asyncio.Queue[tuple[int, Part] | None] = asyncio.Queue(maxsize=2 * len(answers))

    async def follow(number: int, answer: Answering) -> None:
        async with contextlib.aclosing(answer.parts()) as parts:
            async for part in parts:
                await queue.put((number, part))

    tasks = [asyncio.create_task(follow(*pair)) for pair in enumerate(answers)]

    async def end() -> None:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        await queue.put(None)

    ending = asyncio.create_task(end())
    try:
        while (item := await queue.get()) is not None:
            yield item
        for task in tasks:
            if task.done():
                task.result()  # raises what it raised
    finally:
        for task in (ending, *tasks):
            task.cancel()
        await asyncio.gather(ending, *tasks, return_exceptions=True)


class Collector:
    """Puts the parts of one answer together."""

    def __init__(self) -> None:
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self._calls: list[tuple[ToolCallBegun, list[str]]] = []
        self._logprobs: list[TokenLogprob] = []
        self._begun: Begun | None = None
        self._ended: Ended | None = None

    def add(self, part: Part) -> None:
        match part:
            case Begun():
                self._begun = part
            case ReasoningDelta(text):
                self._reasoning.append(text)
            case ContentDelta(text, logprobs):
                self._content.append(text)
                self._logprobs += logprobs
            case ToolCallBegun():
                self._calls.append((part, []))
            case ToolCallDelta(number, arguments):
                self._calls[number][1].append(arguments)
            case Ended():
                self._ended = part

    def whole(self) -> WholeAnswer:
        """After `Ended`."""
        assert self._begun is not None
        assert self._ended is not None
        return WholeAnswer(
            content="".join(self._content),
            reasoning="".join(self._reasoning),
            tool_calls=tuple(
                ToolCall(call.id, call.name, "".join(arguments)) for call, arguments in self._calls
            ),
            logprobs=tuple(self._logprobs),
            begun=self._begun,
            ended=self._ended,
        )


async def collect(
    parts: AsyncGenerator[tuple[int, Part], None], count: int
) -> tuple[WholeAnswer, ...]:
    """All that `merged` gives, put together. Cancelling it cancels the answers."""
    collectors = [Collector() for _ in range(count)]
    async with contextlib.aclosing(parts):
        async for number, part in parts:
            collectors[number].add(part)
    return tuple(collector.whole() for collector in collectors)
