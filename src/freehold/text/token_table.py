"""A vocabulary as a table: what becomes of token ids where there is no native code."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TokenTable:
    """Every token of a vocabulary, by id.

    ``pieces`` are the bytes by `Vocabulary.piece` with ``special``; tokens in ``unseen``
    leave none in an answer; those in ``ends`` end the turn.
    """

    pieces: list[bytes]
    unseen: frozenset[int]
    ends: tuple[int, ...]
