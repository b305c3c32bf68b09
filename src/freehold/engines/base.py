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
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from freehold.domain.answers import Part
from freehold.domain.chat import EmbedRequest, GenerateRequest, MessagesRequest
from freehold.domain.embedding import Vector
from freehold.domain.engine import Affinity, CacheConfig, Kernels
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
    LOGPROBS = "logprobs"
    CONSTRAINTS = "constraints"
    PREFIX_CACHE = "prefix_cache"
    ADAPTERS = "adapters"


@dataclass(frozen=True)
class Capabilities:
    """``context`` is tokens per sequence; ``parallel`` how many sequences run at once."""

    features: frozenset[Capability]
    context: int
    parallel: int


@dataclass(frozen=True)
class EngineConfig:
    """How to load one model: its files in order. ``context`` is tokens per sequence.

    ``micro_batch`` is how many tokens the model's graph is computed over at a time, at most.
    ``latency`` is the inter-token latency, in seconds, that reading other prompts must respect.
    ``drafts`` allows guessing tokens from what was said before (never changes an answer).
    """

    model: str
    paths: tuple[str, ...]
    context: int
    parallel: int
    threads: int
    kernels: Kernels = Kernels.FAST
    cache: CacheConfig = field(default_factory=CacheConfig)
    micro_batch: int = 512
    latency: float = 0.5
    drafts: bool = True
    affinity: Affinity = Affinity.FREE


class AdapterKind(enum.StrEnum):
    LORA = "lora"
    CONTROL_VECTOR = "control_vector"


@dataclass(frozen=True)
class Adapter:
    """A file that changes a loaded model's answers where a request names it.

    A control vector acts on the layers ``first_layer`` to ``last_layer`` (None: the last).
    """

    name: str
    kind: AdapterKind
    path: str
    first_layer: int = 1
    last_layer: int | None = None


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


def require_generating(capabilities: Capabilities) -> None:
    """Raise `InvalidRequest` for a model that only embeds."""
    if Capability.GENERATE not in capabilities.features:
        raise InvalidRequest(
            "This model turns texts into vectors; it does not write any.", field="model"
        )


def require_embedding(capabilities: Capabilities) -> None:
    """Raise `InvalidRequest` for a model that does not embed."""
    if Capability.EMBED not in capabilities.features:
        raise InvalidRequest("This model does not turn texts into vectors.", field="model")


def require_embeddable(request: EmbedRequest, capabilities: Capabilities) -> None:
    """Raise `InvalidRequest` or `PromptTooLong` for what an engine cannot embed."""
    require_embedding(capabilities)
    if not request.inputs:
        raise InvalidRequest("There is no input.", field="input")
    for number, tokens in enumerate(request.inputs):
        which = "The input" if len(request.inputs) == 1 else f"Input {number}"
        if not tokens:
            raise InvalidRequest(f"{which} is empty.", field="input")
        if len(tokens) > capabilities.context:
            raise PromptTooLong(
                f"{which} has {len(tokens)} tokens and the context holds {capabilities.context}.",
                hint="Embed it in parts, or load with a larger context if the model has one.",
                values={"prompt_tokens": len(tokens), "context_tokens": capabilities.context},
            )


def require_possible(request: GenerateRequest, capabilities: Capabilities) -> None:
    """Raise `InvalidRequest` or `PromptTooLong` for what an engine cannot do as asked."""
    require_generating(capabilities)
    features = capabilities.features
    if request.adapters and Capability.ADAPTERS not in features:
        raise InvalidRequest("This engine does not apply adapters.", field="adapters")
    if request.constraint is not None and Capability.CONSTRAINTS not in features:
        raise InvalidRequest("This engine cannot constrain answers.", field="response_format")
    wants_logprobs = request.top_logprobs is not None or request.prompt_logprobs is not None
    if wants_logprobs and Capability.LOGPROBS not in features:
        raise InvalidRequest("This engine does not give log-probabilities.", field="logprobs")
    if not request.prompt:
        raise InvalidRequest("The prompt is empty.", field="messages")
    if len(request.prompt) >= capabilities.context:
        raise PromptTooLong.counted(prompt_tokens=len(request.prompt), context=capabilities.context)


@runtime_checkable
class Progressive(Protocol):
    """An engine that tells how far it has come with loading."""

    @property
    def progress(self) -> float | None:
        """From 0 to 1; None where it is not known yet."""
        ...


@runtime_checkable
class Staged(Protocol):
    """An engine whose start has stages that a person may want to know."""

    @property
    def stage(self) -> str | None:
        """What it is doing (``loading the weights``); None once it is loaded."""
        ...


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

    async def add_adapter(self, adapter: Adapter) -> None:
        """Load an adapter, without a restart. Raises `LoadFailed`, `InvalidRequest`."""
        ...

    async def remove_adapter(self, name: str) -> None:
        """Unload one when the requests that use it have ended. Raises `InvalidRequest`."""
        ...

    async def close(self) -> None:
        """End every request and free everything. Safe to call twice."""
        ...


class MessageEngine(Protocol):
    """A model that others run: it keeps its own template and tokens, so it is asked with messages
    and answers with the parts of `domain.answers`, in their order. Closing the iterator early
    cancels. Used from one event loop.
    """

    @property
    def features(self) -> frozenset[Capability]: ...

    @property
    def context(self) -> int | None:
        """In tokens; None: nobody has said."""
        ...

    @property
    def parallel(self) -> int:
        """How many requests may be under way at once."""
        ...

    def generate(self, request: MessagesRequest) -> AsyncGenerator[Part, None]:
        """Raises `InvalidRequest` for what it cannot do as asked, before anything is sent."""
        ...

    async def embed(
        self, texts: Sequence[str], deadline: float | None
    ) -> tuple[tuple[Vector, ...], int]:
        """A vector of length 1 for each text, and the tokens they have together."""
        ...

    async def close(self) -> None:
        """End every request. Safe to call twice."""
        ...
