"""The wire between the gateway and the text child.

gateway                                  child
   │  ── Render / Tokenize ──────────────▶ │   one at a time, answered in order
   │  ◀───────────── Rendered / Failed ──  │
   │  ── Detokenize ─────────────────────▶ │
   │  ◀────────── Detokenized / Failed ──  │
   │  ── ReadTable ──────────────────────▶ │
   │  ◀──────────── TableRead / Failed ──  │
   │  ── CheckConstraint ────────────────▶ │
   │  ◀─── ConstraintAccepted / Failed ──  │
"""

from __future__ import annotations

from freehold.domain.chat import Conversation
from freehold.domain.sampling import Constraint
from freehold.process.frames import PROTOCOL_VERSION, Message

# The largest schema, expression or grammar that is looked at.
MAX_CONSTRAINT_BYTES = 256 * 1024


class Ready(Message, frozen=True):
    """The child's first word."""

    version: int = PROTOCOL_VERSION


class VocabularySource(Message, frozen=True):
    """Whose vocabulary: the model's files in order, cached in the child under ``digest``."""

    digest: str
    paths: tuple[str, ...]
    template: str


class Render(Message, frozen=True):
    """A conversation to a prompt by the model's template, and to token ids."""

    source: VocabularySource
    conversation: Conversation


class Tokenize(Message, frozen=True):
    """Plain text to token ids, without a template.

    ``special``: spellings of control tokens are those tokens. ``beginning``: with the token
    that the model wants first, ``ending``: with those that it wants last. ``suffix``: the prompt
    for what is missing between the two.
    """

    source: VocabularySource
    text: str
    special: bool = False
    beginning: bool = True
    ending: bool = False
    suffix: str | None = None


class Detokenize(Message, frozen=True):
    """Token ids to the bytes that each stands for. Control tokens are spelled: all of them, or
    those ``shown`` alone, as an answer is.
    """

    source: VocabularySource
    tokens: tuple[int, ...]
    shown: tuple[int, ...] | None = None


class ReadTable(Message, frozen=True):
    """The whole vocabulary."""

    source: VocabularySource


class TableRead(Message, frozen=True):
    """As `TokenTable` has it."""

    pieces: list[bytes]
    unseen: list[int]
    ends: tuple[int, ...]


class CheckConstraint(Message, frozen=True):
    """Whether a constraint can be compiled for this vocabulary, and within the limits."""

    source: VocabularySource
    constraint: Constraint


class ConstraintAccepted(Message, frozen=True):
    """It can."""


class Rendered(Message, frozen=True):
    """``prompt`` is the exact text; ``tokens`` exactly what the model sees.

    ``shown`` are control tokens with which this model writes what belongs to its answer: its
    reasoning and its tool calls. ``reasoning_end`` is the one that ends reasoning, if it is one.
    """

    prompt: str
    tokens: list[int]
    shown: tuple[int, ...] = ()
    reasoning_end: int | None = None


class Detokenized(Message, frozen=True):
    pieces: list[bytes]


class Failed(Message, frozen=True):
    """``code`` is that of an error class in `domain.errors`; ``field`` is for `InvalidRequest`."""

    code: str
    message: str
    hint: str | None
    field: str | None = None


FromGateway = Render | Tokenize | Detokenize | ReadTable | CheckConstraint
FromChild = Ready | Rendered | Detokenized | TableRead | ConstraintAccepted | Failed
