"""The search of `tune`, without a model: what is tried, who stays, who wins, how long it takes."""

from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from freehold.domain.engine import Affinity, CacheConfig, CacheType
from freehold.lab.tune import budget, grid, search
from freehold.lab.tune.grid import Candidate
from freehold.lab.tune.search import Point
from freehold.machine.computer import Processor
from freehold.machine.profile import WEIGHTS, EngineSettings, Loss, Speeds, score

BASE = EngineSettings(CacheConfig(), threads=8, micro_batch=512)
BASELINE = Candidate(None, BASE)
PROCESSOR = Processor("p", "x86_64", cores=8, physical=4)

rates = st.floats(0.1, 1e5)
speeds = st.builds(Speeds, rates, rates, rates, rates)
losses = st.one_of(
    st.none(),
    st.floats(0, 1).map(lambda d: Loss(100, d, 0.0, 1.0, 0.0, 9.0, 9.0, 0.0)),
)


def point(known: Speeds, loss: Loss | None, number: int) -> Point:
    settings = msgspec.structs.replace(BASE, micro_batch=1 + number)
    return Point(Candidate(None if loss is None else "Q8_0", settings), known, loss)


points = st.lists(st.tuples(speeds, losses), max_size=8).map(
    lambda pairs: [point(known, loss, number) for number, (known, loss) in enumerate(pairs)]
)


@given(speeds, points, st.floats(0, 1))
def test_the_winner_is_never_worse_than_the_baseline(
    untuned: Speeds, others: list[Point], max_loss: float
) -> None:
    baseline = Point(BASELINE, untuned)
    won = search.winner(baseline, others, max_loss)
    assert won is baseline or score(won.speeds, untuned) > 1
    for part in WEIGHTS:
        assert getattr(won.speeds, part) >= getattr(untuned, part) * (1 - search.SLACK)
    assert won.loss is None or won.loss.divergence <= max_loss
    allowed = [p for p in others if search.admissible(p, untuned, max_loss)]
    if won is not baseline:
        best = max(score(p.speeds, untuned) for p in allowed)
        assert score(won.speeds, untuned) == best


@given(speeds, points, st.floats(0, 0.5), st.floats(0, 0.5))
def test_a_larger_loss_allowed_never_gives_less_speed(
    untuned: Speeds, others: list[Point], less: float, more: float
) -> None:
    baseline = Point(BASELINE, untuned)
    scores = [
        score(search.winner(baseline, others, limit).speeds, untuned)
        for limit in sorted((less, more))
    ]
    assert scores[1] >= scores[0]


@given(speeds, points)
def test_whoever_is_not_on_the_frontier_is_beaten_there(
    untuned: Speeds, others: list[Point]
) -> None:
    baseline = Point(BASELINE, untuned)
    front = search.frontier(baseline, others)

    def loss(p: Point) -> float:
        return p.loss.divergence if p.loss else 0.0

    for p in (baseline, *others):
        if not any(p is kept for kept in front):
            assert any(
                loss(kept) <= loss(p) and score(kept.speeds, untuned) >= score(p.speeds, untuned)
                for kept in front
            )
    assert sorted(map(loss, front)) == list(map(loss, front))


@given(speeds, st.floats(0.1, 10))
def test_the_score_of_equal_gains_is_the_gain(untuned: Speeds, factor: float) -> None:
    faster = Speeds(**{part: getattr(untuned, part) * factor for part in WEIGHTS})
    assert math.isclose(score(faster, untuned), factor, rel_tol=1e-9)


def test_the_weights_of_the_mix_are_a_whole() -> None:
    assert math.isclose(sum(WEIGHTS.values()), 1)


@given(st.dictionaries(st.sampled_from(grid.DEFAULT_FORMATS), speeds), speeds)
def test_the_baseline_is_always_in_the_final_and_formats_come_once(
    measured: dict[str, Speeds], untuned: Speeds
) -> None:
    tried = {Candidate(name, BASE): known for name, known in measured.items()}
    running = search.finalists(BASELINE, {BASELINE: untuned, **tried}, untuned)
    assert running[0] == BASELINE
    assert len({c.quantisation for c in running[1:]}) == len(running) - 1
    for candidate, known in tried.items():
        assert (candidate in running) == (score(known, untuned) > 1)


def test_who_is_slower_at_something_goes_to_the_final_only_where_no_other_does() -> None:
    untuned = Speeds(10, 10, 10, 10)
    uneven = Candidate("Q8_0", msgspec.structs.replace(BASE, micro_batch=128))
    measured = {Candidate("Q8_0", BASE): Speeds(11, 11, 11, 11), uneven: Speeds(40, 40, 5, 10)}
    assert search.finalists(BASELINE, measured, untuned)[1] == Candidate("Q8_0", BASE)
    assert search.finalists(BASELINE, {uneven: measured[uneven]}, untuned)[1] == uneven


