"""Guesses from what was said before: which, how many, and when none."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from freehold.engines.llamacpp.drafting import (
    FIRST_PAUSE,
    LONGEST,
    LONGEST_PAUSE,
    NGRAM,
    SHORTEST,
    Drafter,
)

ALL = 1000


def drafter_of(prompt: list[int], *answer: int) -> Drafter:
    drafter = Drafter(prompt)
    for token in answer:
        drafter.append(token)
    return drafter


def test_what_followed_the_same_words_is_guessed() -> None:
    drafter = drafter_of([1, 2, 3, 4, 5, 6, 1, 2], 3)
    assert drafter.draft(ALL) == (4, 5)


def test_the_latest_continuation_is_guessed() -> None:
    drafter = drafter_of([1, 2, 3, 7, 1, 2, 3, 8, 1, 2], 3)
    assert drafter.draft(1) == (8,)


def test_the_answer_is_a_source_too() -> None:
    assert drafter_of([9], 1, 2, 3, 4, 1, 2, 3).draft(1) == (4,)


def test_what_was_never_said_is_not_guessed_from() -> None:
    assert drafter_of([1, 2, 3, 4, 5], 6).draft(ALL) == ()


def test_before_the_answer_begins_nothing_is_guessed() -> None:
    assert drafter_of([1, 2, 3, 1, 2, 3, 1, 2, 3]).draft(ALL) == ()


def test_a_guess_has_at_most_as_many_tokens_as_asked_for() -> None:
    drafter = drafter_of([1, 2, 3, 4, 5, 6, 1, 2], 3)
    assert [len(drafter.draft(limit)) for limit in (-1, 0, 1, 2, ALL)] == [0, 0, 1, 2, SHORTEST]


def test_asking_changes_nothing() -> None:
    drafter = drafter_of([1, 2, 3, 4, 1, 2], 3)
    assert drafter.draft(ALL) == drafter.draft(ALL) != ()


@given(st.lists(st.integers(0, 2), max_size=30), st.lists(st.integers(0, 2), max_size=30))
def test_a_guess_is_what_once_followed_the_last_words(prompt: list[int], answer: list[int]) -> None:
    drafter, said = drafter_of(prompt, *answer), prompt + answer
    guess = list(drafter.draft(ALL))
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


class Repeating(Drafter):
    """Knows what comes next in [1, 2, 3] over and over."""

    def __init__(self) -> None:
        super().__init__([1, 2, 3] * 20)
        self._next = 1
        self.go_on(1)

    def go_on(self, count: int) -> None:
        for _ in range(count):
            self.append(self._next)
            self._next = self._next % 3 + 1

    def pause(self) -> int:
        """How many tokens it says nothing for."""
        waited = 0
        while not self.draft(ALL):
            self.go_on(1)
            waited += 1
        return waited


def test_a_guess_that_was_wholly_right_is_doubled() -> None:
    drafter = drafter_of([*range(50), *range(9)], 9)
    lengths = []
    for _ in range(6):
        lengths.append(len(drafter.draft(ALL)))
        drafter.learn(lengths[-1], lengths[-1])
    assert lengths == [2, 4, 8, 16, LONGEST, LONGEST]


def test_after_a_guess_half_right_the_next_is_one_longer_than_that_half() -> None:
    drafter = drafter_of([*range(50), *range(9)], 9)
    for _ in range(3):
        drafter.learn(4, 4)
    drafter.learn(16, 5)
    assert len(drafter.draft(ALL)) == 6


def test_one_whose_guesses_fail_pauses_longer_and_longer() -> None:
    drafter = Repeating()
    pauses = []
    for _ in range(8):
        drafter.learn(2, 0)
        pauses.append(drafter.pause())
    assert pauses == [min(LONGEST_PAUSE, FIRST_PAUSE * 2**n) for n in range(8)]
    assert pauses[-1] == LONGEST_PAUSE


def test_success_makes_up_for_failures() -> None:
    drafter = Repeating()
    for _ in range(3):
        drafter.learn(2, 0)
        drafter.pause()
    drafter.learn(2, 1)
    assert drafter.pause() == 0
    drafter.learn(2, 0)
    assert drafter.pause() == FIRST_PAUSE


def test_after_a_failure_guesses_are_short_again() -> None:
    drafter = Repeating()
    for _ in range(3):
        drafter.learn(8, 8)
    drafter.learn(8, 0)
    drafter.pause()
    assert len(drafter.draft(ALL)) == SHORTEST


@given(st.lists(st.integers(1, 16).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n)))))
def test_a_chance_is_a_chance(results: list[tuple[int, int]]) -> None:
    drafter = Repeating()
    for drafted, accepted in results:
        drafter.learn(drafted, accepted)
    assert 0 <= drafter.chance <= 1
    assert SHORTEST <= drafter.length <= LONGEST


def test_the_chance_follows_what_happens() -> None:
    drafter = Repeating()
    for _ in range(20):
        drafter.learn(4, 4)
    assert drafter.chance > 0.9
    for _ in range(20):
        drafter.learn(4, 0)
    assert drafter.chance < 0.1
