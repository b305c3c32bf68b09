"""OpenAI's embeddings as this server speaks them. Unknown fields are refused by name."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, PlainValidator

from freehold.api.openai.common import WITHOUT_EFFECT, ModelName, Request

_MAX_INPUTS = 2048
_MAX_CHARACTERS = 1024 * 1024
_MAX_TOKENS = 1024 * 1024
_MAX_DIMENSIONS = 64 * 1024

Input = str | tuple[int, ...]


def _inputs(value: Any) -> tuple[Input, ...]:
    """All four forms as one; complaints are about the whole field, by number."""
    if isinstance(value, str) or _is_tokens(value):
        value = [value]
    if not isinstance(value, list) or not value:
        raise ValueError("it must be a text, token ids, or a list of either that is not empty")
    if len(value) > _MAX_INPUTS:
        raise ValueError(f"it has {len(value)} items; at most {_MAX_INPUTS} are accepted")
    return tuple(_input(item, number) for number, item in enumerate(value))


def _is_tokens(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(item) is int for item in value)


def _input(item: Any, number: int) -> Input:
    if item in ("", []):
        raise ValueError(f"item {number} is empty")
    if isinstance(item, str):
        if len(item) > _MAX_CHARACTERS:
            raise ValueError(f"item {number} has more than {_MAX_CHARACTERS} characters")
        return item
    if not _is_tokens(item):
        raise ValueError(f"item {number} is neither a text nor a list of token ids")
    if len(item) > _MAX_TOKENS or not all(0 <= token < 2**31 for token in item):
        raise ValueError(f"item {number} has too many token ids, or one that cannot be one")
    return tuple(item)


_Text = Annotated[str, Field(min_length=1, max_length=_MAX_CHARACTERS)]
_Tokens = Annotated[
    list[Annotated[int, Field(ge=0, lt=2**31)]], Field(min_length=1, max_length=_MAX_TOKENS)
]
_Items = Annotated[list[_Text | _Tokens], Field(min_length=1, max_length=_MAX_INPUTS)]


class EmbeddingsRequest(Request):
    """``dimensions`` keeps so many numbers of each vector and scales them to length 1."""

    model: ModelName
    input: Annotated[
        tuple[Input, ...],
        PlainValidator(_inputs, json_schema_input_type=_Text | _Tokens | _Items),
    ]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, Field(ge=1, le=_MAX_DIMENSIONS)] | None = None
    user: str | None = Field(default=None, description=WITHOUT_EFFECT)


class Embedding(BaseModel):
    """``embedding`` as text: base64 of 32-bit floats, little endian."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class Usage(BaseModel):
    prompt_tokens: int
    total_tokens: int


class EmbeddingList(BaseModel):
    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: Usage
