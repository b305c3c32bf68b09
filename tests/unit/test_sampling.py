"""Sampling against a slow and obvious reference: whole vocabulary, float64, full sorts."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from freehold.domain.sampling import Dry, Sampling
from freehold.engines.llamacpp.filters import distribution
from freehold.engines.llamacpp.sampling import (
    SEED_LIMIT,
    Logits,
    Mask,
    NothingToChoose,
    Sampler,
    log_probabilities,
    log_probability,
)

Floats = npt.NDArray[np.float64]
Ids = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Words:
    """A vocabulary whose tokens are their own numbers."""

    size: int
    ends: Sequence[int] = ()

    def piece(self, token: int) -> bytes:
        return b"%d" % token


def sampler_of(sampling: Sampling, size: int, fresh_seed: int = 0) -> Sampler:
    return Sampler(sampling, fresh_seed, (), Words(size))


# Quarters: exact in binary, with ties, as quantised models have.
small = st.lists(st.integers(-40, 40), min_size=1, max_size=30).map(
    lambda quarters: np.array(quarters, dtype=np.float32) / 4
)


def of_a_model(seed: int, size: int, spread: int, leaders: int) -> Logits:
    """A bell of unlikely tokens, a few likely ones, ties, and some that are ruled out."""
    random = np.random.default_rng(seed)
    logits = np.round(random.normal(0, spread, size) * 64) / 64
    logits[random.integers(0, size, leaders)] += random.uniform(0, 20, leaders)
    logits[random.integers(0, size, 10)] = -np.inf
    return logits.astype(np.float32)


# Beyond the sizes at which the sampler stops looking at every token.
large = st.builds(
    of_a_model,
    seed=st.integers(0, 2**32),
    size=st.integers(20_000, 20_100),
    spread=st.integers(0, 4),
    leaders=st.integers(0, 50),
)
vocabularies = small | large

settings = st.builds(
    Sampling,
    temperature=st.floats(0.05, 3),
    top_p=st.floats(0.01, 1),
    top_k=st.integers(0, 40),
    seed=st.integers(0, 2**63 - 1),
)
OFF = st.just(1.0)
all_settings = st.builds(
    Sampling,
    temperature=st.just(0.0) | st.floats(0.05, 3),
    top_p=OFF | st.floats(0.01, 1),
    top_k=st.just(0) | st.integers(1, 400),
    min_p=st.just(0.0) | st.floats(1e-6, 1),
    typical_p=OFF | st.floats(0.01, 0.999),
    seed=st.integers(0, 2**63 - 1),
)


class OnTheEdgeError(Exception):
    """Rounding may decide: the reference has no opinion."""


def apart(first: float, second: float) -> None:
    # The mass of a large vocabulary is summed from float32 exponentials.
    if abs(first - second) < 2e-6:
        raise OnTheEdgeError


def until(chances: Floats, share: float) -> int:
    """How many of the first are needed for ``share``."""
    sums = np.cumsum(chances)
    kept = 1 + int(np.count_nonzero(sums[:-1] < share))
    for edge in sums[max(0, kept - 2) : kept]:
        apart(float(edge), share)
    return kept


def typical(chances: Floats, share: float) -> Ids:
    """The places of the typical, in the order in which they came."""
    with np.errstate(divide="ignore"):
        surprise = -np.log(chances)
    possible = chances > 0
    expected = float((chances[possible] * surprise[possible]).sum())
    distance = np.abs(surprise - expected)
    order = np.argsort(distance, kind="stable")
    kept = until(chances[order], share)
    if kept < len(order) and chances[order[kept - 1]] != chances[order[kept]]:
        apart(float(distance[order[kept - 1]]), float(distance[order[kept]]))
    return np.sort(order[:kept])


def reference(logits: Logits, sampling: Sampling) -> tuple[Ids, Floats]:
    """Top-k, temperature, typical, top-p, min-p, one after another."""
    tokens = np.lexsort((np.arange(len(logits)), -logits))
    tokens = tokens[: sampling.top_k] if sampling.top_k else tokens
    chosen = logits[tokens].astype(np.float64)
    chances = np.exp((chosen - chosen[0]) / sampling.temperature)
    chances /= chances.sum()
    if sampling.typical_p < 1:
        kept = typical(chances, sampling.typical_p)
        tokens, chances = tokens[kept], chances[kept] / chances[kept].sum()
    if sampling.top_p < 1:
        count = until(chances, sampling.top_p)
        tokens, chances = tokens[:count], chances[:count] / chances[:count].sum()
    if sampling.min_p > 0:
        relative = chances / chances[0]
        for likeness in relative[1:]:
            if abs(likeness - sampling.min_p) < 1e-9:
                raise OnTheEdgeError
        count = max(1, int(np.count_nonzero(relative >= sampling.min_p)))
        tokens, chances = tokens[:count], chances[:count] / chances[:count].sum()
    return tokens, chances


def reference_choices(logits: Logits, sampling: Sampling, count: int) -> list[int]:
    if sampling.greedy:
        return [int(np.argmax(logits))] * count
    assert sampling.seed is not None
    random = np.random.Generator(np.random.PCG64(sampling.seed))
    tokens, chances = reference(logits, sampling)
    choices = []
    for _ in range(count):
        drawn = random.random()
        place = until(chances, drawn) - 1
        choices.append(int(tokens[place]))
    return choices


@given(vocabularies, all_settings)
def test_the_choice_is_that_of_the_obvious_way(logits: Logits, sampling: Sampling) -> None:
    sampler = sampler_of(sampling, len(logits))
    try:
        wanted = reference_choices(logits, sampling, 5)
    except OnTheEdgeError:
        assume(False)
    assert [sampler.choose(logits) for _ in range(5)] == wanted


@given(vocabularies, all_settings)
def test_the_same_candidates_with_the_same_chances(logits: Logits, sampling: Sampling) -> None:
    assume(sampling.temperature > 0)
    try:
        tokens, chances = reference(logits, sampling)
    except OnTheEdgeError:
        assume(False)
    candidates, probabilities = distribution(logits, sampling)
    assert candidates.tolist() == tokens.tolist()
    np.testing.assert_allclose(probabilities, chances, rtol=1e-6)


@given(vocabularies, all_settings)
def test_chances_add_up_to_one_and_fall(logits: Logits, sampling: Sampling) -> None:
    assume(sampling.temperature > 0)
    _, probabilities = distribution(logits, sampling)
    assert float(probabilities.sum()) == pytest.approx(1)
    assert np.all(np.diff(probabilities) <= 0)


@given(vocabularies, st.integers(0, 2**31))
def test_greedy_takes_the_first_of_the_highest(logits: Logits, seed: int) -> None:
    highest = int(np.argmax(logits))
    for sampling in (Sampling(temperature=0), Sampling(top_k=1), Sampling(temperature=0, top_k=1)):
        assert sampler_of(sampling, len(logits), seed).choose(logits) == highest
    assert distribution(logits, Sampling(top_k=1))[0].tolist() == [highest]


@given(vocabularies, settings)
def test_the_choice_is_one_of_the_candidates(logits: Logits, sampling: Sampling) -> None:
    chosen = sampler_of(sampling, len(logits)).choose(logits)
    assert chosen in distribution(logits, sampling)[0]


@given(vocabularies, settings)
def test_the_same_seed_chooses_the_same(logits: Logits, sampling: Sampling) -> None:
    first = sampler_of(sampling, len(logits), fresh_seed=1)
    second = sampler_of(sampling, len(logits), fresh_seed=2)
    assert [first.choose(logits) for _ in range(10)] == [second.choose(logits) for _ in range(10)]


def test_another_seed_chooses_otherwise() -> None:
    logits = np.zeros(100, dtype=np.float32)
    runs = [
        [sampler.choose(logits) for _ in range(20)]
        for sampler in (sampler_of(Sampling(seed=seed, top_k=0), 100) for seed in range(5))
    ]
    assert len({tuple(run) for run in runs}) == 5


def test_the_seed_that_was_used_is_told_and_can_be_given_again() -> None:
    logits = np.zeros(100, dtype=np.float32)
    fresh = sampler_of(Sampling(top_k=0), 100, fresh_seed=2**63 + 12345)
    assert 0 <= fresh.seed < SEED_LIMIT
    again = sampler_of(Sampling(top_k=0, seed=fresh.seed), 100)
    assert [fresh.choose(logits) for _ in range(10)] == [again.choose(logits) for _ in range(10)]


@pytest.mark.parametrize("temperature", [5e-324, 1e-308, 1e-30, 1e-6, 0.001])
@pytest.mark.parametrize(
    "filters",
    [{}, {"top_k": 0}, {"top_k": 0, "top_p": 1.0}, {"top_k": 0, "min_p": 0.1, "top_p": 1.0}],
    ids=repr,
)
@pytest.mark.parametrize("typical_p", [1.0, 0.5])
@pytest.mark.parametrize("size", [4, 20_000])
def test_almost_no_temperature_is_greedy(
    temperature: float, filters: dict[str, float], typical_p: float, size: int
) -> None:
    logits = np.full(size, -7, dtype=np.float32)
    logits[:3] = [1, 30, 29.5]
    plain = Sampling(temperature=temperature, typical_p=typical_p, seed=1)
    sampling = dataclasses.replace(plain, **filters)  # type: ignore[arg-type]
    assert {sampler_of(sampling, size).choose(logits) for _ in range(5)} == {1}


@given(vocabularies, all_settings, st.sampled_from([1e6, 1e30, 1e300]))
def test_any_temperature_draws_a_possible_token(
    logits: Logits, sampling: Sampling, temperature: float
) -> None:
    hot = dataclasses.replace(sampling, temperature=temperature)
    chosen = sampler_of(hot, len(logits)).choose(logits)
    assert logits[chosen] > -np.inf


def test_a_token_that_is_ruled_out_is_never_chosen() -> None:
    logits = np.array([0, -np.inf, 0], dtype=np.float32)
    candidates, probabilities = distribution(logits, Sampling(top_k=0, top_p=1))
    assert dict(zip(candidates.tolist(), probabilities.tolist(), strict=True))[1] == 0
    sampler = sampler_of(Sampling(top_k=0, top_p=1, seed=5), 3)
    assert {sampler.choose(logits) for _ in range(200)} == {0, 2}


@pytest.mark.parametrize("broken", [-np.inf, np.inf, np.nan])
@pytest.mark.parametrize("size", [5, 20_000])
@given(sampling=all_settings)
def test_no_possible_token_is_an_error(broken: float, size: int, sampling: Sampling) -> None:
    logits = np.full(size, broken, dtype=np.float32)
    with pytest.raises(NothingToChoose):
        sampler_of(sampling, size).choose(logits)


def test_top_p_keeps_at_least_one() -> None:
    logits = np.zeros(8, dtype=np.float32)
    assert distribution(logits, Sampling(top_p=1e-9, top_k=0))[0].tolist() == [0]


@pytest.mark.parametrize(("error", "kept"), [(-5e-5, [0, 1]), (5e-5, [0])])
def test_many_very_unlikely_tokens_together_decide_where_top_p_ends(
    error: float, kept: list[int]
) -> None:
    logits = np.full(100_000, -20.5, dtype=np.float32)
    logits[:3] = 0
    mass = 3 + (len(logits) - 3) * np.exp(-20.5)
    assert mass - 3 > 1e-4
    # The first token alone is that share of a mass which is wrong by ``error``.
    sampling = Sampling(temperature=1.0, top_k=0, top_p=1 / (mass + error))
    assert distribution(logits, sampling)[0].tolist() == kept


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=1.0, top_p=1.0, top_k=0, seed=7),
        Sampling(temperature=0.7, top_p=0.9, top_k=0, seed=8),
        Sampling(temperature=1.5, top_p=1.0, top_k=5, seed=9),
        Sampling(temperature=1.0, top_p=1.0, top_k=0, min_p=0.2, seed=10),
        Sampling(temperature=1.0, top_p=1.0, top_k=0, typical_p=0.7, seed=11),
    ],
    ids=repr,
)
def test_choices_follow_the_distribution(sampling: Sampling) -> None:
    logits = np.array([2.0, 1.5, 1.0, 0.5, 0.0, -0.5, -1.0, 1.5], dtype=np.float32)
    draws = 20_000
    sampler = sampler_of(sampling, len(logits))
    counts = Counter(sampler.choose(logits) for _ in range(draws))
    tokens, chances = reference(logits, sampling)
    wanted = dict(zip(tokens.tolist(), chances.tolist(), strict=True))
    assert set(counts) == set(wanted)
    squares = sum(
        (counts[token] - draws * chance) ** 2 / (draws * chance) for token, chance in wanted.items()
    )
    # Beyond the 99.9th percentile of chi-square with 7 degrees of freedom.
    assert squares < 24.3


# Masks


def mask_of(allowed: npt.NDArray[np.bool_]) -> Mask:
    words: Mask = np.zeros(-(-len(allowed) // 32), dtype=np.uint32)
    for token in np.flatnonzero(allowed).tolist():
        words[token // 32] |= np.uint32(1 << (token % 32))
    return words


@given(vocabularies, all_settings, st.floats(0, 1), st.integers(0, 2**32))
def test_a_mask_is_as_if_the_model_had_ruled_the_rest_out(
    logits: Logits, sampling: Sampling, share: float, seed: int
) -> None:
    random = np.random.default_rng(seed)
    # Most masks allow very few or nearly all.
    allowed = random.random(len(logits)) < share**4
    allowed[random.integers(0, len(logits))] = True
    barred = np.where(allowed, logits, np.float32(-np.inf))
    assume(barred.max() > -np.inf)
    masked, alone = sampler_of(sampling, len(logits)), sampler_of(sampling, len(logits))
    mask = mask_of(allowed)
    try:
        reference_choices(barred, sampling, 3)
    except OnTheEdgeError:
        assume(False)
    choices = [masked.choose(logits.copy(), mask) for _ in range(3)]
    assert choices == [alone.choose(barred) for _ in range(3)]
    assert allowed[choices].all()


@pytest.mark.parametrize("sampling", [Sampling(temperature=0), Sampling(), Sampling(top_k=0)])
def test_a_mask_that_allows_nothing_is_an_error(sampling: Sampling) -> None:
    logits = np.zeros(100, dtype=np.float32)
    nothing = np.zeros(4, dtype=np.uint32)
    beyond = nothing.copy()
    beyond[3] = 1 << 31  # token 127 of 100
    for mask in (nothing, beyond):
        with pytest.raises(ValueError, match="no token is left"):
            sampler_of(sampling, 100).choose(logits, mask)


def test_a_mask_that_only_allows_the_end_and_ignore_end_leave_nothing() -> None:
    sampler = Sampler(Sampling(ignore_end=True), 0, (), Words(100, ends=(3,)))
    with pytest.raises(NothingToChoose):
        sampler.choose(np.zeros(100, dtype=np.float32), np.array([8, 0, 0, 0], dtype=np.uint32))


# Logit bias and the end


@given(small, all_settings, st.data())
def test_a_bias_is_as_if_the_model_had_said_so(
    logits: Logits, sampling: Sampling, data: st.DataObject
) -> None:
    quarters = st.integers(-400, 400).map(lambda quarter: quarter / 4)
    pairs = data.draw(st.lists(st.tuples(st.integers(0, len(logits) - 1), quarters), max_size=5))
    biased = logits.copy()
    for token, bias in pairs:
        biased[token] += bias
    with_bias = dataclasses.replace(sampling, logit_bias=tuple(pairs))
    own = sampler_of(with_bias, len(logits)).choose(logits.copy())
    assert own == sampler_of(sampling, len(logits)).choose(biased)


@pytest.mark.parametrize("bias", [100.0, 1e30, 1e300, float("inf")])
@given(sampling=all_settings)
def test_huge_biases_force_and_forbid(bias: float, sampling: Sampling) -> None:
    logits = np.array([1, 2, 3, 2, 1], dtype=np.float32)
    forcing = dataclasses.replace(sampling, logit_bias=((4, bias),))
    assert sampler_of(forcing, 5).choose(logits.copy()) == 4
    forbidding = dataclasses.replace(
        sampling, logit_bias=tuple((token, -bias) for token in (0, 1, 2, 4))
    )
    assert sampler_of(forbidding, 5).choose(logits.copy()) == 3


@pytest.mark.parametrize("token", [-1, 5, 10**12])
def test_a_bias_on_no_token_is_refused_by_its_id(token: int) -> None:
    with pytest.raises(ValueError, match=rf"no token {token}\b"):
        sampler_of(Sampling(logit_bias=((token, 1.0),)), 5)


def test_a_bias_that_is_not_a_number_is_refused() -> None:
    with pytest.raises(ValueError, match="token 2 is not a number"):
        sampler_of(Sampling(logit_bias=((2, float("nan")),)), 5)


@given(small, all_settings, st.data())
def test_the_end_is_never_chosen_where_it_is_ignored(
    logits: Logits, sampling: Sampling, data: st.DataObject
) -> None:
    assume(len(logits) > 1)
    tokens = st.integers(0, len(logits) - 1)
    ends = data.draw(st.lists(tokens, unique=True, min_size=1, max_size=len(logits) - 1))
    forced = tuple((end, 50.0) for end in ends)
    endless = dataclasses.replace(sampling, ignore_end=True, logit_bias=forced)
    sampler = Sampler(endless, 0, (), Words(len(logits), ends))
    assert sampler.choose(logits.copy()) not in ends


# Log-probabilities


def reference_logprobs(logits: Logits) -> Floats:
    exact = logits.astype(np.float64)
    shifted = exact - exact.max()
    logprobs: Floats = shifted - float(np.log(np.exp(shifted).sum()))
    return logprobs


@given(vocabularies, st.integers(0, 20), st.data())
def test_log_probabilities_are_those_of_the_whole_vocabulary(
    logits: Logits, top: int, data: st.DataObject
) -> None:
    token = data.draw(st.integers(0, len(logits) - 1))
    wanted = reference_logprobs(logits)
    own, best = log_probability(logits, token, top)
    assert own == pytest.approx(wanted[token], abs=1e-4)
    order = np.lexsort((np.arange(len(logits)), -logits))[:top].tolist()
    assert [other for other, _ in best] == order
    np.testing.assert_allclose([chance for _, chance in best], wanted[order], atol=1e-4)


@given(st.integers(0, 2**32), st.integers(1, 8), st.integers(0, 5))
def test_a_chunk_of_rows_is_as_each_row_alone(seed: int, count: int, top: int) -> None:
    rows = np.stack([of_a_model(seed + row, 9000, 2, 20) for row in range(count)])
    tokens = np.random.default_rng(seed).integers(0, 9000, count).tolist()
    alone = [log_probability(row, token, top) for row, token in zip(rows, tokens, strict=True)]
    assert log_probabilities(rows, tokens, top) == alone


def test_log_probabilities_leave_the_logits_as_they_are() -> None:
    logits = of_a_model(1, 20_000, 2, 20)
    before = logits.copy()
    log_probability(logits, 5, 20)
    np.testing.assert_array_equal(logits, before)


# Everything at once


@given(vocabularies, all_settings, st.lists(st.integers(0, 5), min_size=1, max_size=30))
def test_a_sampler_with_everything_on_stays_among_the_possible(
    logits: Logits, sampling: Sampling, prompt: list[int]
) -> None:
    assume(len(logits) > 6)
    everything = dataclasses.replace(
        sampling,
        repetition_penalty=1.3,
        presence_penalty=0.5,
        frequency_penalty=-0.5,
        penalty_window=20,
        dry=Dry(0.8, breakers=("3",)),
        logit_bias=((1, 2.0),),
        ignore_end=True,
    )
    sampler = Sampler(everything, 0, prompt, Words(len(logits), ends=(0,)))
    for _ in range(5):
        row = logits.copy()
        chosen = sampler.choose(row)
        assert chosen != 0
        assert logits[chosen] > -np.inf
        assert not np.isnan(row).any()
        sampler.accept(chosen)
