"""A vocabulary as llguidance wants it."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterable
from functools import cached_property, lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt
from llguidance import LLTokenizer

from freehold.domain.errors import InvalidRequest
from freehold.text.constraint.refusals import FIELD, reason_of
from freehold.text.vocabulary import Vocabulary

Mask = npt.NDArray[np.uint32]

_SPECIAL: Final = b"\xff"  # llguidance's sign for a token that is no text; never part of UTF-8


class Tokens:
    """The vocabulary as llguidance wants it, and what else is needed of it."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        table = vocabulary.table()
        self.vocabulary = vocabulary  # the native tokeniser reads it
        self.size = vocabulary.size
        self.pieces = table.pieces
        self.unseen = table.unseen
        # Models have one marker or two.
        self.containing = lru_cache(maxsize=8)(self._containing)
        self.ends = frozenset(table.ends)
        # A grammar describes what an answer shows: tokens that show nothing, or end it, match
        # no text.
        special = table.unseen | self.ends
        spelled = [
            _special(piece) if token in special else _ordinary(piece)
            for token, piece in enumerate(table.pieces)
        ]
        self.bytes = {
            piece[0]: token
            for token, piece in enumerate(table.pieces)
            if len(piece) == 1 and token not in special
        }
        where, tokenize = vocabulary.native_tokenizer()
        try:
            self.native: LLTokenizer = LLTokenizer.from_llamacpp(  # type: ignore[attr-defined]
                tokens=spelled, vocab_ptr=where, tokenize_fptr=tokenize, eos_token=list(table.ends)
            )
        except ValueError as error:
            raise InvalidRequest(
                f"Answers of this model cannot be constrained: {reason_of(str(error))}.",
                field=FIELD,
            ) from error

    def control(self, spelling: str) -> int | None:
        """The control token that is spelled so, if there is one: grammars of tool calls name it."""
        token = self.vocabulary.token_of(spelling)
        return token if token in self.unseen else None

    def words(self, tokens: Iterable[int]) -> Mask:
        """A mask with the bits of these tokens."""
        bits = np.zeros(-(-self.size // 32) * 32, dtype=np.uint8)
        bits[list(tokens)] = 1
        return np.packbits(bits, bitorder="little").view("<u4").astype(np.uint32)

    @cached_property
    def all_but_ends(self) -> Mask:
        return self.words(range(self.size)) & ~self.words(self.ends)

    def _containing(self, part: bytes) -> list[int]:
        return [token for token, piece in enumerate(self.pieces) if part in piece]

    def beginning_with(self, start: bytes) -> Iterable[int]:
        at = bisect.bisect_left(self._sorted, (start, -1))
        for piece, token in itertools.islice(self._sorted, at, None):
            if not piece.startswith(start):
                return
            yield token

    @cached_property
    def _sorted(self) -> list[tuple[bytes, int]]:
        return sorted((piece, token) for token, piece in enumerate(self.pieces))


def _special(piece: bytes) -> bytes:
    return _SPECIAL + piece if piece else b""


def _ordinary(piece: bytes) -> bytes:
    """A token llguidance has no bytes for is never allowed."""
    return b"" if _SPECIAL in piece else piece
