"""From engine events to parts of an answer, and the running of one or several."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import replace

import pytest

from freehold.domain.answers import (
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
from freehold.domain.chat import (
    ChatRequest,
    Conversation,
    GenerateRequest,
    ReasoningWish,
    Tool,
    ToolChoice,
)
from freehold.domain.errors import EngineError, InvalidRequest
from freehold.domain.events import (
    Alternative,
    Event,
    Finished,
    FinishReason,
    PromptProcessed,
    TextDelta,
    Timings,
    TokenLogprob,
    Usage,
)
from freehold.domain.sampling import Constraint, Grammar
from freehold.runtime.answering import Answer, Plan, collect, merged
from freehold.runtime.chat import told_of
from freehold.runtime.interpreter import Interpreter
from freehold.text.answer import AnswerParser, Call, ContentText, Piece, Plain
from freehold.text.expectation import Expectation
from freehold.text.reasoning import Marks, ReasoningParser

THINK = Marks("<think>", "</think>")
END = 99  # the token of </think>
TIMINGS = Timings(0.0, 1.0, 2.0)


class CallsInBraces:
    """Every ``{…}`` is a call of that name."""

    reasoning = False

    def __init__(self) -> None:
        self._held = ""

    def feed(self, text: str) -> tuple[Piece, ...]:
        self._held += text
        pieces: list[Piece] = []
        while "}" in self._held:
            before, _, rest = self._held.partition("{")
            name, _, self._held = rest.partition("}")
            pieces += [*([ContentText(before)] if before else []), Call(name, '{"x": 1}')]
        if "{" not in self._held and self._held:
            pieces.append(ContentText(self._held))
            self._held = ""
        return tuple(pieces)

    def finish(self) -> tuple[Piece, ...]:
        held, self._held = self._held, ""
        return (ContentText(held),) if held else ()


class InBraces:
    """Its family."""

    name, shown, takes_text = "braces", (), False

    def call_id(self, identity: str) -> str:
        return identity

    def parser(self, tools: Sequence[Tool]) -> AnswerParser:
        return CallsInBraces()

    def grammar(self, tools: Sequence[Tool], choice: ToolChoice) -> str:
        raise NotImplementedError


CALLS = Expectation(marks=None, inside=False, form=InBraces(), tools=(), constraint=None)
PLAIN = Expectation(marks=None, inside=False, form=None, tools=(), constraint=None)
REASONS = Expectation(marks=THINK, inside=True, form=None, tools=(), constraint=None)


def finished(reason: FinishReason = FinishReason.STOP, stop: str | None = None) -> Finished:
    return Finished(reason, Usage(5, 2, 3), TIMINGS, 7, stop)


def interpret(
    events: Sequence[Event], parser: AnswerParser | None = None, *, reasons: bool = False
) -> list[Part]:
    """Event number n comes n seconds after the request."""
    reader = Interpreter(parser or Plain(), reasoning_end=END if reasons else None, began=0.0)
    return [part for now, event in enumerate(events) for part in reader.read(event, float(now))]


def logprob(token: int) -> TokenLogprob:
    return TokenLogprob(Alternative(token, b"x", -0.5), ())


def test_a_plain_answer() -> None:
    *parts, last = interpret(
        [
            PromptProcessed(5, 2),
            TextDelta("All ", (1,)),
            TextDelta("", (2,)),
            TextDelta("well.", (3, 4)),
            finished(),
        ]
    )
    assert parts == [Begun(5, 2), ContentDelta("All "), ContentDelta("well.")]
    assert isinstance(last, Ended)
    assert last.reason is EndReason.STOP
    assert (last.usage.prompt_tokens, last.usage.cached_tokens) == (5, 2)
    assert (last.usage.completion_tokens, last.usage.reasoning_tokens) == (4, 0)
    assert (last.timings, last.seed, last.first_answer) == (TIMINGS, 7, 1.0)


def test_reasoning_is_split_off_and_counted() -> None:
    *parts, last = interpret(
        [
            PromptProcessed(5, 0),
            TextDelta("Hm", (1, 2)),
            TextDelta("m.</think>Yes", (3, END, 4)),
            finished(),
        ],
        ReasoningParser(THINK, Plain(), inside=True),
        reasons=True,
    )
    assert parts[1:] == [ReasoningDelta("Hm"), ReasoningDelta("m."), ContentDelta("Yes")]
    assert isinstance(last, Ended)
    assert (last.usage.completion_tokens, last.usage.reasoning_tokens) == (5, 4)
    assert last.first_answer == 2.0


def test_an_answer_that_came_without_reasoning_has_no_reasoning_tokens() -> None:
    *_, last = interpret(
        [PromptProcessed(5, 0), TextDelta("Y", (1,)), TextDelta("es", (2,)), finished()],
        ReasoningParser(THINK, Plain(), inside=False),
        reasons=True,
    )
    assert isinstance(last, Ended)
    assert last.usage.reasoning_tokens == 0


def test_reasoning_that_never_ended() -> None:
    *_, last = interpret(
        [PromptProcessed(5, 0), TextDelta("Hm", (1, 2)), finished(FinishReason.LENGTH)],
        ReasoningParser(THINK, Plain(), inside=True),
        reasons=True,
    )
    assert isinstance(last, Ended)
    assert (last.reason, last.usage.reasoning_tokens) == (EndReason.LENGTH, 2)
    assert last.first_answer is None


def test_calls() -> None:
    begun, content, first, arguments, second, _, last = interpret(
        [PromptProcessed(5, 0), TextDelta("So: {add", (1,)), TextDelta("}{sub}", (2,)), finished()],
        CallsInBraces(),
    )
    assert begun == Begun(5, 0)
    assert content == ContentDelta("So: ")
    assert isinstance(first, ToolCallBegun)
    assert isinstance(second, ToolCallBegun)
    assert [(first.number, first.name), (second.number, second.name)] == [(0, "add"), (1, "sub")]
    assert first.id != second.id
    assert arguments == ToolCallDelta(0, '{"x": 1}')
    assert isinstance(last, Ended)
    assert last.reason is EndReason.TOOL_CALLS


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (finished(), EndReason.STOP),
        (finished(FinishReason.LENGTH), EndReason.LENGTH),
        (finished(stop="\n"), EndReason.STOP_STRING),
    ],
)
def test_why_it_ended(event: Finished, reason: EndReason) -> None:
    last = interpret([PromptProcessed(1, 0), event])[-1]
    assert isinstance(last, Ended)
    assert (last.reason, last.stop) == (reason, event.stop)


def test_log_probabilities_are_all_told_in_order() -> None:
    parts = interpret(
        [
            PromptProcessed(5, 0),
            TextDelta("Hm</think>", (1, END), (logprob(1), logprob(END))),
            TextDelta("Y", (2,), (logprob(2),)),
            TextDelta("", (3,), (logprob(3),)),
            finished(),
        ],
        ReasoningParser(THINK, Plain(), inside=True),
        reasons=True,
    )
    found = [one.chosen.token for p in parts if isinstance(p, ContentDelta) for one in p.logprobs]
    assert found == [1, END, 2, 3]


# Answers while they run

Script = Callable[[GenerateRequest], Sequence[Event]]


class Engine:
    """Follows a script; notes what was asked and what was closed early."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self.asked: list[GenerateRequest] = []
        self.cancelled = 0

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Event, None]:
        self.asked.append(request)
        ended = False
        try:
            for event in self._script(request):
                await asyncio.sleep(0)
                if event is CRASH:
                    raise EngineError("It died.")
                ended = isinstance(event, Finished)
                yield event
        except (GeneratorExit, asyncio.CancelledError):
            self.cancelled += not ended
            raise


