"""The loop over a context that only pretends: what it says, and that the cache never changes it."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt
import pytest

from freehold.domain.chat import AdapterUse, GenerateRequest
from freehold.domain.engine import CacheConfig, CacheLayout
from freehold.domain.errors import EngineError, InvalidRequest
from freehold.domain.events import FinishReason, PromptProcessed, PromptRead
from freehold.domain.sampling import Constraint, Grammar, Sampling
from freehold.engines.base import Adapter, AdapterKind, EngineConfig
from freehold.engines.llamacpp.messages import (
    AdapterReply,
    AddAdapter,
    Cancel,
    FromWorker,
    Generate,
    Inspect,
    Inspected,
    RemoveAdapter,
    SequenceDelta,
    Step,
)
from freehold.engines.llamacpp.outbox import STALL_SECONDS, Outbox
from freehold.engines.llamacpp.prefix import RECOMPUTED
from freehold.engines.llamacpp.sequence import PrefixKey
from freehold.weights.gguf_types import TensorType
from freehold.weights.gguf_writer import Tensor, write_gguf
from tests.unit.test_scheduler import Memory, Saved, SteadyPace

if TYPE_CHECKING:
    from freehold.engines.llamacpp.binding import Context, Entry
    from freehold.engines.llamacpp.inbox import Inbox, Item

pytestmark = pytest.mark.native  # the loop's neighbour is the binding

END, LETTERS = 0, 27
KEY = PrefixKey("", ())
LIMIT = 3000  # steps; no scene here is longer

Model = Callable[[list[int]], int]


def alphabet(said: list[int]) -> int:
    """The next letter; after z the turn ends."""
    return (said[-1] + 1) % LETTERS


def rambling(said: list[int]) -> int:
    """What comes next depends on everything said, and often repeats itself."""
    return 1 + (3 * said[-1] + sum(said) // 64) % 11


class PretendedVocabulary:
    """Token n is the n-th letter; 0 ends the turn."""

    size = LETTERS
    ends = (END,)

    def is_end(self, token: int) -> bool:
        return token == END

    def piece(self, token: int, *, special: bool = False) -> bytes:
        return bytes([96 + token])


class PretendedContext:
    """Says what its ``model`` says after what is really in its cache.

    Calls ``before`` with the number of each step. Where ``cuts`` is False it cannot take wrong
    guesses out again.
    """

    layers, width = 3, 4

    def __init__(
        self, before: Callable[[int], None], config: EngineConfig, model: Model, *, cuttable: bool
    ) -> None:
        self.vocabulary = PretendedVocabulary()
        self.layout = config.cache.layout
        self.context = config.context
        unified = self.layout is CacheLayout.UNIFIED
        self.streams = config.parallel + (4 if unified else 0)
        self.cells = config.cache.cells or self.context * config.parallel
        self.outputs = 32
        self.cuttable = cuttable
        self.memory = Memory(self.streams, self.cells if unified else None, cuttable=cuttable)
        self.loras: list[object] = []
        self.controls: list[npt.NDArray[np.float32] | None] = []
        self.in_force: list[npt.NDArray[np.float32] | None] = []
        self.asked: list[Callable[[], bool] | None] = []
        self.decode_seconds = 0.0
        self.steps = 0
        self.rows = 0
        self._before = before
        self._model = model
        self._control: npt.NDArray[np.float32] | None = None

    # Cache

    def truncate(self, stream: int, keep: int) -> int:
        return self.memory.truncate(stream, keep)

    def copy(self, source: int, target: int, keep: int) -> int:
        return self.memory.copy(source, target, keep)

    def save(self, stream: int) -> Saved:
        return self.memory.save(stream)

    def saved_size(self, stream: int) -> int:
        return self.memory.saved_size(stream)

    def restore(self, stream: int, blob: Saved, keep: int) -> int:
        return self.memory.restore(stream, blob, keep)

    # Steps

    def decode(
        self, entries: Sequence[Entry], abort: Callable[[], bool] | None = None
    ) -> list[npt.NDArray[np.float32]]:
        from freehold.engines.llamacpp.binding import Aborted, NoRoom

        self.steps += 1
        assert self.steps <= LIMIT, "the loop goes on for ever"
        self._before(self.steps)
        self.asked.append(abort)
        self.in_force.append(self._control)
        assert [entry.stream for entry in entries] == sorted({e.stream for e in entries})
        if not self.memory.has_room(sum(len(entry.tokens) for entry in entries)):
            raise NoRoom
        rows: list[npt.NDArray[np.float32]] = []
        for entry in entries:
            self.memory.write(entry.stream, entry.start, entry.tokens, KEY)
            if abort is not None and abort():
                raise Aborted
            held = self.memory.tokens(entry.stream)
            for end in range(len(held) - entry.outputs + 1, len(held) + 1):
                row = np.zeros(LETTERS, dtype=np.float32)
                row[self._model(held[:end])] = 5
                rows.append(row)
        self.rows += len(rows)
        return rows

    # Adapters

    def load_lora(self, path: str) -> object:
        return path

    def free_lora(self, handle: object) -> None:
        pass

    def set_loras(self, loras: Sequence[tuple[object, float]]) -> None:
        self.loras = [*loras]

    def set_control(self, directions: npt.NDArray[np.float32] | None) -> None:
        self._control = directions


def ending_inbox(owed: list[str]) -> Inbox:
    """One that ends instead of waiting, unless constraints of ``owed`` are being compiled."""
    from freehold.engines.llamacpp.inbox import Closed, Compiled, Inbox

    class EndingInbox(Inbox):
        def put(self, item: Item) -> None:
            super().put(item)
            if isinstance(item, Compiled):
                owed.remove(item.request_id)

        def get(self, *, wait: bool) -> Item | None:
            more = bool(owed)  # asked first: it may come in between
            item = super().get(wait=False)
            if item is None and wait:
                return super().get(wait=True) if more else Closed()
            return item

    return EndingInbox()


class Stage:
    """A loop with everything around it; `play` runs it until nobody is left to talk."""

    def __init__(
        self,
        *,
        parallel: int = 2,
        model: Model = alphabet,
        layout: CacheLayout = CacheLayout.STREAMS,
        cells: int | None = None,
        context: int = 64,
        cuttable: bool = True,
        drafts: bool = False,
        host_bytes: int = 1 << 20,
        chunk: int = 64,
    ) -> None:
        from freehold.engines.llamacpp.loop import Loop

        config = EngineConfig(
            model="pretended",
            paths=(),
            context=context,
            parallel=parallel,
            threads=1,
            cache=CacheConfig(layout=layout, cells=cells, host_bytes=host_bytes),
            drafts=drafts,
        )
        self.now = 0.0
        self.at_step: dict[int, Callable[[], None]] = {}
        self.compiling: list[str] = []
        self.inbox = ending_inbox(self.compiling)
        self.outbox = Outbox(lambda: self.now)
        self.context = PretendedContext(self._before, config, model, cuttable=cuttable)
        self.loop = Loop(cast("Context", self.context), config, self.inbox, self.outbox)
        self.loop.scheduler.pace = SteadyPace(chunk)  # no test may depend on the time it takes
        self.replies: list[AdapterReply | Inspected] = []

    def _before(self, step: int) -> None:
        for stream in self.loop.scheduler.streams:
            assert stream.content.tolist() == self.context.memory.tokens(stream.index)
        if action := self.at_step.get(step):
            action()

    def ask(
        self,
        name: str,
        *prompt: int,
        max_tokens: int = 50,
        stop: tuple[str, ...] = (),
        scope: str = "local",
        adapters: tuple[AdapterUse, ...] = (),
        constraint: Constraint | None = None,
        top_logprobs: int | None = None,
        prompt_logprobs: int | None = None,
    ) -> None:
        request = GenerateRequest(
            name,
            prompt,
            max_tokens,
            Sampling(temperature=0, stop=stop),
            cache_scope=scope,
            adapters=adapters,
            constraint=constraint,
            top_logprobs=top_logprobs,
            prompt_logprobs=prompt_logprobs,
        )
        if constraint is not None:
            self.compiling.append(name)
        self.inbox.put(Generate(request))

    def play(self) -> dict[str, SequenceDelta]:
        """What was said to each request, merged."""
        self.loop.run()
        self.outbox.close()
        said: FromWorker | None
        while isinstance(said := self.outbox.take(), AdapterReply | Inspected):
            self.replies.append(said)
        return {delta.request_id: delta for delta in said.deltas} if isinstance(said, Step) else {}


def answer(model: Model, prompt: Sequence[int], count: int, context: int = 64) -> tuple[int, ...]:
    """What ``model`` says to a prompt when it is asked alone, token by token."""
    said = [*prompt]
    while len(said) < min(len(prompt) + count, context) and (token := model(said)) != END:
        said.append(token)
    return tuple(said[len(prompt) :])


def usage(said: SequenceDelta) -> tuple[int, int]:
    """Cached and generated tokens."""
    assert said.finished is not None
    return said.finished.usage.cached_tokens, said.finished.usage.completion_tokens


# Answers


def test_an_ordinary_answer() -> None:
    stage = Stage()
    stage.ask("A", 20, 21)
    said = stage.play()["A"]
    assert said.processed == PromptProcessed(2, 0)
    assert said.text == "vwxyz"
    assert said.tokens == (22, 23, 24, 25, 26)
    assert said.finished is not None
    assert said.finished.reason is FinishReason.STOP
    assert said.finished.usage.completion_tokens == 5


def test_how_far_a_long_prompt_has_been_read_is_told_before_the_first_token() -> None:
    stage, heard = Stage(chunk=8), list[FromWorker | None]()
    for step in (2, 3, 4):
        stage.at_step[step] = lambda: heard.append(stage.outbox.take())
    stage.ask("A", *(1 + n % 20 for n in range(30)))
    said = stage.play()["A"]
    told = [step.deltas for step in heard if isinstance(step, Step)]
    assert [[delta.read for delta in deltas] for deltas in told[:2]] == [
        [PromptRead(read, 30)] for read in (8, 16)
    ]
    (last,) = told[2]
    assert last.read is not None
    assert 16 < last.read.read < 30
    assert all(delta.processed is None for deltas in told for delta in deltas)
    assert said.processed == PromptProcessed(30, 0)
    assert said.text == "klmnopqrstuvwxyz"


@pytest.mark.parametrize(
    ("max_tokens", "stop", "text", "reason"),
    [
        (3, (), "bcd", FinishReason.LENGTH),
        (50, ("de",), "bc", FinishReason.STOP),
        (3, ("de",), "bcd", FinishReason.LENGTH),
        (4, ("de",), "bc", FinishReason.STOP),
        (1, (), "b", FinishReason.LENGTH),
    ],
)
def test_limits(max_tokens: int, stop: tuple[str, ...], text: str, reason: FinishReason) -> None:
    stage = Stage()
    stage.ask("A", 1, max_tokens=max_tokens, stop=stop)
    said = stage.play()["A"]
    assert said.text == text
    assert said.finished is not None
    assert said.finished.reason is reason


def test_the_end_of_the_context() -> None:
    stage = Stage()
    stage.ask("A", *[1] * 60)
    said = stage.play()["A"]
    assert len(said.tokens) == 4
    assert said.finished is not None
    assert said.finished.reason is FinishReason.LENGTH


def test_more_requests_than_places() -> None:
    stage = Stage(parallel=2)
    for number in range(1, 8):
        stage.ask(str(number), number, max_tokens=3 * number)
    said = stage.play()
    for number in range(1, 8):
        assert said[str(number)].tokens == answer(alphabet, [number], 3 * number)


# Ends


def test_the_cancelled_say_no_more() -> None:
    stage = Stage()
    stage.ask("A", 1)
    stage.at_step[5] = lambda: stage.inbox.put(Cancel("A"))
    said = stage.play()["A"]
    assert said.tokens == (2, 3, 4, 5, 6)
    assert said.finished is None


def test_cancelling_whom_nobody_knows_is_ignored() -> None:
    stage = Stage()
    stage.inbox.put(Cancel("nobody"))
    stage.ask("A", 24)
    assert stage.play()["A"].text == "yz"


def test_cancelled_before_it_began() -> None:
    stage = Stage()
    stage.ask("A", 1)
    stage.inbox.put(Cancel("A"))
    assert stage.play() == {}
    assert stage.context.steps == 0


def test_a_failed_step_ends_its_requests_and_empties_their_streams() -> None:
    stage = Stage(parallel=1)

    def fail() -> None:
        raise EngineError("The step failed.")

    stage.at_step[3] = fail
    stage.ask("A", *range(1, 20))
    stage.ask("B", *range(1, 20), max_tokens=1)
    said = stage.play()
    assert said["A"].failed is not None
    assert said["A"].failed.message == "The step failed."
    assert said["A"].text == "tu"
    assert said["B"].text == "t"
    assert usage(said["B"]) == (0, 1)


def test_a_gateway_that_reads_again_learns_that_its_streams_have_ended() -> None:
    from freehold.engines.llamacpp.inbox import Closed

    stage = Stage()

    def pass_time() -> None:
        stage.now += STALL_SECONDS + 1
        stage.inbox.put(Closed())

    stage.ask("A", 1)
    stage.ask("B", 1)
    stage.at_step[3] = pass_time
    said = stage.play()
    for name in "AB":
        assert said[name].failed is not None
        assert said[name].finished is None


def test_a_step_that_somebody_waits_for_is_not_given_up() -> None:
    stage = Stage()
    stage.ask("A", 1, max_tokens=20)
    stage.ask("B", 24)
    stage.at_step[1] = lambda: stage.inbox.put(Cancel("A"))
    said = stage.play()
    assert said["B"].text == "yz"
    assert stage.context.steps == 3


def test_a_step_that_was_given_up_is_rolled_back() -> None:
    stage = Stage(context=200)
    prompt = [1 + n % 20 for n in range(150)]
    stage.ask("A", *prompt)

    def cancel() -> None:
        stage.inbox.put(Cancel("A"))
        stage.ask("B", *prompt, max_tokens=5)

    stage.at_step[2] = cancel
    said = stage.play()
    assert (said["A"].processed, said["A"].tokens, said["A"].finished) == (None, (), None)
    assert said["B"].tokens == answer(alphabet, prompt, 5, 200)
    cached, _ = usage(said["B"])
    assert 0 < cached < len(prompt) - RECOMPUTED


def test_a_step_that_says_something_is_not_given_up() -> None:
    stage = Stage()
    stage.ask("A", 1, max_tokens=3)
    stage.play()
    reads, *says = stage.context.asked
    assert reads is not None
    assert says == [None, None]


# The cache never changes what is said


def test_what_was_said_is_cached_for_the_next_turn() -> None:
    stage = Stage(parallel=1)
    prompt = [*range(1, 21)]
    stage.ask("A", *prompt, max_tokens=4)
    stage.ask("B", *range(1, 25), *[7] * 10, max_tokens=4)
    said = stage.play()
    assert said["B"].tokens == answer(alphabet, [7], 4)
    assert usage(said["B"]) == (23, 4)  # the last token of an answer is never computed


def test_nothing_is_cached_for_another_scope() -> None:
    stage = Stage(parallel=1)
    stage.ask("A", *range(1, 21), max_tokens=2, scope="ours")
    stage.ask("B", *range(1, 21), max_tokens=2, scope="theirs")
    assert usage(stage.play()["B"]) == (0, 2)


def conversations(stage: Stage, count: int) -> dict[str, tuple[int, ...]]:
    """Ask many things that share much; returns the prompts."""
    prompts = {}
    for number in range(count):
        own = [1 + (number * n) % 9 for n in range(5 + 7 * (number % 4))]
        prompts[str(number)] = (*([4, 2, 5] * 12)[: 40 - 8 * (number % 3)], *own)
        stage.ask(str(number), *prompts[str(number)], max_tokens=40)
    return prompts


@pytest.mark.parametrize("cuttable", [True, False])
@pytest.mark.parametrize("drafts", [True, False])
@pytest.mark.parametrize(
    ("layout", "cells"),
    [(CacheLayout.STREAMS, None), (CacheLayout.UNIFIED, None), (CacheLayout.UNIFIED, 150)],
)
def test_every_answer_is_the_answer_alone(
    layout: CacheLayout, cells: int | None, drafts: bool, cuttable: bool
) -> None:
    stage = Stage(
        parallel=4,
        model=rambling,
        layout=layout,
        cells=cells,
        context=120,
        drafts=drafts,
        cuttable=cuttable,
        host_bytes=200,
    )
    prompts = conversations(stage, 12)
    said = stage.play()
    assert {name: each.tokens for name, each in said.items()} == {
        name: answer(rambling, prompt, 40, 120) for name, prompt in prompts.items()
    }
    shelf = stage.loop.scheduler.shelf
    assert shelf.size <= 200
    assert {item.number for item in shelf} == stage.loop.cache.blobs.keys()


def test_without_room_the_newest_is_put_aside_and_answers_later() -> None:
    stage = Stage(parallel=3, model=rambling, layout=CacheLayout.UNIFIED, cells=170, context=120)
    for name in ("1", "2", "3"):
        stage.ask(name, *[int(name)] * 12, max_tokens=80)
    said = stage.play()
    assert stage.loop.scheduler.preemptions > 0
    for name in ("1", "2", "3"):
        assert said[name].tokens == answer(rambling, [int(name)] * 12, 80, 120)
        assert said[name].failed is None


def test_a_preempted_sequence_does_not_drive_out_the_others_again_and_again() -> None:
    """What a gone leader shared is still there, whatever the estimate of free room says."""
    stage = Stage(parallel=2, layout=CacheLayout.UNIFIED, cells=230, context=230, chunk=512)
    leader = [5] * 100
    stage.ask("leader", *leader, max_tokens=5)
    stage.ask("follower", *leader, *[1] * 30, max_tokens=20)
    stage.ask("new", *[2] * 130, max_tokens=20)
    said = stage.play()
    assert said["follower"].tokens == answer(alphabet, [1], 20)
    assert said["new"].tokens == answer(alphabet, [2], 20)


def test_where_there_is_less_room_than_was_thought_all_answer_one_after_the_other() -> None:
    stage = Stage(parallel=2, layout=CacheLayout.UNIFIED, cells=400, context=150, chunk=512)
    stage.context.memory.cells = 150
    stage.ask("older", *[5] * 60, max_tokens=20)
    stage.ask("newer", *[2] * 100, max_tokens=20)
    said = stage.play()
    assert said["older"].tokens == answer(alphabet, [5], 20)
    assert said["newer"].tokens == answer(alphabet, [2], 20)
    assert stage.context.steps < 100


def test_a_device_that_has_no_room_for_one_alone_ends_it_with_a_reason() -> None:
    from freehold.engines.llamacpp.binding import NoRoom

    stage = Stage(parallel=1)

    def no_room() -> None:
        raise NoRoom

    stage.at_step[2] = no_room
    stage.ask("A", 1)
    stage.ask("B", 24)
    said = stage.play()
    assert said["A"].failed is not None
    assert "room" in said["A"].failed.message
    assert said["B"].text == "yz"


# Drafts


def test_guesses_save_steps_and_change_nothing() -> None:
    prompt = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5] * 3

    def cycle(said: list[int]) -> int:
        return said[-11]

    plain, guessing = (Stage(model=cycle, context=200, drafts=d) for d in (False, True))
    for stage in (plain, guessing):
        stage.ask("A", *prompt, max_tokens=60)
    assert plain.play()["A"].tokens == guessing.play()["A"].tokens == answer(cycle, prompt, 60, 200)
    assert guessing.context.steps < plain.context.steps / 2


@pytest.mark.parametrize("max_tokens", range(1, 30, 3))
def test_no_guess_goes_beyond_the_end(max_tokens: int) -> None:
    stage = Stage(drafts=True, context=200)
    stage.ask("A", *[*range(1, 27)] * 2, *range(1, 4), max_tokens=max_tokens)
    said = stage.play()["A"]
    assert said.tokens == answer(alphabet, [3], max_tokens)
    assert usage(said) == (0, len(said.tokens))


def test_a_stop_string_inside_a_guess_ends_the_answer() -> None:
    stage = Stage(drafts=True, context=200)
    stage.ask("A", *[*range(1, 27)] * 2, *range(1, 4), stop=("lm",))
    said = stage.play()["A"]
    assert said.text == "defghijk"
    assert said.finished is not None
    assert said.finished.reason is FinishReason.STOP


def test_where_a_guess_cannot_be_taken_out_all_is_read_again() -> None:
    """A sliding window may have moved past what was committed."""
    stage = Stage(model=rambling, drafts=True, context=120)
    prompt = [*[4, 2, 5] * 10]

    def lose() -> None:
        stage.context.memory.loses = 5

    for step in range(2, 60, 3):
        stage.at_step[step] = lose
    stage.ask("A", *prompt, max_tokens=60)
    said = stage.play()["A"]
    assert said.failed is None
    assert said.tokens == answer(rambling, prompt, 60, 120)


# Log-probabilities


def test_every_token_comes_with_its_log_probability() -> None:
    stage = Stage(drafts=True, context=200)
    stage.ask("A", *[*range(1, 27)] * 2, 1, 2, 3, top_logprobs=2, max_tokens=10)
    said = stage.play()["A"]
    assert [each.chosen.token for each in said.logprobs] == [*said.tokens]
    for each in said.logprobs:
        assert each.chosen.logprob == pytest.approx(-np.log(1 + 26 * np.exp(-5)), abs=1e-4)
        assert each.top[0].token == each.chosen.token
        assert len(each.top) == 2


def prompt_logprobs(said: SequenceDelta) -> list[tuple[int, bool]]:
    """Each token, and whether it was the likeliest."""
    assert said.processed is not None
    return [
        (each.chosen.token, each.chosen.token == each.top[0].token)
        for each in said.processed.logprobs
    ]


def expected_logprobs(model: Model, prompt: Sequence[int]) -> list[tuple[int, bool]]:
    return [(prompt[at], prompt[at] == model([*prompt[:at]])) for at in range(1, len(prompt))]


@pytest.mark.parametrize("length", [1, 2, 31, 32, 33, 100])
def test_every_token_of_a_prompt_but_the_first_has_one(length: int) -> None:
    prompt = [1 + (n * n) % 9 for n in range(length)]
    stage = Stage(context=200, model=rambling)
    stage.ask("before", *prompt, max_tokens=1)
    stage.ask("A", *prompt, max_tokens=2, prompt_logprobs=1)
    said = stage.play()["A"]
    assert prompt_logprobs(said) == expected_logprobs(rambling, prompt)
    assert said.tokens == answer(rambling, prompt, 2, 200)
    assert said.processed is not None
    assert said.processed.cached_tokens == 0


def test_who_is_put_aside_while_its_prompt_is_shown_shows_each_token_once() -> None:
    prompt = [1 + (n * n) % 9 for n in range(100)]
    stage = Stage(context=200, model=rambling, layout=CacheLayout.UNIFIED, cells=600)
    stage.ask("older", 1, 2, 3, max_tokens=40)
    stage.ask("A", *prompt, max_tokens=2, prompt_logprobs=1)

    def no_room() -> None:
        from freehold.engines.llamacpp.binding import NoRoom

        raise NoRoom

    stage.at_step[3] = no_room
    said = stage.play()["A"]
    assert stage.loop.scheduler.preemptions == 1
    assert prompt_logprobs(said) == expected_logprobs(rambling, prompt)


# Constraints


class PretendedMatcher:
    """Allows the letters a, b and c in turn, ``count`` of them."""

    def __init__(self, count: int, *, breaks: bool = False) -> None:
        self._left, self._next, self._breaks = count, 1, breaks

    def mask(self) -> npt.NDArray[np.uint32]:
        if self._breaks and self._left == 1:
            raise InvalidRequest("The grammar has become too complex.", field="response_format")
        return np.array([1 << self._next], dtype=np.uint32)

    def accept(self, token: int) -> None:
        assert token == self._next
        self._left, self._next = self._left - 1, self._next % 3 + 1

    @property
    def finished(self) -> bool:
        return self._left == 0


@pytest.fixture
def pretended_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiles a number to so many letters; one with "!" breaks before the last."""
    from freehold.engines.llamacpp import grammars

    class PretendedCompiler:
        def __init__(self, vocabulary: object) -> None:
            pass

        def compile(self, constraint: Constraint) -> PretendedMatcher:
            number = constraint.text.removesuffix("!")
            if not number.isdecimal():
                raise InvalidRequest("That is no grammar.", field="response_format")
            return PretendedMatcher(int(number), breaks=number != constraint.text)

    monkeypatch.setattr(grammars, "ConstraintCompiler", PretendedCompiler)


