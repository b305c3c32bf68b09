"""Constraints compiled for a vocabulary, and where answers are in them."""

from __future__ import annotations

import threading
from typing import Final

import numpy as np

from freehold.domain.errors import InvalidRequest
from freehold.domain.sampling import Constraint
from freehold.text.constraint.follower import Follower
from freehold.text.constraint.free_part import FreePart
from freehold.text.constraint.refusals import FIELD
from freehold.text.constraint.source import require_bounded, source_of
from freehold.text.constraint.tokens import Mask, Tokens
from freehold.text.vocabulary import Vocabulary

MAX_MARKER_CHARACTERS: Final = 64


class ConstraintCompiler:
    """Compiles constraints for one vocabulary. Thread-safe: used from a compile thread.

    Keep the vocabulary's model alive as long as this object and its matchers.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._making = threading.Lock()
        self._tokens: Tokens | None = None

    def prepare(self) -> None:
        """Do what is done once per vocabulary, about a second for 150,000 tokens.

        `compile` does it where it has not been done. Raises `InvalidRequest`.
        """
        with self._making:
            if self._tokens is None:
                self._tokens = Tokens(self._vocabulary)

    def compile(self, constraint: Constraint) -> Matcher:
        """Raises `InvalidRequest` with the reason."""
        require_bounded(constraint)
        marker = _marker(constraint)
        self.prepare()
        assert self._tokens is not None
        source = source_of(constraint, self._tokens.control)
        follower = Follower(self._tokens, constraint.grammar, source)
        if marker is None:
            return Matcher(follower)
        begin = self._tokens.vocabulary.token_of(constraint.begin) if constraint.begin else None
        return Matcher(follower, FreePart(self._tokens, marker, follower), begin)


class Matcher:
    """Where one answer is in its grammar. Used by one thread at a time.

    With `Constraint.after` the answer begins with a free part, in which everything is allowed
    but two things. The turn may not end: who asked for a grammar gets it or an answer
    cut off for length. And a token that writes the end of the marker and more is
    allowed only if what is more begins the grammar, or would without the whitespace in
    front of it, which then counts for nothing.

    With ``begin`` the first token decides: the free part comes only if it is that one.
    """

    def __init__(
        self, follower: Follower, free: FreePart | None = None, begin: int | None = None
    ) -> None:
        self._follower = follower
        self._free = free
        self._begin = begin

    def mask(self) -> Mask:
        """Bit i of the words says whether token i may come next; valid until the next call.

        Tokens that end the turn are allowed exactly where the grammar may end. Text that
        must come next is allowed in the model's own tokens only, not spelled in others.
        Raises `InvalidRequest` when the grammar has become too complex to follow.
        """
        if self._free is None:
            return self._follower.mask()
        if self._begin is None:
            return self._free.mask()
        mask = self._follower.mask().copy()
        mask[self._begin // 32] |= np.uint32(1 << self._begin % 32)
        return mask

    def accept(self, token: int) -> None:
        """Go on by one token.

        Raises `ValueError` if it does not fit, `InvalidRequest` like `mask`.
        """
        if self._begin not in (None, token):
            self._free = None
        self._begin = None
        if self._free is None:
            self._follower.accept(token)
            return
        more = self._free.accept(token)
        if more is not None:
            self._free = None
            self._follower.begin(more)

    @property
    def finished(self) -> bool:
        """The grammar is complete and nothing may follow: the answer ends."""
        return self._free is None and self._follower.finished

    def rehearse(self) -> None:
        """Walk a little way into the grammar at random; the matcher is used up by it.

        Some limits are only met on the way: better here than in an answer half written.
        Raises `InvalidRequest`.
        """
        self._follower.rehearse()


def _marker(constraint: Constraint) -> bytes | None:
    marker = constraint.after
    if marker is None:
        return None
    if not 0 < len(marker) <= MAX_MARKER_CHARACTERS:
        raise InvalidRequest(
            f"The text after which a grammar applies has {len(marker)} characters; "
            f"1 to {MAX_MARKER_CHARACTERS} are accepted.",
            field=FIELD,
        )
    return marker.encode("utf-8", "replace")
