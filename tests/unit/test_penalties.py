"""Penalties against implementations that count everything again for every token."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from freehold.domain.sampling import Dry, Sampling
from freehold.engines.llamacpp.dry import LONGEST_MATCH
from freehold.engines.llamacpp.sampling import Logits, Sampler

SIZE = 12
PIECES = (b"a", b"b", b"c", b"d", b"e\n", b"f", b":", b"\xff", b"", b"i", b"j", b"k")


@dataclass(frozen=True)
class Letters:
    size: int = SIZE
    ends: Sequence[int] = (SIZE - 1,)

    def piece(self, token: int) -> bytes:
        return PIECES[token]


# Few different tokens repeat themselves often, and a phrase that is repeated always does.
phrases = st.lists(st.integers(0, 5), max_size=40)
said = phrases | st.builds(
    lambda phrase, times: phrase * times,
    st.lists(st.integers(0, 5), min_size=1, max_size=4),
    st.integers(2, 10),
)
rows = st.lists(st.integers(-40, 40), min_size=SIZE, max_size=SIZE).map(
    lambda quarters: np.array(quarters, dtype=np.float32) / 4
)
windows = st.none() | st.integers(0, 15)
dries = st.builds(
    Dry,
    multiplier=st.sampled_from([0.25, 1.0]),
    base=st.sampled_from([1.0, 1.5, 1.75]),
    allowed_length=st.integers(1, 4),
    breakers=st.sampled_from([(), ("\n",), ("\n", ":"), ("b",)]),
)
penalised = st.builds(
    Sampling,
    temperature=st.just(0.0),
    repetition_penalty=st.sampled_from([1.0, 1.25, 0.5, 2.0]),
    presence_penalty=st.sampled_from([0.0, 0.5, -1.0]),
    frequency_penalty=st.sampled_from([0.0, 0.25, -0.25]),
    penalty_window=windows,
    dry=st.none() | dries,
    logit_bias=st.sampled_from([(), ((2, 3.0), (5, -1.5))]),
    ignore_end=st.booleans(),
)


def latest(tokens: list[int], window: int | None) -> list[int]:
    return tokens if window is None else tokens[max(0, len(tokens) - window) :]


def repetitions(tokens: list[int], dry: Dry) -> dict[int, int]:
    """The longest match that each token would go on with, by comparing text with text."""

    def breaks(token: int) -> bool:
        return any(text.encode() in PIECES[token] for text in dry.breakers)

    found: dict[int, int] = {}
    for place in range(len(tokens) - 1):
        length = 0
        while (
            length <= place
            and tokens[place - length] == tokens[-1 - length]
            and not breaks(tokens[-1 - length])
            and length < LONGEST_MATCH
        ):
            length += 1
        following = tokens[place + 1]
        if length and not breaks(following):
            found[following] = max(found.get(following, 0), length)
    return found


def reference(logits: Logits, sampling: Sampling, prompt: list[int], answer: list[int]) -> Logits:
    changed = logits.astype(np.float64)
    for token, bias in sampling.logit_bias:
        changed[token] += bias
    if sampling.ignore_end:
        changed[SIZE - 1] = -np.inf
    context = latest(prompt + answer, sampling.penalty_window)
    for token in set(context):
        factor = sampling.repetition_penalty
        changed[token] *= 1 / factor if changed[token] > 0 else factor
    for token, count in Counter(latest(answer, sampling.penalty_window)).items():
        changed[token] -= sampling.presence_penalty + sampling.frequency_penalty * count
    if sampling.dry is not None:
        for token, length in repetitions(context, sampling.dry).items():
            over = length - sampling.dry.allowed_length
            if over >= 0:
                changed[token] -= sampling.dry.multiplier * sampling.dry.base**over
    return changed.astype(np.float32)


@given(rows, penalised, said, said)
def test_logits_are_those_of_counting_everything_again(
    logits: Logits, sampling: Sampling, prompt: list[int], answer: list[int]
) -> None:
    sampler = Sampler(sampling, 0, prompt, Letters())
    for length in range(len(answer) + 1):
        row = logits.copy()
        chosen = sampler.choose(row)
        np.testing.assert_allclose(
            row, reference(logits, sampling, prompt, answer[:length]), rtol=1e-5, atol=1e-5
        )
        assert chosen == int(np.argmax(row))
        if length < len(answer):
            sampler.accept(answer[length])


@given(rows, penalised, said)
def test_choosing_records_nothing(logits: Logits, sampling: Sampling, prompt: list[int]) -> None:
    sampler = Sampler(sampling, 0, prompt, Letters())
    first, second = logits.copy(), logits.copy()
    sampler.choose(first)
    sampler.choose(second)
    np.testing.assert_array_equal(first, second)


@given(rows, penalised, said, said)
def test_what_is_forgotten_makes_no_difference(
    logits: Logits, sampling: Sampling, prompt: list[int], older: list[int]
) -> None:
    """A window that the prompt fills hides all that was before it."""
    windowed = dataclasses.replace(sampling, penalty_window=len(prompt))
    long, short = logits.copy(), logits.copy()
    Sampler(windowed, 0, older + prompt, Letters()).choose(long)
    Sampler(windowed, 0, prompt, Letters()).choose(short)
    np.testing.assert_array_equal(long, short)


def after(sampling: Sampling, prompt: list[int], answer: Sequence[int] = ()) -> list[float]:
    """What is taken off twelve logits of 10."""
    sampler = Sampler(sampling, 0, prompt, Letters())
    for token in answer:
        sampler.accept(token)
    row = np.full(SIZE, 10, dtype=np.float32)
    sampler.choose(row)
    return [10 - value for value in row.tolist()]


def test_presence_and_frequency_leave_the_prompt_alone() -> None:
    sampling = Sampling(presence_penalty=1.0, frequency_penalty=0.5)
    assert after(sampling, [1, 1, 2], [3, 4, 4])[:6] == [0, 0, 0, 1.5, 2.0, 0]


def test_repetition_counts_the_prompt_and_counts_once() -> None:
    sampling = Sampling(repetition_penalty=2.0)
    assert after(sampling, [1, 1], [2])[:4] == [0, 5, 5, 0]


def test_dry_example() -> None:
    # After "a b c, a b c, a b" comes c: a match of five.
    sampling = Sampling(dry=Dry(1.0, base=2.0, allowed_length=2, breakers=()))
    assert after(sampling, [0, 1, 2, 0, 1, 2, 0, 1])[:4] == [0, 0, 2**3, 0]


def test_a_breaker_ends_the_repetition() -> None:
    sampling = Sampling(dry=Dry(1.0, base=2.0, allowed_length=2, breakers=("\n",)))
    line = [4, 0, 1, 2]  # starts with a line's end
    assert after(sampling, [*line, 4, 0, 1])[2] == 1  # only "a b" was matched
    assert after(sampling, [*line, *line, 4]) == [0] * SIZE  # it ends with a breaker
    assert after(sampling, [0, 1, 4, 2, 0, 1])[4] == 0  # a breaker is never penalised


def test_very_long_repetitions_cost_no_more_than_the_longest_match() -> None:
    sampling = Sampling(dry=Dry(1.0, base=1.0 + 2**-6, breakers=()))
    wanted = (1 + 2**-6) ** (LONGEST_MATCH - 2)
    for prompt, answer in (([0] * 500, []), ([], [0] * 500), ([0] * 30, [0] * 3000)):
        assert after(sampling, prompt, answer)[0] == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("base", [1e10, 1e300, 0.0])
def test_any_base_gives_numbers(base: float) -> None:
    sampling = Sampling(dry=Dry(5.0, base=base, breakers=()))
    row = np.zeros(SIZE, dtype=np.float32)
    chosen = Sampler(sampling, 0, [0] * 100, Letters()).choose(row)
    assert np.isfinite(row).all()
    assert chosen != 0 or base == 0


@pytest.mark.parametrize("penalty", [0.0, -1.0, float("nan")])
def test_a_repetition_penalty_that_turns_logits_over_is_refused(penalty: float) -> None:
    with pytest.raises(ValueError, match="repetition_penalty"):
        Sampler(Sampling(repetition_penalty=penalty), 0, (), Letters())


def test_an_allowed_length_that_is_never_reached_is_refused() -> None:
    Sampler(Sampling(dry=Dry(1.0, allowed_length=LONGEST_MATCH)), 0, (), Letters())
    with pytest.raises(ValueError, match="allowed_length"):
        Sampler(Sampling(dry=Dry(1.0, allowed_length=LONGEST_MATCH + 1)), 0, (), Letters())
