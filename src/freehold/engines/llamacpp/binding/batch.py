"""What one call of llama_decode is given."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import llama_cpp.llama_cpp as native
import numpy as np
import numpy.typing as npt

from freehold.engines.llamacpp.tokens import TokenArray

# Tokens per llama_decode call and per micro-batch: llama.cpp's own default for the latter.
BATCH_TOKENS = 512


@dataclass(frozen=True, eq=False)
class Entry:
    """Consecutive tokens of one sequence, from position ``start``.

    The last ``outputs`` of them want logits.
    """

    stream: int
    start: int
    tokens: TokenArray
    outputs: int


class Batch:
    """A `llama_batch` over arrays of ours: filled without a Python loop over tokens."""

    def __init__(self, capacity: int) -> None:
        self._token = np.zeros(capacity, dtype=np.int32)
        self._pos = np.zeros(capacity, dtype=np.int32)
        self._streams = np.zeros(capacity, dtype=np.int32)
        self._logits = np.zeros(capacity, dtype=np.int8)
        # llama.cpp wants a list of sequence ids per token: ours have one id each.
        self._counts = np.ones(capacity, dtype=np.int32)
        addresses = self._streams.ctypes.data + self._streams.itemsize * np.arange(capacity)
        self._lists = addresses.astype(np.uintp)
        self.native = native.llama_batch(
            n_tokens=0,
            token=pointer(self._token, ctypes.c_int32),
            embd=None,
            pos=pointer(self._pos, ctypes.c_int32),
            n_seq_id=pointer(self._counts, ctypes.c_int32),
            seq_id=pointer(self._lists, ctypes.POINTER(ctypes.c_int32)),
            logits=pointer(self._logits, ctypes.c_int8),
        )

    def fill(self, entries: Sequence[Entry]) -> list[int]:
        """Returns the places of the tokens whose logits are wanted."""
        rows: list[int] = []
        count = 0
        for entry in entries:
            end = count + len(entry.tokens)
            self._token[count:end] = entry.tokens
            self._pos[count:end] = np.arange(entry.start, entry.start + len(entry.tokens))
            self._streams[count:end] = entry.stream
            self._logits[count:end] = 0
            self._logits[end - entry.outputs : end] = 1
            rows.extend(range(end - entry.outputs, end))
            count = end
        self.native.n_tokens = count
        return rows


def pointer(array: npt.NDArray[Any], kind: Any) -> Any:
    return array.ctypes.data_as(ctypes.POINTER(kind))
