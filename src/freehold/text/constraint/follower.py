"""One answer inside its grammar."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Final

import numpy as np
from llguidance import LLMatcher, LLParserLimits

from freehold.domain.errors import InvalidRequest
from freehold.domain.sampling import Grammar
from freehold.text.constraint.refusals import FIELD, SUBJECTS, reason_of, refused
from freehold.text.constraint.tokens import Mask, Tokens

# Fuel and items bound the time of one step, states the memory of one matcher (1 to 2 kB each).
# Other than these, the defaults: they fit schemas of a megabyte.
LIMITS: Final = LLParserLimits(
    step_max_items=20_000,
    max_lexer_states=50_000,
    max_grammar_size=200_000,
    verbose_errors=False,
)
# Ambiguous grammars slow down as the answer grows, past every limit above. Processor time, so
# that a busy machine ends no answer.
SLOW_STEP_SECONDS: Final = 0.02
SLOW_SECONDS: Final = 0.5
REHEARSAL_TOKENS: Final = 24


class Follower:
    """llguidance's matcher: it raises where that one only takes note."""

    def __init__(self, tokens: Tokens, grammar: Grammar, source: str) -> None:
        self._tokens = tokens
        self._subject = SUBJECTS[grammar]
        self._matcher = LLMatcher(tokens.native, source, log_level=0, limits=LIMITS)
        self._words = np.zeros(-(-tokens.size // 32), dtype=np.uint32)
        self._current = False
        self._slow = 0.0
        if self._matcher.is_error():
            raise refused(grammar, self._matcher.get_error())
        for warning in self._matcher.get_grammar_warnings():  # something would be ignored
            raise refused(grammar, warning)
        self.mask()

    @property
    def finished(self) -> bool:
        return self._matcher.is_stopped() and not self._matcher.is_error()

    def mask(self) -> Mask:
        if not self._current:
            started = time.thread_time()
            self._matcher.unsafe_compute_mask_ptr(self._words.ctypes.data, self._words.nbytes)
            self._watch(started)
            self._current = True
        return self._words

    def accept(self, token: int) -> None:
        if self.finished and token in self._tokens.ends:
            return
        self._current = False
        started = time.thread_time()
        taken = self._matcher.try_consume_tokens([token])
        self._watch(started)
        if not taken:
            raise ValueError(f"token {token} does not fit the grammar here")

    def begin(self, text: bytes) -> None:
        """Begin with ``text``, or with what follows the whitespace in front of it."""
        for spelled in self._beginnings(text):
            if self._fits(spelled):
                self._current = False
                self._matcher.consume_tokens(spelled)
                self._check()
                return
        raise ValueError("the token that ends the free part does not fit the grammar")

    def begins(self, text: bytes) -> bool:
        """Whether `begin` would be right."""
        return any(self._fits(spelled) for spelled in self._beginnings(text))

    def rehearse(self) -> None:
        chooser = np.random.default_rng(0)
        for _ in range(REHEARSAL_TOKENS):
            bits = np.unpackbits(self.mask().view(np.uint8), bitorder="little")
            token = int(chooser.choice(np.flatnonzero(bits)))
            if token in self._tokens.ends:
                return
            self.accept(token)

    def _beginnings(self, text: bytes) -> Iterable[list[int]]:
        """``text`` with and without its leading whitespace, in tokens of one byte.

        How text is cut into tokens makes no difference to a grammar of bytes.
        """
        for variant in dict.fromkeys((text, text.lstrip())):
            if all(byte in self._tokens.bytes for byte in variant):
                yield [self._tokens.bytes[byte] for byte in variant]

    def _fits(self, spelled: list[int]) -> bool:
        return self._matcher.validate_tokens(spelled) == len(spelled)

    def _watch(self, started: float) -> None:
        self._check()
        spent = time.thread_time() - started
        if spent > SLOW_STEP_SECONDS:
            self._slow += spent
            if self._slow > SLOW_SECONDS:
                raise self._too_complex("it takes too long")

    def _check(self) -> None:
        # After an error llguidance's mask allows the end of the turn, and nothing else.
        if self._matcher.is_error():
            error = self._matcher.get_error()
            if error.startswith("NoExtensionBias"):
                raise InvalidRequest(
                    f"{self._subject} allows no way to go on: no text fits it.", field=FIELD
                )
            raise self._too_complex(reason_of(error))

    def _too_complex(self, reason: str) -> InvalidRequest:
        return InvalidRequest(f"{self._subject} is too complex to follow: {reason}.", field=FIELD)
