"""Answers that fit a grammar: which tokens may come next.

llguidance compiles JSON schemas, regular expressions and Lark grammars and follows
them byte by byte; this module gives it a vocabulary, limits and a beginning
(`Constraint.after`), and words its refusals. Only ever loaded inside children: the
texts are strangers', and the text child tries them under limits of time and memory first,
because some make the compiler take what memory there is.

What a JSON schema leaves open: properties come in the schema's order, keywords JSON
Schema does not know are annotations, and between the parts of a document there may be
one space, or one or two line breaks and an indentation. Unbounded whitespace, llguidance's
default, is where small models get stuck.
"""

from __future__ import annotations

import bisect
import itertools
import json
import re
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt
from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from freehold.domain.errors import InvalidRequest
from freehold.domain.sampling import Constraint, Grammar
from freehold.text.messages import MAX_CONSTRAINT_BYTES
from freehold.text.tools.grammar import WHITESPACE, for_vocabulary
from freehold.text.vocabulary import Vocabulary

Mask = npt.NDArray[np.uint32]

FIELD: Final = "response_format"
MAX_MARKER_CHARACTERS: Final = 64
MAX_REASON_CHARACTERS: Final = 200

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

_SPECIAL: Final = b"\xff"  # llguidance's sign for a token that is no text; never part of UTF-8
_SUBJECTS: Final[Mapping[Grammar, str]] = {
    Grammar.JSON_SCHEMA: "The JSON schema",
    Grammar.REGEX: "The regular expression",
    Grammar.LARK: "The Lark grammar",
}


