"""DRY, "don't repeat yourself": a penalty on tokens that go on with a repetition.

A repetition is what the history ends with and held before. For each earlier place where the
latest token stood, the length of what it has in common with the end of the history is kept:
one more than that of the place before it had been, one token ago. So a new token costs one
look at the places where it stood, not a comparison of histories.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from freehold.domain.sampling import Dry
from freehold.engines.llamacpp.ranking import Logits, Tokens, Weights

History = npt.NDArray[np.int32]

LONGEST_MATCH = 64
"""Longer repetitions are penalised as repetitions of this length."""

_HIGHEST_PENALTY = 1e30
_SPARE = 1024


class DryPenalty:
    """The history of one sequence, and the penalty on what would go on repeating it."""

    def __init__(
        self, dry: Dry, prompt: Sequence[int], window: int | None, piece: Callable[[int], bytes]
    ) -> None:
        """Matches are followed for `LONGEST_MATCH` tokens, which bounds penalty and cost.

        Raises ValueError for an allowed length beyond that: it would never be reached.
        """
        if dry.allowed_length > LONGEST_MATCH:
            raise ValueError(f"dry: allowed_length is {LONGEST_MATCH} at most")
        self._allowed = max(dry.allowed_length, 1)
        self._penalties = _penalties(dry)
        self._window = window
        self._breakers = [text.encode() for text in dry.breakers]
        self._piece = piece
        self._breaks: dict[int, bool] = {}
        self._places: Tokens = np.zeros(0, dtype=np.intp)
        self._start_with(prompt)

    def _start_with(self, prompt: Sequence[int]) -> None:
        # Longer matches than the longest make no difference, so they need not be replayed.
        replayed = min(LONGEST_MATCH, len(prompt))
        self._length = len(prompt) - replayed
        self._said: History = np.zeros(len(prompt) + _SPARE, dtype=np.int32)
        self._said[: self._length] = prompt[: self._length]
        # One entry further on than the place it is about: the place before the first is 0.
        self._matched: History = np.zeros(len(self._said) + 1, dtype=np.int32)
        for token in prompt[self._length :]:
            self.accept(token)

    def accept(self, token: int) -> None:
        places = np.flatnonzero(self._said[: self._length] == token)
        matched = np.minimum(self._matched[places] + 1, LONGEST_MATCH)
        self._matched[self._places + 1] = 0
        if self._is_breaker(token):
            places = places[:0]
            matched = matched[:0]
        self._matched[places + 1] = matched
        self._places = places
        self._make_room()
        self._said[self._length] = token
        self._length += 1

    def apply(self, logits: Logits) -> None:
        if not len(self._places):
            return
        start = 0 if self._window is None else max(0, self._length - self._window)
        places = self._places[np.searchsorted(self._places, start) :]
        matched = np.minimum(self._matched[places + 1], places - start + 1)
        long_enough = matched >= self._allowed
        places, matched = places[long_enough], matched[long_enough]
        if len(places):
            self._penalise(logits, self._said[places + 1], matched)

    def _penalise(self, logits: Logits, following: History, matched: Tokens) -> None:
        """Take off the penalty of the longest match that each following token goes on with."""
        order = np.argsort(matched, kind="stable")
        following, matched = following[order], matched[order]
        spared = [token for token in set(following.tolist()) if self._is_breaker(token)]
        as_they_were = logits[spared]
        # Where an index comes twice, numpy keeps what is assigned last: the longest match.
        logits[following] = logits[following] - self._penalties[matched]
        logits[spared] = as_they_were

    def _is_breaker(self, token: int) -> bool:
        known = self._breaks.get(token)
        if known is None:
            piece = self._piece(token)
            known = self._breaks[token] = any(text in piece for text in self._breakers)
        return known

    def _make_room(self) -> None:
        if self._length == len(self._said):
            spare = np.zeros_like(self._said)
            self._said = np.concatenate((self._said, spare))
            self._matched = np.concatenate((self._matched, spare))


def _penalties(dry: Dry) -> Logits:
    """What is taken off for a match of each length, if it is long enough."""
    over = np.maximum(np.arange(LONGEST_MATCH + 1.0) - dry.allowed_length, 0)
    with np.errstate(over="ignore"):
        powers: Weights = np.power(float(dry.base), over)
    return np.minimum(dry.multiplier * powers, _HIGHEST_PENALTY).astype(np.float32)
