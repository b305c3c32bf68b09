"""A sequence of token ids that grows, and how much of it another one shares. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

TokenArray = npt.NDArray[np.int32]


class TokenLog:
    """Token ids in one array that grows; reading and comparing never copies."""

    def __init__(self, tokens: Sequence[int] | TokenArray) -> None:
        self._length = len(tokens)
        self._store = np.empty(max(64, 2 * self._length), dtype=np.int32)
        self._store[: self._length] = tokens

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> int:
        return int(self.array[index])

    @property
    def array(self) -> TokenArray:
        """All of it, as a view that is valid until the next change."""
        return self._store[: self._length]

    def append(self, token: int) -> None:
        if self._length == len(self._store):
            self._store = np.concatenate((self._store, np.empty_like(self._store)))
        self._store[self._length] = token
        self._length += 1


def common_prefix(left: TokenArray, right: TokenArray) -> int:
    """How many tokens both begin with."""
    length = min(len(left), len(right))
    different = left[:length] != right[:length]
    first = int(different.argmax()) if length else 0
    return first if length and different[first] else length