def letters(text: str) -> Constraint:
    return Constraint(Grammar.REGEX, text)


@pytest.mark.usefixtures("pretended_compiler")
def test_a_constraint_is_kept_and_ends_the_answer() -> None:
    stage = Stage()
    stage.ask("A", 20, constraint=letters("5"))
    said = stage.play()["A"]
    assert said.text == "abcab"
    assert said.finished is not None
    assert said.finished.reason is FinishReason.STOP


@pytest.mark.usefixtures("pretended_compiler")
def test_guesses_keep_the_constraint() -> None:
    stage = Stage(drafts=True, context=200, model=lambda said: said[-1] % 3 + 1)
    stage.ask("A", *[1, 2, 3] * 10, constraint=letters("40"))
    assert stage.play()["A"].text == ("abc" * 14)[:40]
    assert stage.context.steps < 30


@pytest.mark.usefixtures("pretended_compiler")
def test_a_constraint_that_cannot_be_had_ends_its_request_only() -> None:
    stage = Stage()
    stage.ask("A", 20, constraint=letters("nonsense"))
    stage.ask("B", 24)
    said = stage.play()
    assert said["A"].failed is not None
    assert said["A"].failed.message == "That is no grammar."
    assert said["A"].failed.field == "response_format"
    assert said["B"].text == "yz"


