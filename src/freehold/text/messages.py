"""The wire between the gateway and the text child.

gateway                                  child
   │  ── Render / Tokenize ──────────────▶ │   one at a time, answered in order
   │  ◀───────────── Rendered / Failed ──  │
   │  ── CheckConstraint ────────────────▶ │
   │  ◀─── ConstraintAccepted / Failed ──  │
"""

from __future__ import annotations

from freehold.domain.chat import Message as ChatMessage
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
    """Messages to a prompt by the model's template, and to token ids."""

    source: VocabularySource
    messages: tuple[ChatMessage, ...]


class Tokenize(Message, frozen=True):
    """Plain text to token ids, with the model's beginning token and no template."""

    source: VocabularySource
    text: str


class CheckConstraint(Message, frozen=True):
    """Whether a constraint can be compiled for this vocabulary, and within the limits."""

    source: VocabularySource
    constraint: Constraint


class ConstraintAccepted(Message, frozen=True):
    """It can."""


class Rendered(Message, frozen=True):
    """``prompt`` is the exact text; ``tokens`` exactly what the model sees."""

    prompt: str
    tokens: list[int]


class Failed(Message, frozen=True):
    """``code`` is that of an error class in `domain.errors`; ``field`` is for `InvalidRequest`."""

    code: str
    message: str
    hint: str | None
    field: str | None = None


FromGateway = Render | Tokenize | CheckConstraint
FromChild = Ready | Rendered | ConstraintAccepted | Failed
