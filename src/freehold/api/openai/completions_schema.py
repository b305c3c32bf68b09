"""OpenAI's completions, without chat, as this server speaks them. Unknown fields are refused by
name.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, PlainValidator

from freehold.api.bounds import writable
from freehold.api.openai.common import (
    MAX_ANSWERS,
    MAX_CHARACTERS,
    MAX_TOKENS,
    WITHOUT_EFFECT,
    FieldsWithoutEffect,
    ModelName,
    SamplingFields,
    StreamOptions,
    Text,
)
from freehold.api.openai.schema import Timings, Usage

MAX_TOGETHER = 64
_MAX_IDS = 1024 * 1024

Prompt = str | tuple[int, ...]


def _prompts(value: Any) -> tuple[Prompt, ...]:
    """All four forms as one; complaints are about the whole field, by number."""
    if isinstance(value, str) or _are_ids(value):
        value = [value]
    if not isinstance(value, list) or not value:
        raise ValueError("it must be a text, token ids, or a list of either that is not empty")
    if len(value) > MAX_TOGETHER:
        raise ValueError(f"it has {len(value)} items; at most {MAX_TOGETHER} are accepted")
    return tuple(_prompt(item, number) for number, item in enumerate(value))


def _are_ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(item) is int for item in value)


def _prompt(item: Any, number: int) -> Prompt:
    if isinstance(item, str):
        if len(item) > MAX_CHARACTERS:
            raise ValueError(f"item {number} has more than {MAX_CHARACTERS} characters")
        return writable(item)
    if not _are_ids(item):
        raise ValueError(f"item {number} is neither a text nor a list of token ids")
    if len(item) > _MAX_IDS or not all(0 <= token < 2**31 for token in item):
        raise ValueError(f"item {number} has too many token ids, or one that cannot be one")
    return tuple(item)


_Ids = Annotated[
    list[Annotated[int, Field(ge=0, lt=2**31)]], Field(min_length=1, max_length=_MAX_IDS)
]
_Items = Annotated[list[Text | _Ids], Field(min_length=1, max_length=MAX_TOGETHER)]


class CompletionsRequest(SamplingFields, FieldsWithoutEffect):
    """``max_tokens`` 0 asks for what is known of the prompt alone: see ``echo``."""

    model: ModelName
    prompt: Annotated[
        tuple[Prompt, ...],
        PlainValidator(_prompts, json_schema_input_type=Text | _Ids | _Items),
    ]
    suffix: Text | None = Field(
        default=None, description="What follows the hole that is to be filled in."
    )
    max_tokens: Annotated[int, Field(ge=0, le=MAX_TOKENS)] | None = Field(
        default=None, description="16 if left out."
    )
    echo: bool | None = Field(
        default=None, description="The prompt is part of each text, with its log-probabilities."
    )
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None
    n: Annotated[int, Field(ge=1, le=MAX_ANSWERS)] | None = None
    best_of: Annotated[int, Field(ge=1, le=MAX_ANSWERS)] | None = Field(
        default=None, description="Only as many as n: no answer is made and thrown away."
    )
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    metadata: dict[str, Any] | None = Field(default=None, description=WITHOUT_EFFECT)


class TextLogprobs(BaseModel):
    """Four lists, one entry for each token.

    A token that is no whole character is spelled ``bytes:\\xe2\\x82``. ``top_logprobs`` has the
    token itself too. ``text_offset`` is in characters from the beginning of the prompt. The first
    token of a prompt has no log-probability, nor has the end that a model chose to make, an empty
    last token, which is listed only after an echoed prompt.
    """

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


def _is_none(value: Any) -> bool:
    return value is None


class TextChoice(BaseModel):
    """One answer, or with ``finish_reason`` None a part of one."""

    text: str
    index: int
    logprobs: TextLogprobs | None = None
    finish_reason: Literal["stop", "length"] | None = None
    timings: Timings | None = Field(
        default=None, exclude_if=_is_none, description="With the finish_reason."
    )


class TextCompletion(BaseModel):
    """The whole, or a chunk of a stream."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[TextChoice]
    usage: Usage | None = Field(default=None, exclude_if=_is_none)
