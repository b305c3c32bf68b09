"""Composing a step: who reads how much of a prompt, and who guesses."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freehold.domain.engine import CacheLayout
from freehold.engines.llamacpp.batching import Work, compose
from freehold.engines.llamacpp.drafting import LONGEST
from freehold.engines.llamacpp.pace import Pace
from freehold.engines.llamacpp.prefix import RECOMPUTED
from freehold.engines.llamacpp.scheduler import Limits
from freehold.engines.llamacpp.sequence import Phase, Sequence
from tests.unit.test_scheduler import SteadyPace, sequence

_streams = itertools.count()


class MeasuredPace(SteadyPace):
    """Says what it was asked about guesses, and no."""

    def __init__(self) -> None:
        super().__init__(64)
        self.asked: list[tuple[int, int, bool]] = []

    def draft_length(self, rows: int, chance: float, limit: int, *, apart: bool) -> int:
        assert 0 < chance < 1
        self.asked.append((rows, limit, apart))
        return 0


def limits(
    *,
    batch: int = 512,
    outputs: int = 64,
    context: int = 2048,
    layout: CacheLayout = CacheLayout.STREAMS,
    cuttable: bool = True,
    drafts: bool = True,
) -> Limits:
    return Limits(
        streams=8,
        parallel=8,
        context=context,
        cells=8 * context,
        batch=batch,
        outputs=outputs,
        layout=layout,
        cuttable=cuttable,
        drafts=drafts,
    )


def reading(length: int, *, read: int = 0, shown: bool = False) -> Sequence:
    """One whose prompt has ``length`` tokens, ``read`` of them in the cache."""
    one = sequence("reads", [0] * length, prompt_logprobs=0 if shown else None)
    one.phase, one.stream, one.committed = Phase.PREFILL, next(_streams), read
    return one


def talking(prompt: list[int] | None = None, *answer: int, max_tokens: int = 100) -> Sequence:
    """One that has said ``answer``."""
    one = sequence("talks", prompt or [1], max_tokens=max_tokens)
    for token in answer or (2,):
        one.tokens.append(token)
        one.drafter.append(token)
    one.phase, one.stream, one.committed = Phase.DECODE, next(_streams), len(one.tokens) - 1
    return one


def guessing(*, max_tokens: int = 100) -> Sequence:
    """One that knows what follows."""
    return talking([*range(50), *range(9)], 9, max_tokens=max_tokens)


def counts(
    group: list[Sequence], pace: Pace | None = None, within: Limits | None = None
) -> list[int]:
    return [len(work.tokens) for work in compose(group, within or limits(), pace or SteadyPace(64))]


# Prompts


def test_who_talks_puts_in_the_token_chosen_last() -> None:
    one = talking([1, 2, 3], 7, 8)
    (work,) = compose([one], limits(), SteadyPace(64))
    assert (work.start, work.tokens.tolist(), work.outputs) == (4, [8], 1)
    assert work.decodes
    assert work.completes


def test_all_who_talk_talk_however_little_may_be_read() -> None:
    assert counts([talking() for _ in range(8)], SteadyPace(1)) == [1] * 8


def test_the_oldest_prompt_is_read_first() -> None:
    assert counts([reading(300), reading(300)]) == [64]


def test_what_the_oldest_leaves_goes_to_the_next() -> None:
    assert counts([reading(40), reading(300)]) == [40, 24]


def test_a_short_prompt_behind_a_long_one_is_read_beside_it() -> None:
    assert counts([reading(300), reading(20)]) == [44, 20]


def test_short_prompts_get_half_of_the_step_at_most() -> None:
    long, *shorts = reading(300), reading(30), reading(30), reading(30)
    works = compose([long, *shorts], limits(), SteadyPace(64))
    assert [(work.sequence, len(work.tokens)) for work in works] == [
        (long, 32),
        (shorts[0], 30),
        (shorts[1], 2),
    ]


def test_a_prompt_of_more_than_half_a_step_is_not_short() -> None:
    assert counts([reading(300), reading(33)]) == [64]


def test_a_step_has_room_for_a_batch() -> None:
    assert counts([talking(), reading(300)], SteadyPace(999), limits(batch=100)) == [1, 99]


@pytest.mark.parametrize(
    ("length", "count"), [(64, 64), (65, 57), (71, 63), (72, 64), (128, 64), (8, 8), (3, 3)]
)
def test_the_rest_of_a_prompt_is_never_too_small(length: int, count: int) -> None:
    assert counts([reading(length)]) == [count]


def test_a_chunk_ends_at_a_checkpoint() -> None:
    one = reading(300)
    one.checkpoints.update({50, 90, 292})
    read = []
    while one.remaining:
        (work,) = compose([one], limits(), SteadyPace(64))
        read.append(len(work.tokens))
        one.committed += len(work.tokens)
    assert read == [50, 40, 64, 64, 64, 10, 8]


# Log-probabilities of prompts


def test_a_shown_prompt_is_read_as_fast_as_there_are_rows() -> None:
    (work,) = compose([reading(300, shown=True)], limits(outputs=20), SteadyPace(64))
    assert 16 <= len(work.tokens) == work.outputs <= 20


@pytest.mark.parametrize("length", range(60, 80))
def test_the_end_of_a_shown_prompt_is_not_too_small_either(length: int) -> None:
    """The answer to a prompt that is shown is the answer to the same prompt that is not."""
    one = reading(length, shown=True)
    while one.remaining:
        (work,) = compose([one], limits(outputs=64), SteadyPace(999))
        assert work.outputs == len(work.tokens)
        one.committed += len(work.tokens)
    assert len(work.tokens) >= RECOMPUTED


def test_a_shown_prompt_takes_no_row_from_those_who_talk() -> None:
    group = [reading(300, shown=True), *(talking() for _ in range(6))]
    works = compose(group, limits(outputs=20), SteadyPace(64))
    assert sum(work.outputs for work in works if work.decodes) == 6
    assert sum(work.outputs for work in works) <= 20


# Guesses


def drafts(works: list[Work]) -> list[list[int]]:
    return [work.draft.tolist() for work in works]


def test_guesses_follow_the_token_chosen_last() -> None:
    (work,) = compose([guessing()], limits(), SteadyPace(64))
    assert work.tokens.tolist() == [9, 10, 11]
    assert work.draft.tolist() == [10, 11]
    assert work.outputs == 3


@pytest.mark.parametrize(("left", "guessed"), [(1, 0), (2, 1), (3, 2), (50, 2)])
def test_no_more_is_guessed_than_may_be_said(left: int, guessed: int) -> None:
    one = guessing(max_tokens=1 + left)
    assert [len(work.draft) for work in compose([one], limits(), SteadyPace(64))] == [guessed]


@pytest.mark.parametrize(("left", "guessed"), [(1, 0), (2, 1), (3, 2), (50, 2)])
def test_no_more_is_guessed_than_the_context_holds(left: int, guessed: int) -> None:
    one = guessing()
    within = limits(context=len(one.tokens) + left)
    assert [len(work.draft) for work in compose([one], within, SteadyPace(64))] == [guessed]


def test_guesses_share_the_rows_that_are_left() -> None:
    works = compose([guessing(), guessing(), guessing()], limits(outputs=6), SteadyPace(64))
    assert [len(work.draft) for work in works] == [2, 1, 0]


def test_guesses_leave_a_row_for_each_prompt() -> None:
    works = compose([guessing(), reading(20)], limits(outputs=3), SteadyPace(64))
    assert [work.outputs for work in works] == [2, 1]


@pytest.mark.parametrize("within", [limits(drafts=False), limits(cuttable=False)])
def test_where_guessing_is_off_or_cannot_be_undone_nothing_is_guessed(within: Limits) -> None:
    assert drafts(compose([guessing()], within, SteadyPace(64))) == [[]]


def test_how_much_is_guessed_is_for_the_pace_to_say() -> None:
    pace = MeasuredPace()
    assert drafts(compose([guessing()], limits(), pace)) == [[]]
    assert pace.asked == [(1, LONGEST, False)]


def test_who_has_nothing_to_guess_from_does_not_ask() -> None:
    pace = MeasuredPace()
    assert drafts(compose([talking()], limits(), pace)) == [[]]
    assert pace.asked == []


def test_in_streams_guesses_beside_others_run_apart() -> None:
    pace = MeasuredPace()
    compose([guessing(), talking()], limits(), pace)
    compose([guessing(), talking()], limits(layout=CacheLayout.UNIFIED), pace)
    assert pace.asked == [(2, LONGEST, True), (2, LONGEST, False)]


# Any group

members = st.one_of(
    st.builds(
        lambda read, more, shown: reading(read + more, read=read, shown=shown),
        st.integers(0, 100),
        st.integers(1, 400),
        st.booleans(),
    ),
    st.builds(guessing),
    st.builds(talking),
)


@given(
    st.lists(members, min_size=1, max_size=8),
    st.integers(16, 600),
    st.integers(32, 512),
    st.integers(8, 64),
)
def test_a_step_is_within_its_limits_and_never_empty(
    group: list[Sequence], chunk: int, batch: int, outputs: int
) -> None:
    works = compose(group, limits(batch=batch, outputs=outputs), SteadyPace(chunk))
    assert works
    assert sum(len(work.tokens) for work in works) <= batch
    assert sum(work.outputs for work in works) <= outputs
    assert len({work.stream for work in works}) == len(works)
    assert {id(work.sequence) for work in works if work.decodes} == {
        id(one) for one in group if one.phase is Phase.DECODE
    }
    for work in works:
        known = work.sequence.tokens.array[work.start :].tolist()
        assert work.start == work.sequence.committed
        assert work.tokens[: len(known)].tolist() == known[: len(work.tokens)]
        assert len(work.tokens) >= 1
        if not work.decodes:
            assert work.completes == (len(work.tokens) == len(known))
            assert work.outputs == (
                len(work.tokens) if work.sequence.wants_prompt_logprobs else work.completes
            )
    prompts = [one for one in group if one.phase is Phase.PREFILL]
    if prompts:
        assert prompts[0] in [work.sequence for work in works], "the oldest prompt waits"
