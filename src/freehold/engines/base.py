"""What every engine is: `load`, `generate`, `embed`, `close`, and what it can do.

    load ──▶ generate* / embed* ──▶ close

`generate` yields the events of `domain.events` in their order and ends after
`Finished`. Closing the iterator early cancels the request: its sequence is free
within one step. A failure raises an error of `domain.errors`; after an
`EngineCrashed` the engine is dead and a new one must be loaded.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import Protocol

from freehold.domain.chat import EmbedRequest, GenerateRequest
from freehold.domain.errors import (
    DeadlineExceeded,
    EngineCrashed,
    InvalidRequest,
    PromptTooLong,
)
from freehold.domain.events import Event


class Capability(enum.StrEnum):
    """What an engine may be able to do. What it has may not be left undeclared."""

    GENERATE = "generate"
    EMBED = "embed"
    SEED = "seed"  # same seed, same request, same text when alone
    STOP = "stop"
    PREFIX_CACHE = "prefix_cache"
    ADAPTERS = "adapters"


@dataclass(frozen=True)
class Capabilities:
    """``context`` is tokens per sequence; ``parallel`` how many sequences run at once."""

    features: frozenset[Capability]
    context: int
    parallel: int


class Kernels(enum.StrEnum):
    """Which of llama.cpp's CPU kernels are used."""

    FAST = "fast"  # with AMX and repacked weights where the CPU has a use for them
    PLAIN = "plain"  # without: the way around a build whose fast kernels crash


@dataclass(frozen=True)
class EngineConfig:
    """How to load one model: its files in order. ``context`` is tokens per sequence."""

    model: str
    paths: tuple[str, ...]
    context: int
    parallel: int
    threads: int
    kernels: Kernels = Kernels.FAST


@contextlib.asynccontextmanager
async def begun_before(deadline: float | None) -> AsyncIterator[None]:
    """What runs inside must end before ``deadline`` (event loop time), else `DeadlineExceeded`."""
    try:
        async with asyncio.timeout_at(deadline):
            yield
    except TimeoutError:
        raise DeadlineExceeded(
            "The answer did not begin before the request's deadline.",
            hint="Repeat the request later.",
        ) from None


def require_possible(request: GenerateRequest, capabilities: Capabilities) -> None:
    """Raise `InvalidRequest` or `PromptTooLong` for what an engine cannot do as asked."""
    if request.adapters and Capability.ADAPTERS not in capabilities.features:
        raise InvalidRequest("This engine does not apply adapters.", field="adapters")
    if not request.prompt:
        raise InvalidRequest("The prompt is empty.", field="messages")
    if len(request.prompt) >= capabilities.context:
        raise PromptTooLong.counted(prompt_tokens=len(request.prompt), context=capabilities.context)


class Engine(Protocol):
    """One loaded model. Used from one event loop."""

    @property
    def capabilities(self) -> Capabilities:
        """Valid after `load`."""
        ...

    @property
    def pid(self) -> int | None:
        """The process that does the work, where there is one."""
        ...

    @property
    def failure(self) -> EngineCrashed | None:
        """Why this engine is dead; None while it lives."""
        ...

    async def load(self) -> None:
        """Make ready. Raises `LoadFailed` or `EngineCrashed`."""
        ...

    def generate(self, request: GenerateRequest) -> AsyncGenerator[Event, None]: ...

    async def embed(self, request: EmbedRequest) -> tuple[tuple[float, ...], ...]: ...

    async def close(self) -> None:
        """End every request and free everything. Safe to call twice."""
        ...
