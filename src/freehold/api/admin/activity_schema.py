"""What goes on in the server, as programs see it: numbers, names and times."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from freehold.runtime.logs import Dialect


class EngineActivity(BaseModel):
    """The engine of a model that is in memory. What it did not tell in time is null."""

    name: str
    sequences: int = Field(description="Answers it can write at once.")
    context: int = Field(description="Tokens each of them can hold.")
    resident_bytes: int | None = Field(description="Memory of its process, mapped weights too.")
    running: int | None
    waiting: int | None
    held_tokens: int | None = Field(description="Tokens in its key-value cache.")
    shelved_bytes: int | None = Field(description="Memory that keeps prefixes of what is over.")


class ModelActivity(BaseModel):
    """A model that is or was in memory. ``waiting`` and ``running`` are requests; everything that
    is counted is counted since the server began, answers under way included. Who asks twice has
    rates: differences, over the difference of ``seconds``.
    """

    model: str
    waiting: int
    running: int
    answers: int = Field(description="Answers that are over.")
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    first_tokens: int = Field(description="Answers that have begun to be written.")
    first_token_seconds: float = Field(description="What these waited, all together.")
    engine: EngineActivity | None


class ReadingActivity(BaseModel):
    """Tokens of a prompt that have been read, 0 also where the engine does not tell."""

    tokens: int
    prompt_tokens: int


class RequestUnderWay(BaseModel):
    """``id`` is for stopping it, ``request`` what the log calls it. ``waiting``: for its turn."""

    id: str
    request: str | None
    model: str
    dialect: Dialect
    key: str | None = Field(description="The name of the key; null: none was needed.")
    state: Literal["waiting", "running"]
    seconds: float = Field(description="Since it came.")
    prompt_tokens: int
    completion_tokens: int
    reading: ReadingActivity | None = Field(description="While its prompt is read, if it is told.")


class MemoryActivity(BaseModel):
    """Bytes: of the machine (or its container), what models may take of it, this process's own."""

    total: int
    available: int
    budget: int
    gateway: int


class Activity(BaseModel):
    """``seconds`` is a clock of the server that only goes forward."""

    seconds: float
    memory: MemoryActivity
    models: list[ModelActivity]
    requests: list[RequestUnderWay]