@pytest.mark.usefixtures("pretended_compiler")
def test_a_constraint_that_breaks_in_mid_answer_ends_its_request_only() -> None:
    stage = Stage()
    stage.ask("A", 20, constraint=letters("4!"))
    stage.ask("B", 10)
    said = stage.play()
    assert said["A"].text == "abc"
    assert said["A"].failed is not None
    assert said["A"].failed.field == "response_format"
    assert said["B"].tokens == answer(alphabet, [10], 50)


@pytest.mark.usefixtures("pretended_compiler")
def test_cancelled_while_its_constraint_is_compiled() -> None:
    stage = Stage()
    stage.ask("A", 20, constraint=letters("4"))
    stage.inbox.put(Cancel("A"))
    stage.ask("B", 24)
    said = stage.play()
    assert "A" not in said
    assert said["B"].text == "yz"


# Adapters

VECTORS = (AdapterUse("v", 2.0),)


def control_vector(path: Path, name: str = "v", value: float = 1.0) -> Adapter:
    """A file that adds ``value`` to the first layer that can be added to."""
    directions = [
        Tensor(f"direction.{layer}", (4,), TensorType.F32, struct.pack("<4f", *[value] * 4))
        for layer in (1, 2)
    ]
    write_gguf(path, {"general.architecture": "controlvector"}, directions)
    return Adapter(name, AdapterKind.CONTROL_VECTOR, str(path), last_layer=1)


