"""What is kept of conversations: their settings, their messages, and the figures of answers."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import msgspec

from freehold.domain.error_values import Values
from freehold.domain.errors import NotFound

_TITLE_CHARACTERS = 80


class ConversationNotFound(NotFound):
    """No conversation, or no message in it, by this id."""

    code = "conversation_not_found"

    def __init__(self, identity: str) -> None:
        super().__init__(
            f"There is no conversation or message {identity!r} here.",
            hint="It was deleted, or belongs to another key.",
            values={"id": identity},
        )


class Wishes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How one conversation is sampled; None: the server's default."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    max_tokens: int | None = None
    reasoning_effort: str | None = None
    reasoning_budget: int | None = None


class AttachedFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A text file that goes before its message."""

    name: str
    text: str


class Figures(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Measured on one answer. Times are seconds after the request, or of decoding alone;
    ``reasoning_seconds`` until the answer proper began.
    """

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    reasoning_tokens: int
    context: int
    first_token: float | None
    reasoning_seconds: float | None
    decode: float
    finish_reason: str


class KeptMessage(msgspec.Struct, frozen=True):
    """``status``: ``done``, ``running``, ``stopped`` (on demand), ``failed`` (``error`` says why,
    and ``error_code`` with ``error_values`` for programs), or ``interrupted`` (the server ended
    first). ``tokens`` of an answer, as `pack` has them; none of one that the model ended, or of
    another server's.
    """

    id: str
    parent: str | None
    role: str
    content: str
    created: float
    reasoning: str = ""
    files: tuple[AttachedFile, ...] = ()
    model: str | None = None
    status: str = "done"
    error: str | None = None
    error_code: str | None = None
    error_values: Values | None = None
    figures: Figures | None = None
    tokens: bytes = b""

    @property
    def resumable(self) -> bool:
        """Whether it was cut, and there is room to go on with it."""
        if self.status == "running" or not self.tokens:
            return False
        if self.figures is None:
            return True
        used = self.figures.prompt_tokens + self.figures.completion_tokens
        return self.figures.finish_reason != "stop" and not 0 < self.figures.context <= used


class Heading(msgspec.Struct, frozen=True):
    """A conversation without its messages. ``leaf`` is the last message of the branch shown."""

    id: str
    title: str
    model: str | None
    system: str
    wishes: Wishes
    leaf: str | None
    created: float
    updated: float


def pack(tokens: Sequence[int]) -> bytes:
    """Four bytes each, the lowest first."""
    return struct.pack(f"<{len(tokens)}i", *tokens)


def unpack(packed: bytes) -> tuple[int, ...]:
    return struct.unpack(f"<{len(packed) // 4}i", packed)


def title_of(message: KeptMessage) -> str:
    """The beginning of what was asked, or the name of the file it came with."""
    first = next((line.strip() for line in message.content.splitlines() if line.strip()), "")
    if not first and message.files:
        first = message.files[0].name
    return first if len(first) <= _TITLE_CHARACTERS else first[: _TITLE_CHARACTERS - 1] + "…"
