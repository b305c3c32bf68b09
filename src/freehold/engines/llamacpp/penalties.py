"""Penalties on tokens for having been said: repetition, presence and frequency.

What was said is counted as it comes, so that a penalty costs as much as there are
different tokens in its window, whatever the length of the conversation.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np

from freehold.engines.llamacpp.ranking import Logits, Tokens

_SMALLEST_CAPACITY = 64


class Counts:
    """How often each token occurs among the latest ``window`` that were added (None: all)."""

    def __init__(self, said: Sequence[int], window: int | None) -> None:
        self._window = window
        latest = said if window is None else said[max(0, len(said) - window) :]
        self._latest = deque(latest if window is not None else ())
        tokens, counts = np.unique(np.asarray(latest, dtype=np.intp), return_counts=True)
        self._used = len(tokens)
        self._places = {int(token): place for place, token in enumerate(tokens)}
        spare = max(_SMALLEST_CAPACITY, self._used)
        self._tokens: Tokens = np.concatenate((tokens, np.zeros(spare, dtype=np.intp)))
        self._counts: Logits = np.concatenate((counts, np.zeros(spare))).astype(np.float32)

    @property
    def tokens(self) -> Tokens:
        """Each token that occurs, once, in no order."""
        return self._tokens[: self._used]

    @property
    def counts(self) -> Logits:
        """How often each of ``tokens`` occurs."""
        return self._counts[: self._used]

    def add(self, token: int) -> None:
        if self._window is not None:
            self._latest.append(token)
        self._count(token)
        if self._window is not None and len(self._latest) > self._window:
            self._forget(self._latest.popleft())

    def _count(self, token: int) -> None:
        place = self._places.get(token)
        if place is None:
            place = self._places[token] = self._used
            self._make_room()
            self._tokens[place], self._counts[place] = token, 0
            self._used += 1
        self._counts[place] += 1

    def _forget(self, token: int) -> None:
        """One occurrence less; the last token of the arrays fills the gap of one that is gone."""
        place = self._places[token]
        self._counts[place] -= 1
        if self._counts[place] > 0:
            return
        self._used -= 1
        moved = int(self._tokens[self._used])
        self._tokens[place], self._counts[place] = moved, self._counts[self._used]
        self._places[moved] = place
        del self._places[token]

    def _make_room(self) -> None:
        if self._used == len(self._tokens):
            self._tokens = np.concatenate((self._tokens, np.zeros_like(self._tokens)))
            self._counts = np.concatenate((self._counts, np.zeros_like(self._counts)))


class RepetitionPenalty:
    """Divides the positive and multiplies the negative logits of what prompt and answer say."""

    def __init__(self, penalty: float, said: Counts) -> None:
        if not penalty > 0:
            raise ValueError(f"repetition_penalty must be above 0, not {penalty}")
        self._factor = np.float32(penalty)
        self._said = said

    def apply(self, logits: Logits) -> None:
        tokens = self._said.tokens
        chosen = logits[tokens]
        logits[tokens] = np.where(chosen > 0, chosen / self._factor, chosen * self._factor)

    def accept(self, token: int) -> None:
        self._said.add(token)


class PresencePenalty:
    """Takes ``presence`` once and ``frequency`` for each occurrence off the answer's tokens."""

    def __init__(self, presence: float, frequency: float, said: Counts) -> None:
        self._presence, self._frequency = np.float32(presence), np.float32(frequency)
        self._said = said

    def apply(self, logits: Logits) -> None:
        logits[self._said.tokens] -= self._presence + self._frequency * self._said.counts

    def accept(self, token: int) -> None:
        self._said.add(token)
