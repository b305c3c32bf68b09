"""From moments to figures: if these are wrong, every number is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freehold.lab.bench.records import Limits, Outcome, Record
from freehold.lab.bench.statistics import (
    Spread,
    gaps,
    geometric_mean,
    median,
    percentile,
    time_per_token,
)
from freehold.lab.bench.summary import FIGURES, middles, summarise


@pytest.mark.parametrize(
    ("values", "percent", "expected"),
    [
        ([], 50, None),
        ([7.0], 99, 7.0),
        ([1.0, 2.0], 50, 1.5),
        ([3.0, 1.0, 2.0], 50, 2.0),
        ([float(number) for number in range(101)], 99, 99.0),
        ([0.0, 10.0], 99, 9.9),
    ],
)
def test_percentiles(values: list[float], percent: float, expected: float | None) -> None:
    assert percentile(values, percent) == (None if expected is None else pytest.approx(expected))


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0, 100))
def test_a_percentile_lies_between_the_extremes(values: list[float], percent: float) -> None:
    found = percentile(values, percent)
    assert found is not None
    assert min(values) <= found <= max(values) * (1 + 1e-9)


def test_the_median_is_of_what_was_measured() -> None:
    assert median([3.0, None, 1.0]) == 2.0
    assert median([None]) is None


def test_no_workload_weighs_more_for_large_numbers() -> None:
    assert geometric_mean([1.0, 100.0]) == pytest.approx(10.0)


VALUES = st.lists(st.floats(0, 1e6), min_size=1)


@given(VALUES)
def test_percentiles_never_cross(values: list[float]) -> None:
    spread = Spread.of(values)
    assert spread is not None
    assert spread.count == len(values)
    assert spread.p50 <= spread.p90 <= spread.p99
    assert min(values) - 0.001 <= spread.mean <= max(values) + 0.001


@given(VALUES, st.floats(0, 1e3), st.floats(0, 100))
def test_percentiles_shift_with_their_values(
    values: list[float], shift: float, percent: float
) -> None:
    plain, shifted = percentile(values, percent), percentile([v + shift for v in values], percent)
    assert plain is not None
    assert shifted == pytest.approx(plain + shift, rel=1e-9, abs=1e-6)


@given(VALUES)
def test_gaps_add_up(values: list[float]) -> None:
    moments = sorted(values)
    assert sum(gaps(moments)) == pytest.approx(moments[-1] - moments[0], abs=1e-6)


def test_several_tokens_in_a_chunk_shorten_the_time_per_token_not_the_gaps() -> None:
    assert time_per_token([0.3], tokens=4) == pytest.approx(0.1)
    assert time_per_token([], tokens=4) is None
    assert time_per_token([0.3], tokens=1) is None


def done(number: int, ttft: float, *gaps_ms: float, ended: float = 2.0, tokens: int = 3) -> Record:
    """A completed request, sent when the stage began, that was to have three tokens."""
    return Record(
        number=number,
        outcome=Outcome.COMPLETED,
        sent_s=0.0,
        ended_s=ended,
        wanted_tokens=3,
        ttft_ms=ttft,
        gaps_ms=gaps_ms,
        prompt_tokens=10,
        completion_tokens=tokens,
    )


def other(number: int, outcome: Outcome, sent: float = 0.0, ended: float = 1.0) -> Record:
    return Record(
        number=number, outcome=outcome, sent_s=sent, ended_s=ended, wanted_tokens=3, late_ms=1.0
    )


# Three answers of 20 tokens a second and more; what each limit leaves of them is worked by hand.
FAST = done(0, 100.0, 50.0, 50.0)  # TPOT 50, longest gap 50
LATE = done(1, 900.0, 50.0, 50.0)
UNEVEN = done(2, 100.0, 10.0, 190.0, ended=4.0)  # TPOT 100, longest gap 190


@pytest.mark.parametrize(
    ("limits", "kept"),
    [
        (Limits(ttft_ms=1000.0), 3),
        (Limits(ttft_ms=900.0), 3),
        (Limits(ttft_ms=500.0), 2),
        (Limits(tpot_ms=60.0), 2),
        (Limits(tpot_ms=100.0), 3),
        (Limits(itl_ms=189.0), 2),
        (Limits(ttft_ms=500.0, tpot_ms=60.0), 1),
        (Limits(ttft_ms=99.0), 0),
    ],
)
def test_goodput_by_hand(limits: Limits, kept: int) -> None:
    records = [FAST, LATE, UNEVEN, other(3, Outcome.FAILED), other(4, Outcome.REFUSED)]
    assert summarise(records, limits).goodput == kept / 4.0


def test_without_limits_there_is_no_goodput() -> None:
    assert summarise([FAST], Limits()).goodput is None
    assert "goodput" not in middles([summarise([FAST], Limits())])


def test_an_answer_without_text_is_no_good_answer() -> None:
    assert not Limits(ttft_ms=1000.0).met(other(0, Outcome.COMPLETED))


def test_one_run() -> None:
    short = done(5, 300.0, 30.0, tokens=2)
    records = [FAST, short, other(6, Outcome.FAILED, ended=5.0), other(7, Outcome.CANCELLED)]
    found = summarise(records, Limits())
    assert (found.requests, found.completed, found.failed, found.cancelled) == (4, 2, 1, 1)
    assert found.shorter == 1
    assert found.seconds == 5.0  # the failed one took the server's time too
    assert found.output_per_second == pytest.approx(5 / 5)
    assert found.total_per_second == pytest.approx((5 + 20) / 5)
    assert found.ttft_ms is not None
    assert found.ttft_ms.p50 == 200.0
    assert found.itl_ms is not None
    assert found.itl_ms.count == 3
    assert found.ttfa_ms is None


def test_only_answers_that_reasoned_have_a_time_to_the_answer() -> None:
    thought = Record(
        number=0,
        outcome=Outcome.COMPLETED,
        sent_s=0.0,
        ended_s=1.0,
        wanted_tokens=3,
        ttft_ms=10.0,
        ttfa_ms=400.0,
        reasoned=True,
        completion_tokens=3,
    )
    found = summarise([FAST, thought], Limits())
    assert found.ttfa_ms is not None
    assert (found.ttfa_ms.count, found.ttfa_ms.p50) == (1, 400.0)


def test_a_stage_of_nothing_has_no_figures() -> None:
    found = summarise([other(0, Outcome.FAILED, ended=0.0)], Limits(ttft_ms=1.0))
    assert found.output_per_second == 0
    assert found.ttft_ms is None


def test_medians_stand_between_their_extremes() -> None:
    runs = [summarise([done(0, ttft)], Limits()) for ttft in (300.0, 100.0, 200.0)]
    found = middles(runs)["ttft_ms.p50"]
    assert (found.median, found.low, found.high) == (200.0, 100.0, 300.0)
    assert set(middles(runs)) <= set(FIGURES)
