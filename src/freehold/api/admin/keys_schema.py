"""API keys, as programs see them. Times are ISO 8601 in UTC."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from freehold.api.openai.common import Request
from freehold.runtime.access.keys import (
    MAX_CONCURRENCY,
    MAX_MODELS,
    MAX_PATTERN,
    MAX_RATE,
    MAX_WEIGHT,
)

KeyScope = Literal["infer", "manage"]
_Pattern = Annotated[str, Field(min_length=1, max_length=MAX_PATTERN)]


class NewKey(Request):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    scopes: Annotated[list[KeyScope], Field(min_length=1, max_length=2, default=["infer"])]
    models: Annotated[list[_Pattern], Field(max_length=MAX_MODELS)] = Field(
        default=[], description="Names or patterns such as qwen*; none: all."
    )
    concurrency: Annotated[int, Field(ge=1, le=MAX_CONCURRENCY)] | None = Field(
        default=None, description="Requests under way at once."
    )
    rate: Annotated[int, Field(ge=1, le=MAX_RATE)] | None = Field(
        default=None, description="Tokens a minute, prompts and answers together."
    )
    weight: Annotated[int, Field(ge=1, le=MAX_WEIGHT)] = Field(
        default=1, description="Share of turns against other keys."
    )
    expires: Annotated[str, Field(min_length=1, max_length=64)] | None = Field(
        default=None, description="30d or 12h from now, or a time such as 2027-01-31."
    )


class KeyDescribed(BaseModel):
    """``id`` is the second part of the key itself, and no secret."""

    id: str
    name: str
    scopes: list[str]
    models: list[str]
    concurrency: int | None
    rate: int | None
    weight: int
    created: str
    expires: str | None
    revoked: str | None
    state: Literal["in use", "expired", "revoked"]


class KeyIssued(KeyDescribed):
    """``key`` is told this once."""

    key: str


class KeyList(BaseModel):
    data: list[KeyDescribed]


class KeyUse(BaseModel):
    """What one key has used since a day. ``id`` alone tells keys of one name apart."""

    id: str
    name: str
    since: str
    requests: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int


class UsageList(BaseModel):
    data: list[KeyUse]