class ConstraintCompiler:
    """Compiles constraints for one vocabulary. Thread-safe: used from a compile thread.

    Keep the vocabulary's model alive as long as this object and its matchers.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._making = threading.Lock()
        self._tokens: _Tokens | None = None

    def prepare(self) -> None:
        """Do what is done once per vocabulary, about a second for 150,000 tokens.

        `compile` does it where it has not been done. Raises `InvalidRequest`.
        """
        with self._making:
            if self._tokens is None:
                self._tokens = _Tokens(self._vocabulary)

    def compile(self, constraint: Constraint) -> Matcher:
        """Raises `InvalidRequest` with the reason."""
        text = _bounded_text(constraint)
        marker = _marker(constraint)
        self.prepare()
        assert self._tokens is not None
        source = _source(constraint.grammar, text, self._tokens.control)
        follower = _Follower(self._tokens, constraint.grammar, source)
        if marker is None:
            return Matcher(follower)
        begin = self._tokens.vocabulary.token_of(constraint.begin) if constraint.begin else None
        return Matcher(follower, _FreePart(self._tokens, marker, follower), begin)


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
        self, follower: _Follower, free: _FreePart | None = None, begin: int | None = None
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


class _Tokens:
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
                f"Answers of this model cannot be constrained: {_reason(str(error))}.", field=FIELD
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


class _Follower:
    """llguidance's matcher: it raises where that one only takes note."""

    def __init__(self, tokens: _Tokens, grammar: Grammar, source: str) -> None:
        self._tokens = tokens
        self._subject = _SUBJECTS[grammar]
        self._matcher = LLMatcher(tokens.native, source, log_level=0, limits=LIMITS)
        self._words = np.zeros(-(-tokens.size // 32), dtype=np.uint32)
        self._current = False
        self._slow = 0.0
        if self._matcher.is_error():
            raise _refused(grammar, self._matcher.get_error())
        for warning in self._matcher.get_grammar_warnings():  # something would be ignored
            raise _refused(grammar, warning)
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
            raise self._too_complex(_reason(error))

    def _too_complex(self, reason: str) -> InvalidRequest:
        return InvalidRequest(f"{self._subject} is too complex to follow: {reason}.", field=FIELD)


@dataclass(frozen=True)
class _Turn:
    """What tokens that complete the marker do to a mask, given how much of it is written."""

    fitting: Mask
    refused: Mask


class _FreePart:
    """An answer up to its marker."""

    def __init__(self, tokens: _Tokens, marker: bytes, follower: _Follower) -> None:
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

    def _turn(self, written: int, follower: _Follower) -> _Turn:
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


def _special(piece: bytes) -> bytes:
    return _SPECIAL + piece if piece else b""


def _ordinary(piece: bytes) -> bytes:
    """A token llguidance has no bytes for is never allowed."""
    return b"" if _SPECIAL in piece else piece


def _bounded_text(constraint: Constraint) -> str:
    try:
        size = len(constraint.text.encode())
    except UnicodeEncodeError:
        raise _refused(constraint.grammar, "it has half a character in it") from None
    if size > MAX_CONSTRAINT_BYTES:
        raise _refused(
            constraint.grammar, f"it has {size} bytes; at most {MAX_CONSTRAINT_BYTES} are accepted"
        )
    return constraint.text


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


def _source(grammar: Grammar, text: str, control: Callable[[str], int | None]) -> str:
    """The constraint in llguidance's own form."""
    match grammar:
        case Grammar.JSON_SCHEMA:
            return _schema(text)
        case Grammar.REGEX:
            return LLMatcher.grammar_from_regex(text)
        case Grammar.LARK:
            # As it is, a text that begins with a brace would be taken for that form.
            lark = for_vocabulary(text, control)
            return json.dumps({"grammars": [{"lark_grammar": lark}]})


def _schema(text: str) -> str:
    try:
        schema = json.loads(text)
    except json.JSONDecodeError as error:
        reason = f"it is not JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        raise _refused(Grammar.JSON_SCHEMA, reason) from None
    except RecursionError:
        raise _refused(Grammar.JSON_SCHEMA, "it is nested too deeply") from None
    except ValueError as error:  # a number of 5,000 digits
        raise _refused(Grammar.JSON_SCHEMA, str(error)) from None
    if schema is False:
        raise _refused(Grammar.JSON_SCHEMA, "`false` allows no answer")
    if schema is True:
        text = "{}"
    elif not isinstance(schema, dict):
        raise _refused(Grammar.JSON_SCHEMA, "it must be an object, `true` or `false`")
    elif "x-guidance" in schema:  # options that could switch checks off
        raise _refused(Grammar.JSON_SCHEMA, 'Unimplemented keys: ["x-guidance"]')
    try:
        return LLMatcher.grammar_from_json_schema(
            text, overrides={"whitespace_pattern": WHITESPACE, "lenient": False}
        )
    except ValueError as error:
        raise _refused(Grammar.JSON_SCHEMA, str(error)) from None


def _refused(grammar: Grammar, error: str) -> InvalidRequest:
    reason = _reason(error, places=grammar is Grammar.LARK)
    return InvalidRequest(f"{_SUBJECTS[grammar]} cannot be used: {reason}.", field=FIELD)


def _reason(error: str, *, places: bool = False) -> str:
    """llguidance's message in one clause: without excerpts, backtraces and the parser's state.

    ``places`` keeps line and column, which mean something only where the text was a grammar.
    """
    error = error.split("\n<", maxsplit=1)[0].strip()
    if keys := re.fullmatch(r"Unimplemented keys: \[(.*)\]", error, re.DOTALL):
        return _cut(f"unsupported keywords: {keys[1]}")
    if error.startswith("oneOf constraints"):
        return "oneOf is supported only where its alternatives exclude each other; use anyOf"
    if error.startswith("panic: "):
        return "it is more than the compiler can do"
    place = ""
    if located := re.match(r"(?:at )?(\d+)\((\d+)\): ", error):
        place = f"line {located[1]}, column {located[2]}: " if places else ""
        error = re.split(r"\n *\d+ \| ", error[located.end() :])[0]
    error = re.sub(r'^invalid regex ".*" \(in \w+\): ', "", error, flags=re.DOTALL)
    if syntax := re.search(r"^error: (.*)$", error, re.MULTILINE):
        error = syntax[1]
    return _cut(place + " ".join(error.split()).rstrip("."))


def _cut(reason: str) -> str:
    if len(reason) <= MAX_REASON_CHARACTERS:
        return reason
    return reason[: MAX_REASON_CHARACTERS - 1] + "…"
