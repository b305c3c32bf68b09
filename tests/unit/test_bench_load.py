"""How load comes: users who wait, arrivals that do not, and prompts of an exact length."""

from __future__ import annotations

import asyncio
import itertools
import math
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from freehold.domain.errors import InvalidSetting, ServerMisbehaved
from freehold.lab.bench.answer import Refusal
from freehold.lab.bench.dialect import Dialect, negotiate
from freehold.lab.bench.load import Asked, Tally, closed_loop, open_loop
from freehold.lab.bench.records import Outcome, Record
from freehold.lab.bench.texts import WORDS, Vocabulary, learn
from freehold.lab.bench.workload import Kind, Workload, arrivals
from tests.support.running import run

# Arrivals


def test_arrivals_are_seeded() -> None:
    assert arrivals(2.0, 50, "a") == arrivals(2.0, 50, "a")
    assert arrivals(2.0, 50, "a") != arrivals(2.0, 50, "b")


@pytest.mark.parametrize("rate", [0.5, 4.0, 100.0])
def test_arrivals_are_a_poisson_process(rate: float) -> None:
    """The gaps are exponential: Kolmogorov and Smirnov's distance at the 0.1 % level."""
    moments = arrivals(rate, 20_000, "law")
    between = sorted(b - a for a, b in itertools.pairwise((0.0, *moments)))
    count = len(between)
    farthest = max(
        max(abs(1 - math.exp(-rate * gap) - place / count) for place in (number, number + 1))
        for number, gap in enumerate(between)
    )
    assert farthest < 1.95 / math.sqrt(count)
    assert sum(between) / count == pytest.approx(1 / rate, rel=0.03)


def test_arrivals_do_not_remember() -> None:
    moments = arrivals(1.0, 20_000, "memory")
    between = [b - a for a, b in itertools.pairwise(moments)]
    mean = sum(between) / len(between)
    together = sum((a - mean) * (b - mean) for a, b in itertools.pairwise(between))
    assert abs(together / sum((gap - mean) ** 2 for gap in between)) < 0.03


# Loops


def a_record(number: int, outcome: Outcome) -> Record:
    return Record(number=number, outcome=outcome, sent_s=0.0, ended_s=0.0, wanted_tokens=1)


class Asking:
    """Answers each request after its number of turns of the event loop."""

    def __init__(self, turns: list[int], outcome: Outcome = Outcome.COMPLETED) -> None:
        self.tally = Tally(lambda record: None)
        self.reached = True
        self.retry_after: float | None = 0.0
        self.times: list[tuple[float, float | None]] = []
        self._turns = turns
        self._outcome = outcome

    async def __call__(self, number: int, due: float | None) -> Asked:
        self.tally.begin()
        self.times.append((time.perf_counter(), due))
        for _ in range(self._turns[number % len(self._turns)]):
            await asyncio.sleep(0)
        record = a_record(number, self._outcome)
        self.tally.end(record, self.reached)
        return Asked(record, self.reached, self.retry_after)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 20), st.integers(1, 60), st.lists(st.integers(0, 9), min_size=1))
def test_a_closed_loop_never_has_more_in_flight_than_users(
    users: int, requests: int, turns: list[int]
) -> None:
    asking = Asking(turns)
    run(closed_loop(users, range(requests), asking, asking.tally))
    assert asking.tally.most_in_flight <= users
    assert sorted(record.number for record in asking.tally.records) == list(range(requests))
    assert asking.tally.in_flight == 0


def test_a_closed_loop_keeps_all_its_users_busy() -> None:
    asking = Asking([5])
    run(closed_loop(4, range(12), asking, asking.tally))
    assert asking.tally.most_in_flight == 4


def test_a_refused_user_waits_as_it_was_told() -> None:
    asking = Asking([0], Outcome.REFUSED)
    asking.retry_after = 0.05
    began = time.perf_counter()
    run(closed_loop(1, range(3), asking, asking.tally))
    assert time.perf_counter() - began >= 0.15
    assert [record.number for record in asking.tally.records] == [0, 1, 2]  # none again


def test_a_server_that_is_gone_is_asked_no_more() -> None:
    asking = Asking([0])
    asking.reached = False
    run(closed_loop(1, range(50), asking, asking.tally))
    assert asking.tally.gone
    assert len(asking.tally.records) == 3


def test_nothing_is_sent_after_the_time_is_up() -> None:
    asking = Asking([0])
    asking.tally.until = time.perf_counter()
    run(closed_loop(2, range(9), asking, asking.tally))
    run(open_loop([0.0], range(1), asking, asking.tally))
    assert asking.tally.records == []


def test_an_open_loop_waits_for_nobody() -> None:
    gate = asyncio.Event()
    tally = Tally(lambda record: None)
    dues = []

    async def ask(number: int, due: float | None) -> Asked:
        tally.begin()
        dues.append((due, time.perf_counter()))
        if number == 9:
            gate.set()  # the last to come lets the others go
        await gate.wait()
        record = a_record(number, Outcome.COMPLETED)
        tally.end(record, reached=True)
        return Asked(record)

    moments = arrivals(500.0, 10, "open")
    run(open_loop(moments, range(10), ask, tally))
    assert tally.most_in_flight == 10
    for due, sent in dues:
        assert due is not None
        assert sent >= due
    first = dues[0][0]
    assert first is not None
    between = [due - first for due, _ in dues if due is not None]
    assert between == pytest.approx([moment - moments[0] for moment in moments], abs=1e-6)


