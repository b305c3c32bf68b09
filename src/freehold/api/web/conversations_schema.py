"""Conversations kept on this machine, as programs see them. Errors are in OpenAI's shape."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from freehold.api.bounds import ErrorValues, writable

MAX_FILES = 32
MAX_TOKENS = 16 * 1024 * 1024


class _Asked(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


Identity = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
_Writable = AfterValidator(writable)
_Title = Annotated[str, Field(max_length=200), _Writable]
_Text = Annotated[str, Field(max_length=4 * 1024 * 1024), _Writable]
_Model = Annotated[str, Field(min_length=1, max_length=1024), _Writable]
_Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


def _share(low: float, high: float) -> Any:
    return Field(default=None, ge=low, le=high, allow_inf_nan=False)


class Wishes(_Asked):
    """How a conversation is sampled; null: the server's default."""

    temperature: float | None = _share(0, 2)
    top_p: float | None = Field(default=None, gt=0, le=1, allow_inf_nan=False)
    top_k: int | None = Field(default=None, ge=0, le=MAX_TOKENS)
    min_p: float | None = _share(0, 1)
    repetition_penalty: float | None = Field(default=None, gt=0, le=10, allow_inf_nan=False)
    seed: int | None = Field(default=None, ge=0, lt=2**63)
    max_tokens: int | None = Field(default=None, ge=1, le=MAX_TOKENS)
    reasoning_effort: _Effort | None = None
    reasoning_budget: int | None = Field(default=None, ge=0, le=MAX_TOKENS)


class NewConversation(_Asked):
    title: _Title = Field(default="", description="Empty: the beginning of the first message.")
    model: _Model | None = None
    system: _Text = ""
    wishes: Wishes = Wishes()


class ChangedConversation(_Asked):
    """What is left out stays as it is. ``leaf``: the last message of the branch that is shown."""

    title: _Title | None = None
    model: _Model | None = None
    system: _Text | None = None
    wishes: Wishes | None = None
    leaf: Identity | None = None


class AttachedFile(_Asked):
    name: Annotated[str, Field(min_length=1, max_length=255), _Writable]
    text: _Text


class NewMessage(_Asked):
    """A question. ``parent``: the message it follows; null begins the conversation (anew)."""

    parent: Identity | None
    content: _Text
    files: Annotated[list[AttachedFile], Field(max_length=MAX_FILES)] = []


class NewAnswer(_Asked):
    """``parent``: the question. The answer goes on when nobody watches."""

    parent: Identity
    model: _Model


class Figures(BaseModel):
    """Measured, as far as the answer came. Seconds: ``first_token`` and ``reasoning_seconds`` as
    the server waited for them, ``decode`` for writing all of it. ``finish_reason`` is ``stop``
    where the model ended it, ``length`` at the limit, else the message's status.
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


class Message(BaseModel):
    """``created`` is in seconds since 1970. ``error`` says why an answer has ``failed``, and
    ``error_code`` and ``error_values`` for programs; ``interrupted`` is one whose server ended.
    ``resumable``: it was cut, and can be gone on with.
    """

    id: str
    parent: str | None
    role: Literal["user", "assistant"]
    content: str
    reasoning: str
    files: list[AttachedFile]
    model: str | None
    status: Literal["done", "running", "stopped", "failed", "interrupted"]
    error: str | None
    error_code: str | None
    error_values: ErrorValues | None
    figures: Figures | None
    created: float
    resumable: bool


class Heading(BaseModel):
    id: str
    title: str
    model: str | None
    system: str
    wishes: Wishes
    leaf: str | None
    created: float
    updated: float


class Conversation(Heading):
    """``messages`` are a tree by their ``parent``, in the order they were made."""

    messages: list[Message]


class ConversationList(BaseModel):
    """The latest first. ``total``: how many there are, if not all are told. ``kept`` false: in
    memory alone, until the server ends.
    """

    data: list[Heading]
    total: int
    kept: bool


class Whole(BaseModel):
    """The first event of a watched answer, and the last: the message as it is then."""

    type: Literal["whole"] = "whole"
    message: Message


class Reading(BaseModel):
    """How far the prompt has been read, while nothing is written: ``tokens`` of ``prompt_tokens``;
    0 also where the engine does not tell.
    """

    type: Literal["reading"] = "reading"
    tokens: int
    prompt_tokens: int


class More(BaseModel):
    """What has been written since the last event."""

    type: Literal["more"] = "more"
    content: str
    reasoning: str


class Failed(BaseModel):
    """Watching has failed; the answer may go on."""

    type: Literal["failed"] = "failed"
    message: str
    code: str
    values: ErrorValues


class SeenPrompt(BaseModel):
    """The prompt of an answer, made again from its branch: the model saw this text."""

    prompt: str
    token_count: int
