"""A vocabulary as a table: what becomes of token ids where there is no native code."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class TokenTable:
    """Every token of a vocabulary, by id.

    ``pieces`` are the bytes by `Vocabulary.piece` with ``special``; tokens in ``unseen``
    leave none in an answer; those in ``ends`` end the turn.
    """

    pieces: list[bytes]
    unseen: frozenset[int]
    ends: tuple[int, ...]

    def spelled(self, text: str) -> int | None:
        """The token that is spelled exactly so; None: there is none."""
        return self._by_piece.get(text.encode())

    @cached_property
    def _by_piece(self) -> dict[bytes, int]:
        return {piece: token for token, piece in enumerate(self.pieces)}