def test_a_request_with_an_adapter_that_is_not_loaded_is_refused() -> None:
    stage = Stage()
    stage.ask("A", 1, adapters=VECTORS)
    stage.ask("B", 24)
    said = stage.play()
    assert said["A"].failed is not None
    assert said["A"].failed.field == "adapters"
    assert "'v'" in said["A"].failed.message
    assert said["B"].text == "yz"


def test_what_is_no_adapter_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "it"
    path.write_bytes(b"nonsense" * 100)
    stage = Stage()
    stage.inbox.put(AddAdapter(Adapter("v", AdapterKind.LORA, str(path))))
    stage.inbox.put(RemoveAdapter("v"))
    stage.ask("A", 24)
    assert stage.play()["A"].text == "yz"
    assert [reply.name for reply in stage.replies if isinstance(reply, AdapterReply)] == ["v", "v"]
    assert all(reply.refused for reply in stage.replies if isinstance(reply, AdapterReply))


def test_an_adapter_acts_on_those_who_named_it_and_on_nobody_else(tmp_path: Path) -> None:
    stage = Stage()
    stage.inbox.put(AddAdapter(control_vector(tmp_path / "v")))
    stage.ask("A", 1, adapters=VECTORS, max_tokens=20)
    stage.ask("B", 1, max_tokens=20)
    who: list[list[str]] = []

    def note() -> None:
        running = stage.loop.scheduler.plan().work
        who.append([work.sequence.request.request_id for work in running])

    for step in range(1, 50):
        stage.at_step[step] = note
    said = stage.play()
    assert said["A"].tokens == said["B"].tokens == answer(alphabet, [1], 20)
    assert stage.replies == [AdapterReply("v")]
    for names, control in zip(who, stage.context.in_force, strict=True):
        assert names in (["A"], ["B"])
        if names == ["A"]:
            assert control is not None
            assert control.tolist() == [[2.0] * 4, [0.0] * 4]
        else:
            assert control is None