CRASH = PromptProcessed(-1, -1)


def whole(engine: Engine, plan: Plan, count: int = 1, max_tokens: int = 50) -> list[WholeAnswer]:
    asked = GenerateRequest("", (1, 2), max_tokens, deadline=9.0)

    async def run() -> list[WholeAnswer]:
        answers = tuple(
            Answer(engine.generate, replace(asked, request_id=str(n)), plan, END)
            for n in range(count)
        )
        return list(await collect(merged(answers), count))

    return asyncio.run(run())


def test_an_answer_is_put_together() -> None:
    engine = Engine(
        lambda _: [PromptProcessed(2, 0), TextDelta("a", (1,)), TextDelta("b", (2,)), finished()]
    )
    (answer,) = whole(engine, Plan("m", PLAIN, 0.0))
    assert (answer.content, answer.reasoning, answer.tool_calls) == ("ab", "", ())


def test_several_answers_are_kept_apart() -> None:
    engine = Engine(
        lambda r: [
            PromptProcessed(2, 0),
            *(TextDelta(r.request_id, (1,)) for _ in "abc"),
            finished(),
        ]
    )
    assert [a.content for a in whole(engine, Plan("m", PLAIN, 0.0), 3)] == ["000", "111", "222"]


def test_the_end_of_each_answer_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    whole(Engine(thinking), Plan("m", REASONS, 0.0, budget=5), 2)
    for number, line in enumerate(caplog.messages):
        assert line.startswith(f"answer={number} model='m' end=stop prompt_tokens=2 ")
        assert "completion_tokens=8 reasoning_tokens=6 " in line


def test_when_one_of_several_fails_all_end() -> None:
    def script(request: GenerateRequest) -> Sequence[Event]:
        if request.request_id == "1":
            return [PromptProcessed(2, 0), CRASH]
        return [PromptProcessed(2, 0), *(TextDelta("x", (1,)) for _ in range(1000)), finished()]

    engine = Engine(script)
    with pytest.raises(EngineError, match="died"):
        whole(engine, Plan("m", PLAIN, 0.0), 3)
    assert engine.cancelled == 2