# Prompts

TEMPLATE = 23


def cost_of(text: str, cost: dict[str, int]) -> int:
    return TEMPLATE + sum(cost.get(word, 1) for word in text.split(" "))


def learned(cost: dict[str, int]) -> Vocabulary:
    async def count(text: str) -> int | None:
        return cost_of(text, cost)

    return run(learn(count, 1000))


def test_words_of_one_token_need_three_questions() -> None:
    asked = []

    async def count(text: str) -> int | None:
        asked.append(text)
        return cost_of(text, {})

    vocabulary = run(learn(count, 1000))
    assert len(asked) == 3
    assert vocabulary.exact
    assert vocabulary.words == WORDS
    assert vocabulary.overhead == cost_of(asked[0], {}) - 1


@settings(max_examples=50, deadline=None)
@given(
    st.dictionaries(st.sampled_from(WORDS), st.integers(2, 4), max_size=6),
    st.integers(40, 3000),
    st.text("abc", max_size=3),
)
def test_prompts_are_exactly_as_long_as_wanted(
    cost: dict[str, int], tokens: int, seed: str
) -> None:
    vocabulary = learned(cost)
    assert vocabulary.exact
    assert not set(vocabulary.words) & set(cost)
    assert cost_of(vocabulary.prompt(tokens, 0, "1", seed), cost) == tokens


def test_a_small_context_is_not_asked_for_more_than_it_will_be() -> None:
    longest = 0

    async def count(text: str) -> int | None:
        nonlocal longest
        longest = max(longest, cost_of(text, {}))
        return cost_of(text, {})

    vocabulary = run(learn(count, 64))
    assert longest <= 64 + (vocabulary.overhead or 0)
    assert vocabulary.exact


def test_words_of_several_tokens_are_told_and_met_about() -> None:
    cost = dict.fromkeys(WORDS, 3)
    vocabulary = learned(cost)
    assert not vocabulary.exact
    assert cost_of(vocabulary.prompt(1000, 0, "1", "a"), cost) == pytest.approx(1000, abs=3)


def test_a_server_that_counts_nothing_gets_as_many_words() -> None:
    async def count(text: str) -> int | None:
        return None

    vocabulary = run(learn(count, 1000))
    assert vocabulary.overhead is None
    assert not vocabulary.exact


def test_prompts_are_seeded_and_alike_only_as_far_as_wanted() -> None:
    vocabulary = learned({})
    overhead = vocabulary.overhead or 0
    first, again = (vocabulary.prompt(256, 0, "1", "a") for _ in range(2))
    assert first == again
    other = vocabulary.prompt(256, 0, "1", "b")
    assert alike(first, other) <= overhead - TEMPLATE + 3
    one, two = (vocabulary.prompt(256, 200, "1", seed) for seed in "ab")
    assert TEMPLATE + alike(one, two) >= 200
    assert TEMPLATE + alike(one, two) <= 203
    assert vocabulary.prompt(256, 200, "2", "a") != one


def alike(one: str, two: str) -> int:
    pairs = zip(one.split(" "), two.split(" "), strict=True)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


def test_a_prompt_needs_room_for_words_of_its_own() -> None:
    vocabulary = learned({})
    for tokens, shared in ((20, 0), (100, 100)):
        with pytest.raises(InvalidSetting, match="no words of its own"):
            vocabulary.prompt(tokens, shared, "1", "a")


# What a server understands


def negotiated(*refused: tuple[str, str]) -> Dialect:
    """Against a server that refuses what ``refused`` names, each with its sentence."""

    async def attempt(dialect: Dialect) -> Refusal | None:
        body = dialect.body("m", "Hello", 8).decode()
        for field, sentence in refused:
            if f'"{field}"' in body:
                return Refusal(400, sentence)
        return None

    return run(negotiate(attempt))


def test_what_is_refused_is_left_out_and_told() -> None:
    assert negotiated() == Dialect()
    assert negotiated().remarks == ()
    assert negotiated(("ignore_eos", "Bad request.")) == Dialect(ignore_eos=False)
    found = negotiated(
        ("ignore_eos", "Unknown field ignore_eos."),
        ("stream_options", "Unknown field stream_options."),
        ("temperature", "Only temperature 1 is supported."),
        ("max_tokens", "Use max_completion_tokens instead."),
    )
    assert found == Dialect("max_completion_tokens", ignore_eos=False, usage=False, greedy=False)
    assert len(found.remarks) == 3


@pytest.mark.parametrize("status", [400, 401, 404, 500])
def test_a_server_that_refuses_everything_is_quoted(status: int) -> None:
    async def attempt(dialect: Dialect) -> Refusal | None:
        return Refusal(status, "Never.")

    with pytest.raises(ServerMisbehaved, match=f"status {status}: Never"):
        run(negotiate(attempt))


# Stages


def test_stages_and_their_requests() -> None:
    workload = Workload(users=(1, 8), rates=(0.5,), seed=1, repeats=2)
    found = [(stage.kind, stage.title, stage.requests) for stage in workload.stages]
    assert found == [
        (Kind.USERS, "1 user", 6),
        (Kind.USERS, "8 users", 24),
        (Kind.RATE, "0.5/s", 20),
    ]
    assert workload.total == 100
