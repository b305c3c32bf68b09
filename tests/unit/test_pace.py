"""The pace: what is learnt from steps, and how much of a prompt fits into one."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freehold.engines.llamacpp.pace import (
    ALONE_SECONDS,
    FIRST_CHUNK,
    PRIOR_SLOPE,
    SMALLEST_CHUNK,
    Line,
    Pace,
    RowTimes,
)

seconds = st.floats(1e-6, 10)


def pace_of(
    *, target: float = 0.2, base: float = 0.05, per_row: float = 0.0, rate: float = 1000
) -> Pace:
    """A machine that has been watched for a while."""
    pace = Pace(target)
    for rows in (1, 2, 4) * 10:
        pace.observe(rows, 0, base + per_row * rows)
    for _ in range(10):
        pace.observe(0, 100, 100 / rate)
    return pace


# The line through observations


@given(st.floats(0.01, 1), st.floats(0, 0.1))
def test_a_line_is_found(base: float, slope: float) -> None:
    line = Line()
    for x in [1, 16, 4, 32, 8, 2, 24] * 4:
        line.observe(x, base + slope * x)
    assert line.slope == pytest.approx(slope, rel=0.1, abs=0.003)
    assert line.at(10) == pytest.approx(base + slope * 10, rel=0.1)


def test_one_slow_step_is_forgotten() -> None:
    """Rows that seemed dear once are tried again."""
    line = Line()
    line.observe(1, 0.03)
    line.observe(3, 0.30)
    dear = line.slope
    for _ in range(60):
        line.observe(1, 0.03)
    assert line.slope < dear / 2


@given(st.lists(st.tuples(st.integers(1, 64), seconds), min_size=1))
def test_whatever_was_observed_no_step_takes_less_than_nothing(
    observations: list[tuple[int, float]],
) -> None:
    line = Line()
    for x, y in observations:
        line.observe(x, y)
    assert line.slope >= 0
    assert line.base >= -1e-9
    assert 0 <= line.at(1) <= line.at(100) + 1e-9


def test_of_one_x_nothing_is_known_of_the_slope() -> None:
    line = Line()
    for _ in range(5):
        line.observe(3, 0.1)
    assert line.slope == pytest.approx(PRIOR_SLOPE * 0.1 / 3)
    assert line.at(3) == pytest.approx(0.1)


def test_a_line_that_knows_nothing() -> None:
    line = Line()
    assert not line.known
    assert line.at(5) == 0


def test_a_line_forgets() -> None:
    line = Line()
    for _ in range(100):
        line.observe(1, 0.1)
    for _ in range(100):
        line.observe(1, 0.3)
    assert line.at(1) == pytest.approx(0.3, rel=0.01)


# Chunks


def test_before_anything_was_measured() -> None:
    assert Pace(0.2).chunk(0) == Pace(0.2).chunk(5) == FIRST_CHUNK


def test_a_prompt_read_beside_an_answer_before_any_answer_was_watched_alone() -> None:
    pace = Pace(0.2)
    pace.observe(0, 64, 0.1)
    assert pace.chunk(1) == 128  # 0.2 s at 640 tokens a second: nothing else is known yet
    pace.observe(1, 64, 0.1)
    assert pace.chunk(1) == 128


def test_reading_gets_what_decoding_leaves_of_the_target() -> None:
    assert pace_of(target=0.2, base=0.05, rate=1000).chunk(3) == pytest.approx(150, abs=1)


def test_more_rows_leave_less() -> None:
    pace = pace_of(base=0.02, per_row=0.01)
    assert pace.chunk(1) > pace.chunk(4) > pace.chunk(8)


def test_where_decoding_is_slow_reading_gets_as_much_time_as_decoding() -> None:
    pace = pace_of(target=0.2, base=0.5, rate=1000)
    assert pace.chunk(2) == pytest.approx(500, rel=0.05)


def test_where_nobody_decodes_a_step_is_bounded_all_the_same() -> None:
    assert pace_of(rate=1000).chunk(0) == pytest.approx(1000 * ALONE_SECONDS, abs=1)


def test_no_chunk_is_tiny() -> None:
    assert pace_of(rate=10).chunk(1) == SMALLEST_CHUNK


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 512), seconds), max_size=50))
def test_whatever_was_observed_reading_goes_on(
    observations: list[tuple[int, int, float]],
) -> None:
    pace = Pace(0.2)
    for rows, prompt_tokens, took in observations:
        if rows or prompt_tokens:
            pace.observe(rows, prompt_tokens, took)
    assert all(pace.chunk(rows) >= SMALLEST_CHUNK for rows in range(9))


def test_the_rate_follows_the_machine() -> None:
    pace = pace_of(rate=1000)
    for _ in range(20):
        pace.observe(0, 100, 1.0)
    assert pace.chunk(0) == pytest.approx(100, rel=0.02)


def test_the_time_of_those_who_decode_is_not_put_down_to_reading() -> None:
    alone, beside = pace_of(rate=1000), pace_of(rate=1000)
    for _ in range(20):
        beside.observe(2, 100, 0.05 + 0.1)
    assert beside.chunk(2) == pytest.approx(alone.chunk(2), rel=0.02)


def test_one_slow_step_is_no_new_machine() -> None:
    pace = pace_of(rate=1000)
    pace.observe(0, 100, 100.0)
    assert pace.chunk(0) > 600


def test_a_step_that_seemed_to_read_for_nothing_is_no_new_machine() -> None:
    pace = pace_of(base=0.05, rate=1000)
    before = pace.chunk(1)
    pace.observe(1, 20, 0.0501)
    assert pace.chunk(1) < 3 * before


def test_a_scrap_of_prompt_says_nothing_about_the_rate() -> None:
    pace = pace_of(rate=1000)
    before = pace.chunk(0)
    pace.observe(0, 1, 1.0)
    assert pace.chunk(0) == before


# Guesses


def test_before_anything_was_measured_nothing_is_guessed() -> None:
    assert Pace(0.2).draft_length(1, 0.5, 8, apart=False) == 0


def test_where_rows_are_free_all_is_guessed() -> None:
    assert pace_of(base=0.05, per_row=0.0).draft_length(1, 0.9, 16, apart=False) == 16


def test_where_rows_cost_all_nothing_is_guessed() -> None:
    assert pace_of(base=0.0001, per_row=0.05).draft_length(1, 0.9, 16, apart=False) == 0


def test_the_surer_the_guesses_the_more_there_are() -> None:
    pace = pace_of(base=0.02, per_row=0.01, target=10)
    lengths = [pace.draft_length(1, chance, 48, apart=False) for chance in (0.1, 0.6, 0.9, 0.99)]
    assert lengths == sorted(set(lengths))
    assert lengths[0] == 0
    assert lengths[-1] > 16


@given(
    base=st.floats(0.001, 0.1),
    per_row=st.floats(0.0001, 0.1),
    rows=st.integers(1, 8),
    chance=st.floats(0.05, 0.95),
    apart=st.booleans(),
)
def test_no_other_length_answers_faster(
    base: float, per_row: float, rows: int, chance: float, apart: bool
) -> None:
    pace = pace_of(base=base, per_row=per_row, target=1e6)
    chosen = pace.draft_length(rows, chance, 32, apart=apart)

    def speed(length: int) -> float:
        tokens = rows + sum(chance**n for n in range(1, length + 1))
        if apart:
            return tokens / (pace.decode_seconds(rows) + pace.decode_seconds(length))
        return tokens / pace.decode_seconds(rows + length)

    assert speed(chosen) == pytest.approx(max(map(speed, range(33))))


@pytest.mark.parametrize("apart", [False, True])
def test_guesses_keep_to_the_target(apart: bool) -> None:
    pace = pace_of(base=0.02, per_row=0.01, target=0.1)
    assert 0 < pace.draft_length(1, 0.99, 48, apart=apart) <= 8


def test_where_one_token_misses_the_target_guesses_may_double_the_step() -> None:
    pace = pace_of(base=0.2, per_row=0.01, target=0.1)
    assert 8 <= pace.draft_length(1, 0.99, 48, apart=False) <= 24


def test_rows_that_run_apart_pay_the_base_again() -> None:
    pace = pace_of(base=0.05, per_row=0.001)
    assert pace.draft_length(4, 0.5, 8, apart=False) > 0
    assert pace.draft_length(4, 0.5, 8, apart=True) == 0


def test_tiles_of_rows_are_filled() -> None:
    """Where five to eight rows take as long as eight, eight are taken."""
    pace = Pace(10)
    for rows in (1, 2, 3, 4, 5, 6, 7, 8, 9) * 8:
        pace.observe(rows, 0, 0.03 + 0.04 * -(-rows // 4))
    assert pace.draft_length(1, 0.8, 8, apart=False) in (3, 7)
    assert pace.decode_seconds(8) < pace.decode_seconds(9) - 0.02


def test_a_number_of_rows_that_was_slow_once_gets_another_chance() -> None:
    times = RowTimes()
    for rows in (1, 4) * 10:
        times.observe(rows, 0.02 + 0.01 * rows)
    times.observe(2, 1.0)
    at_once = times.at(2)
    for rows in (1, 4) * 100:
        times.observe(rows, 0.02 + 0.01 * rows)
    assert at_once > 0.05
    assert times.at(2) == pytest.approx(0.04, rel=0.1)


def test_a_machine_of_any_noise_stays_in_bounds() -> None:
    noise, pace = random.Random(1), Pace(0.2)
    for _ in range(300):
        rows = noise.randint(1, 8)
        reads = noise.choice([0, 0, 100])
        pace.observe(rows, reads, (0.05 + 0.002 * rows + reads / 1000) * noise.uniform(0.8, 1.2))
    assert 75 <= pace.chunk(4) <= 250