def test_an_adapter_in_use_is_not_removed(tmp_path: Path) -> None:
    stage = Stage()
    stage.inbox.put(AddAdapter(control_vector(tmp_path / "v")))
    stage.ask("A", 1, adapters=VECTORS, max_tokens=10)
    stage.at_step[3] = lambda: stage.inbox.put(RemoveAdapter("v"))
    assert len(stage.play()["A"].tokens) == 10
    _, reply = stage.replies
    assert isinstance(reply, AdapterReply)
    assert reply.refused is not None
    assert reply.refused.field == "adapters"


def test_what_a_removed_adapter_computed_is_forgotten(tmp_path: Path) -> None:
    stage = Stage(parallel=1)
    prompt = range(1, 20)
    stage.inbox.put(AddAdapter(control_vector(tmp_path / "v")))
    stage.ask("first", *prompt, adapters=VECTORS, max_tokens=1)
    stage.ask("again", *prompt, adapters=VECTORS, max_tokens=5)

    def replace() -> None:
        stage.inbox.put(Cancel("again"))
        stage.inbox.put(RemoveAdapter("v"))
        stage.inbox.put(AddAdapter(control_vector(tmp_path / "w", value=3.0)))
        stage.ask("after", *prompt, adapters=VECTORS, max_tokens=1)

    stage.at_step[4] = replace
    said = stage.play()
    assert [reply.refused for reply in stage.replies if isinstance(reply, AdapterReply)] == [
        None
    ] * 3
    assert said["again"].processed is not None
    assert said["again"].processed.cached_tokens == 11
    assert usage(said["after"]) == (0, 1)