def test_a_slow_reader_holds_several_answers_back() -> None:
    pulled = 0

    def script(_: GenerateRequest) -> Sequence[Event]:
        return [PromptProcessed(2, 0), *(TextDelta("x", (1,)) for _ in range(500)), finished()]

    class Counting(Engine):
        async def generate(self, request: GenerateRequest) -> AsyncGenerator[Event, None]:
            nonlocal pulled
            async with contextlib.aclosing(super().generate(request)) as events:
                async for event in events:
                    pulled += 1
                    yield event

    async def run() -> None:
        engine = Counting(script)
        answers = tuple(
            Answer(
                engine.generate, GenerateRequest(str(n), (1, 2), 600), Plan("m", PLAIN, 0.0), None
            )
            for n in range(3)
        )
        async with contextlib.aclosing(merged(answers)) as parts:
            await anext(parts)
            for _ in range(200):
                await asyncio.sleep(0)

    asyncio.run(run())
    assert pulled < 30


def test_an_engine_that_just_stops_is_an_error() -> None:
    with pytest.raises(EngineError, match="without finishing"):
        whole(Engine(lambda _: [PromptProcessed(2, 0)]), Plan("m", PLAIN, 0.0))


def thinking(request: GenerateRequest) -> Sequence[Event]:
    """Thinks for ever; answers as soon as its thoughts are ended for it."""
    if END in request.prompt:
        return [PromptProcessed(9, 8), TextDelta("So: 4", (5, 6)), finished()]
    return [PromptProcessed(2, 0), *(TextDelta("hm ", (n,)) for n in range(10, 40)), finished()]


def test_reasoning_is_cut_at_its_budget() -> None:
    engine = Engine(thinking)
    (answer,) = whole(engine, Plan("m", REASONS, 0.0, budget=5))
    assert answer.content == "So: 4"
    assert answer.reasoning == "hm hm hm hm hm"
    first, second = engine.asked
    assert second.prompt == (*first.prompt, 10, 11, 12, 13, 14, END)
    assert second.max_tokens == first.max_tokens - 6
    assert second.deadline is None
    usage = answer.ended.usage
    assert (usage.prompt_tokens, usage.cached_tokens) == (2, 0)
    assert (usage.completion_tokens, usage.reasoning_tokens) == (8, 6)
    assert engine.cancelled == 1


def test_the_constraint_holds_from_the_start_of_what_follows_the_cut() -> None:
    engine = Engine(thinking)
    form = Constraint(Grammar.REGEX, ".*", after="</think>")

    async def run() -> None:
        request = GenerateRequest("0", (1, 2), 50, constraint=form)
        async for _ in Answer(engine.generate, request, Plan("m", REASONS, 0.0, 5), END).parts():
            pass

    asyncio.run(run())
    assert [each.constraint for each in engine.asked] == [form, Constraint(Grammar.REGEX, ".*")]


def test_without_a_budget_reasoning_goes_on() -> None:
    engine = Engine(thinking)
    (answer,) = whole(engine, Plan("m", REASONS, 0.0))
    assert answer.reasoning.count("hm") == 30
    assert len(engine.asked) == 1


def test_a_budget_that_leaves_no_room_for_an_answer_cuts_nothing() -> None:
    engine = Engine(thinking)
    whole(engine, Plan("m", REASONS, 0.0, budget=5), max_tokens=6)
    assert len(engine.asked) == 1


def test_reasoning_that_cannot_be_ended_takes_no_budget() -> None:
    engine = Engine(thinking)
    with pytest.raises(InvalidRequest, match="budget"):
        Answer(
            engine.generate, GenerateRequest("0", (1,), 9), Plan("m", REASONS, 0.0, budget=5), None
        )


def test_a_call_that_is_still_coming_is_no_reasoning() -> None:
    reader = Interpreter(
        ReasoningParser(THINK, CallsInBraces(), inside=True), reasoning_end=END, began=0.0
    )
    reader.read(PromptProcessed(2, 0), 0.0)
    reader.read(TextDelta("Hm</think>{ad", (1, END, 2)), 1.0)
    for token in range(3, 40):
        reader.read(TextDelta("d", (token,)), 2.0)
    assert (reader.reasoning, reader.reasoning_tokens) == (False, 2)


@pytest.mark.parametrize("text", ["{add}{sub} and", "{add}"])
def test_where_one_call_is_enough_the_answer_ends_with_it(text: str) -> None:
    """However much of it comes at once."""
    engine = Engine(lambda _: [PromptProcessed(2, 0), TextDelta(text, (1, 2)), finished()])

    async def run() -> list[Part]:
        request = GenerateRequest("0", (1, 2), 50)
        plan = Plan("m", CALLS, 0.0, parallel_calls=False)
        return [part async for part in Answer(engine.generate, request, plan, None).parts()]

    _, call, _, last = asyncio.run(run())
    assert isinstance(call, ToolCallBegun)
    assert isinstance(last, Ended)
    assert (call.name, last.reason) == ("add", EndReason.TOOL_CALLS)
    assert engine.cancelled == 1


def test_no_tokens_of_reasoning_are_no_reasoning() -> None:
    wish = ReasoningWish(enabled=True, budget=0)
    request = ChatRequest("m", Conversation((), reasoning=wish))
    assert told_of(request).reasoning == ReasoningWish(enabled=False)
