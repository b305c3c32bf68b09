"""An answer before its grammar: everything is allowed, up to a marker."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from freehold.text.constraint.follower import Follower
from freehold.text.constraint.tokens import Mask, Tokens


@dataclass(frozen=True)
class _Turn:
    """What tokens that complete the marker do to a mask, given how much of it is written."""

    fitting: Mask
    refused: Mask


class FreePart:
    """An answer up to its marker."""

    def __init__(self, tokens: Tokens, marker: bytes, follower: Follower) -> None:
        self._tokens = tokens
        self._marker = marker
        self._tail = b""  # the latest bytes, as many as may be the marker's beginning
        self._turns = [self._turn(written, follower) for written in range(len(marker))]
        self._anything = tokens.all_but_ends & ~self._turns[0].refused
        self._anything.flags.writeable = False

    def mask(self) -> Mask:
        begun = [n for n in range(1, len(self._marker)) if self._tail.endswith(self._marker[:n])]
        if not begun:
            return self._anything
        mask = self._anything.copy()
        for written in begun:  # the longest has the last word: its marker is complete first
            mask = (mask | self._turns[written].fitting) & ~self._turns[written].refused
        return mask

    def accept(self, token: int) -> bytes | None:
        """What the token wrote after the marker; None if the marker is yet to come."""
        if token in self._tokens.ends:
            raise ValueError(f"token {token} would end the turn before {self._marker!r}")
        text = self._tail + self._tokens.pieces[token]
        at = text.find(self._marker)
        if at >= 0:
            return text[at + len(self._marker) :]
        self._tail = text[max(0, len(text) - len(self._marker) + 1) :]
        return None

    def _turn(self, written: int, follower: Follower) -> _Turn:
        fitting: list[int] = []
        refused: list[int] = []
        for more, tokens in self._completions(written).items():
            (fitting if follower.begins(more) else refused).extend(tokens)
        return _Turn(self._tokens.words(fitting), self._tokens.words(refused))

    def _completions(self, written: int) -> Mapping[bytes, list[int]]:
        """The tokens that complete the marker, by what they write after it."""
        marker, pieces = self._marker, self._tokens.pieces
        found: defaultdict[bytes, list[int]] = defaultdict(list)
        if written:
            for token in self._tokens.beginning_with(marker[written:]):
                found[pieces[token][len(marker) - written :]].append(token)
        else:
            for token in self._tokens.containing(marker):
                at = pieces[token].index(marker)
                found[pieces[token][at + len(marker) :]].append(token)
        return {
            more: [token for token in tokens if token not in self._tokens.ends]
            for more, tokens in found.items()
        }