# Reports


def test_it_tells_what_it_has_been_doing() -> None:
    stage = Stage(drafts=True, context=200)
    stage.ask("A", *[*range(1, 27)] * 2, 1, 2, 3, max_tokens=20)
    stage.at_step[1] = lambda: stage.inbox.put(Inspect())
    stage.play()
    (first,) = stage.replies
    assert isinstance(first, Inspected)
    assert (first.steps, first.prompt_tokens, first.running) == (1, 55, 1)
    assert (first.reading.steps, first.reading.tokens, first.answering.steps) == (1, 55, 0)


def test_it_tells_reading_from_answering_and_from_both_at_once() -> None:
    stage = Stage(context=200)
    stage.ask("A", 1, 2, 3, max_tokens=6)
    stage.at_step[2] = lambda: stage.ask("B", *range(10, 20), max_tokens=1)
    stage.at_step[6] = lambda: stage.inbox.put(Inspect())
    stage.play()
    (told,) = stage.replies
    assert isinstance(told, Inspected)
    assert (told.reading.steps, told.reading.tokens, told.reading.rows) == (1, 3, 0)
    assert (told.mixed.steps, told.mixed.tokens, told.mixed.rows) == (1, 10, 1)
    assert told.answering.rows + told.mixed.rows == told.decoded_rows == 5
