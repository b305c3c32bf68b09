"""Sampling against a slow and obvious reference."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from freehold.domain.sampling import Sampling
from freehold.engines.llamacpp.sampling import SEED_LIMIT, Logits, Sampler, distribution

# Quarters: exact in binary, with ties, as quantised models have.
vocabularies = st.lists(st.integers(-40, 40), min_size=1, max_size=30).map(
    lambda quarters: np.array(quarters, dtype=np.float32) / 4
)
settings = st.builds(
    Sampling,
    temperature=st.floats(0.05, 3),
    top_p=st.floats(0.01, 1),
    top_k=st.integers(0, 40),
    seed=st.integers(0, 2**63 - 1),
)


def reference(logits: Logits, sampling: Sampling) -> dict[int, float]:
    """Top-k, temperature, top-p, one after another."""
    order = sorted(range(len(logits)), key=lambda token: (-float(logits[token]), token))
    kept = order[: sampling.top_k] if sampling.top_k else order
    top = float(logits[kept[0]])
    weights = [math.exp((float(logits[token]) - top) / sampling.temperature) for token in kept]
    chances = [weight / math.fsum(weights) for weight in weights]
    nucleus: list[float] = []
    for chance in chances:
        if nucleus and sampling.top_p < 1 and math.fsum(nucleus) >= sampling.top_p:
            break
        nucleus.append(chance)
    return {
        token: chance / math.fsum(nucleus) for token, chance in zip(kept, nucleus, strict=False)
    }


def on_the_edge(logits: Logits, sampling: Sampling) -> bool:
    """Whether rounding may decide how many tokens top-p keeps."""
    chances = list(reference(logits, Sampling(sampling.temperature, 1.0, sampling.top_k)).values())
    sums = np.cumsum(chances)
    return bool(np.any(np.abs(sums - sampling.top_p) < 1e-9))


@given(vocabularies, settings)
def test_the_same_candidates_with_the_same_chances(logits: Logits, sampling: Sampling) -> None:
    if on_the_edge(logits, sampling):
        return
    candidates, probabilities = distribution(logits, sampling)
    wanted = reference(logits, sampling)
    assert candidates.tolist() == list(wanted)
    assert probabilities == pytest.approx(list(wanted.values()))


@given(vocabularies, settings)
def test_chances_add_up_to_one_and_fall(logits: Logits, sampling: Sampling) -> None:
    _, probabilities = distribution(logits, sampling)
    assert float(probabilities.sum()) == pytest.approx(1)
    assert np.all(np.diff(probabilities) <= 0)


@given(vocabularies, st.integers(0, 2**31))
def test_greedy_takes_the_first_of_the_highest(logits: Logits, seed: int) -> None:
    highest = int(np.argmax(logits))
    for sampling in (Sampling(temperature=0), Sampling(top_k=1), Sampling(temperature=0, top_k=1)):
        assert Sampler(sampling, seed).choose(logits) == highest
    assert distribution(logits, Sampling(top_k=1))[0].tolist() == [highest]


@given(vocabularies, settings)
def test_the_choice_is_one_of_the_candidates(logits: Logits, sampling: Sampling) -> None:
    assert Sampler(sampling, 0).choose(logits) in distribution(logits, sampling)[0]


@given(vocabularies, settings)
def test_the_same_seed_chooses_the_same(logits: Logits, sampling: Sampling) -> None:
    first, second = Sampler(sampling, 1), Sampler(sampling, 2)
    assert [first.choose(logits) for _ in range(10)] == [second.choose(logits) for _ in range(10)]


def test_another_seed_chooses_otherwise() -> None:
    logits = np.zeros(100, dtype=np.float32)
    runs = [
        [sampler.choose(logits) for _ in range(20)]
        for sampler in (Sampler(Sampling(seed=seed, top_k=0), 0) for seed in range(5))
    ]
    assert len({tuple(run) for run in runs}) == 5


def test_the_seed_that_was_used_is_told_and_can_be_given_again() -> None:
    logits = np.zeros(100, dtype=np.float32)
    fresh = Sampler(Sampling(top_k=0), 2**63 + 12345)
    assert 0 <= fresh.seed < SEED_LIMIT
    again = Sampler(Sampling(top_k=0, seed=fresh.seed), 0)
    assert [fresh.choose(logits) for _ in range(10)] == [again.choose(logits) for _ in range(10)]


@pytest.mark.parametrize("temperature", [5e-324, 1e-308, 1e-30, 0.001])
def test_almost_no_temperature_is_greedy(temperature: float) -> None:
    logits = np.array([1, 30, 29.5, -7], dtype=np.float32)
    sampling = Sampling(temperature=temperature, seed=1)
    assert {Sampler(sampling, 0).choose(logits) for _ in range(20)} == {1}


def test_a_token_that_is_ruled_out_is_never_chosen() -> None:
    logits = np.array([0, -np.inf, 0], dtype=np.float32)
    candidates, probabilities = distribution(logits, Sampling(top_k=0, top_p=1))
    assert dict(zip(candidates.tolist(), probabilities.tolist(), strict=True))[1] == 0
    sampler = Sampler(Sampling(top_k=0, top_p=1, seed=5), 0)
    assert {sampler.choose(logits) for _ in range(200)} == {0, 2}


def test_top_p_keeps_at_least_one() -> None:
    logits = np.zeros(8, dtype=np.float32)
    assert distribution(logits, Sampling(top_p=1e-9, top_k=0))[0].tolist() == [0]


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=1.0, top_p=1.0, top_k=0, seed=7),
        Sampling(temperature=0.7, top_p=0.9, top_k=0, seed=8),
        Sampling(temperature=1.5, top_p=1.0, top_k=5, seed=9),
    ],
    ids=repr,
)
def test_choices_follow_the_distribution(sampling: Sampling) -> None:
    logits = np.array([2.0, 1.5, 1.0, 0.5, 0.0, -0.5, -1.0, 1.5], dtype=np.float32)
    draws = 20_000
    sampler = Sampler(sampling, 0)
    counts = Counter(sampler.choose(logits) for _ in range(draws))
    wanted = reference(logits, sampling)
    assert set(counts) == set(wanted)
    squares = sum(
        (counts[token] - draws * chance) ** 2 / (draws * chance) for token, chance in wanted.items()
    )
    # Beyond the 99.9th percentile of chi-square with 7 degrees of freedom.
    assert squares < 24.3
