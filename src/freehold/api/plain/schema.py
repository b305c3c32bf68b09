"""Tokens and prompts, asked for directly. Messages, tools and errors are in OpenAI's words."""

from __future__ import annotations

from typing import Annotated

from pydantic import AliasChoices, BaseModel, Field

from freehold.api.openai.common import (
    MAX_MESSAGES,
    MAX_TOOLS,
    Effort,
    ModelName,
    Request,
    Text,
)
from freehold.api.openai.schema import ChatMessage, FunctionTool, ToolChoice

_MAX_IDS = 1024 * 1024
_SOLE = "Left out: the only one that is loaded, or that is here."


class TokenizeRequest(Request):
    """vLLM's ``prompt`` is ``content``, its ``add_special_tokens`` is ``add_special``."""

    model: ModelName | None = Field(default=None, description=_SOLE)
    content: Text = Field(validation_alias=AliasChoices("content", "prompt"))
    add_special: bool = Field(
        default=False,
        validation_alias=AliasChoices("add_special", "add_special_tokens"),
        description="Add the tokens the model wants around a text.",
    )
    parse_special: bool = Field(
        default=True, description="Spellings of control tokens are those tokens, not text."
    )
    with_pieces: bool = False


class Piece(BaseModel):
    """``piece`` is text, or a list of bytes where they are no whole characters."""

    id: int
    piece: str | list[int]


class Tokens(BaseModel):
    tokens: list[int] | list[Piece]
    count: int


class DetokenizeRequest(Request):
    model: ModelName | None = Field(default=None, description=_SOLE)
    tokens: Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(max_length=_MAX_IDS)]


class Spelled(BaseModel):
    """Control tokens by their spelling. Bytes that are no characters are shown as U+FFFD.

    ``prompt`` is the same, for clients that know vLLM's route.
    """

    content: str
    prompt: str


class TokenizerInfo(BaseModel):
    """Tokens are told by their spelling; null where the model has none."""

    model: str
    bos_token: str | None
    eos_token: str | None
    pad_token: str | None
    chat_template: str | None


class ApplyTemplateRequest(Request):
    """The fields of a chat completion that have a say in its prompt."""

    model: ModelName
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES)]
    tools: Annotated[list[FunctionTool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: ToolChoice | None = None
    reasoning_effort: Effort | None = None


class AppliedTemplate(BaseModel):
    """``prompt`` is what the model sees, as text; ``token_count`` how long it is.

    Special tokens that a message spells are text to the model: this prompt, tokenised, may not
    give the same tokens.
    """

    prompt: str
    token_count: int
