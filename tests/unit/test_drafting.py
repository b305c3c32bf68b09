"""Guesses from what was said before: which, how many, and when none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freehold.engines.llamacpp.drafting import LONGEST, LONGEST_STRETCH, NGRAM, Drafter


def drafter_of(prompt: list[int], *answer: int) -> Drafter:
    drafter = Drafter(prompt)
    for token in answer:
        drafter.append(token)
    return drafter


def test_what_followed_the_same_words_is_guessed() -> None:
    drafter = drafter_of([1, 2, 3, 4, 5, 6, 1, 2], 3)
    assert drafter.draft(2) == (4, 5)


def test_the_latest_continuation_is_guessed() -> None:
    drafter = drafter_of([1, 2, 3, 7, 1, 2, 3, 8, 1, 2], 3)
    assert drafter.draft(1) == (8,)


def test_the_answer_is_a_source_too() -> None:
    assert drafter_of([9], 1, 2, 3, 4, 1, 2, 3).draft(1) == (4,)


def test_what_was_never_said_is_not_guessed_from() -> None:
    assert drafter_of([1, 2, 3, 4, 5], 6).draft(5) == ()


def test_before_the_answer_begins_nothing_is_guessed() -> None:
    assert drafter_of([1, 2, 3, 1, 2, 3, 1, 2, 3]).draft(5) == ()


def test_a_guess_has_as_many_tokens_as_asked_for() -> None:
    drafter = drafter_of([1, 2, 3, 4, 5, 6, 1, 2], 3)
    assert [len(drafter.draft(length)) for length in (-1, 0, 1, 2, 30)] == [0, 0, 1, 2, 30]


def test_asking_changes_nothing() -> None:
    drafter = drafter_of([1, 2, 3, 4, 1, 2], 3)
    assert drafter.draft(5) == drafter.draft(5) != ()


@given(st.lists(st.integers(0, 2), max_size=30), st.lists(st.integers(0, 2), max_size=30))
def test_a_guess_is_what_once_followed_the_last_words(prompt: list[int], answer: list[int]) -> None:
    drafter, said = drafter_of(prompt, *answer), prompt + answer
    guess = list(drafter.draft(5))
    last = said[-NGRAM:]
    followed = [
        (said + guess)[at + NGRAM :][: len(guess)]  # it may continue into itself
        for at in range(len(said) - NGRAM)
        if said[at : at + NGRAM] == last
    ]
    if answer and len(said) >= NGRAM:
        assert bool(guess) == bool(followed)
    assert not guess or guess in followed


# Learning


def stretch(length: int) -> Drafter:
    """One whose last ``length`` tokens were said before, and no more."""
    return drafter_of([0, *range(10, 10 + length), 1, 2, *range(10, 9 + length)], 9 + length)


def chance(drafter: Drafter) -> float:
    found = drafter.chance()
    assert found is not None
    return found


def test_where_nothing_is_known_there_is_no_chance() -> None:
    assert drafter_of([1, 2, 3, 4, 5], 6).chance() is None


def test_the_longer_the_stretch_the_likelier_it_goes_on() -> None:
    chances = [chance(stretch(length)) for length in (3, 4, 8, 16, 32)]
    assert chances == sorted(set(chances))
    assert chances[0] == pytest.approx(3 / 4)
    assert chances[-1] == pytest.approx(LONGEST_STRETCH / (LONGEST_STRETCH + 1))


def test_a_stretch_reaches_back_to_the_very_beginning() -> None:
    assert chance(drafter_of([1, 2, 3, 4, 9, 1, 2, 3], 4)) == pytest.approx(4 / 5)


def test_the_chance_follows_what_happens() -> None:
    drafter = stretch(5)
    for _ in range(20):
        drafter.draft(4)
        drafter.learn(4, 4)
    assert chance(drafter) > 0.95
    for _ in range(200):
        drafter.draft(4)
        drafter.learn(4, 0)
    assert chance(drafter) < 0.4


def test_what_follows_a_wrong_guess_was_not_tried() -> None:
    short, long = stretch(5), stretch(5)
    for drafter, drafted in ((short, 3), (long, 40)):
        drafter.draft(drafted)
        drafter.learn(drafted, 2)
    assert chance(short) == chance(long)


def test_long_stretches_do_not_pay_for_short_ones() -> None:
    prompt = [*range(50), 60, 61, 62, 63, 1, 2]
    drafter = drafter_of(prompt, 3)
    before = chance(drafter)
    for _ in range(20):
        drafter.draft(4)
        drafter.learn(4, 0)
    failed = chance(drafter)
    for token in (4, 5, 6, 7, 8, 9, 10, 11):
        drafter.append(token)
    assert failed < 0.3 < before < chance(drafter)


def test_a_bad_record_is_forgotten() -> None:
    drafter = drafter_of([1, 2, 3] * 20, 1)
    for _ in range(20):
        drafter.draft(4)
        drafter.learn(4, 0)
    failed = chance(drafter)
    for token in [2, 3, 1] * 100:
        drafter.append(token)
    assert failed < 0.4
    assert chance(drafter) > 0.7


@given(
    st.lists(st.integers(1, LONGEST).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))))
)
def test_a_chance_is_a_chance(results: list[tuple[int, int]]) -> None:
    drafter = stretch(7)
    for drafted, accepted in results:
        assert len(drafter.draft(drafted)) == drafted
        drafter.learn(drafted, accepted)
    assert 0 < chance(drafter) < 1