def test_the_grid_begins_with_what_there_is_and_repeats_nothing() -> None:
    first = grid.caches_and_kernels(BASE, PROCESSOR, fast_kernels=True)
    assert first[0] == BASELINE
    assert len(set(first)) == len(first) == 10
    second = grid.micro_batches_and_threads(first[:1], PROCESSOR)
    assert {c.settings.threads for c in second} == {8, 4, 7}
    assert {c.settings.micro_batch for c in second} == set(grid.MICRO_BATCHES)
    assert len(grid.formats(first[:2], ("Q8_0", "Q4_0"))) == 4


def test_threads_are_bound_only_where_that_is_faster_by_more_than_noise() -> None:
    (bound,) = grid.on_a_core_each(BASELINE)
    assert bound.settings == msgspec.structs.replace(BASE, affinity=Affinity.CORES)
    free = {BASELINE: Speeds(10, 10, 10, 10)}
    little, much = Speeds(10.2, 10.2, 10.2, 10.2), Speeds(10.4, 10.4, 10.4, 10.4)
    assert search.worth_binding({bound: little}, free) == {}
    assert search.worth_binding({bound: much}, free) == {bound: much}
    assert grid.on_a_core_each(bound) == ()
    assert grid.on_a_core_each(Candidate(None, msgspec.structs.replace(BASE, threads=1))) == ()


def test_broken_kernels_and_missing_instructions_are_not_tried() -> None:
    plain = msgspec.structs.replace(BASE, repack=False)
    for candidate in grid.caches_and_kernels(plain, PROCESSOR, fast_kernels=False):
        assert not candidate.settings.repack
        assert candidate.settings.cache.key_type is not CacheType.BF16
    able = msgspec.structs.replace(PROCESSOR, instruction_sets=("avx512_bf16",))
    kinds = {
        c.settings.cache.key_type for c in grid.caches_and_kernels(BASE, able, fast_kernels=True)
    }
    assert CacheType.BF16 in kinds


def test_a_quantised_cache_counts_as_a_changed_answer() -> None:
    assert not grid.changes_answers(BASELINE)
    assert grid.changes_answers(Candidate("Q8_0", BASE))
    quantised = CacheConfig(key_type=CacheType.Q8_0, value_type=CacheType.Q8_0)
    assert grid.changes_answers(Candidate(None, msgspec.structs.replace(BASE, cache=quantised)))


@given(speeds, st.floats(1, 1e5), st.floats(1, 1e5))
def test_more_time_never_means_less_effort(untuned: Speeds, less: float, more: float) -> None:
    full = budget.Workload(2048, 4, 24)
    low, high = sorted((less, more))
    efforts = [
        budget.EFFORTS.index(budget.effort_within(seconds, full, untuned, (10, 3), 5)[0])
        for seconds in (low, high)
    ]
    assert efforts[1] <= efforts[0]


def test_the_least_effort_is_made_where_none_fits() -> None:
    effort, needed = budget.effort_within(
        1, budget.Workload(2048, 4, 24), Speeds(100, 20, 20, 50), (10, 3), 5
    )
    assert effort == budget.EFFORTS[-1]
    assert needed > 1


def test_medians_are_of_each_part() -> None:
    rounds = [Speeds(1, 9, 5, 5), Speeds(2, 8, 5, 5), Speeds(9, 1, 5, 5)]
    assert search.medians(rounds) == Speeds(2, 8, 5, 5)


@pytest.mark.parametrize("name", grid.DEFAULT_FORMATS)
def test_every_format_offered_can_be_written(name: str) -> None:
    assert name in grid.FORMATS
    assert name in grid.FILE_TYPE_OF


@given(speeds, st.integers(1, 4096))
def test_a_projection_to_where_it_was_measured_changes_nothing_it_should_not(
    known: Speeds, depth: int
) -> None:
    same = search.projected(known, depth, depth)
    assert math.isclose(same.deep, min(known.deep, known.empty), rel_tol=1e-9)
    assert search.projected(known, depth, 4 * depth).deep <= same.deep
    assert msgspec.structs.replace(same, deep=known.deep) == known


def test_the_time_of_a_token_grows_with_what_it_looks_back_on() -> None:
    # 10 ms in an empty context, 20 ms at 512: 50 ms at 2,048.
    deep = search.projected(Speeds(1, 100, 50, 1), 512, 2048).deep
    assert math.isclose(deep, 20)
