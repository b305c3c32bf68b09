"""Conversations and requests, as every dialect and every engine understands them."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from freehold.domain.sampling import Constraint, Sampling


class Role(enum.StrEnum):
    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"


@dataclass(frozen=True)
class Message:
    """One turn of a conversation, in plain text."""

    role: Role
    content: str


@dataclass(frozen=True)
class ChatRequest:
    """A chat completion, parsed once at the border and valid from then on.

    ``max_tokens`` None means: as many as the context has room for. ``top_logprobs`` and
    ``constraint`` are as in `GenerateRequest`. ``deadline`` is
    when the answer must have begun, in seconds of the event loop's clock; None means never.
    """

    model: str
    messages: tuple[Message, ...]
    sampling: Sampling = field(default_factory=Sampling)
    max_tokens: int | None = None
    cache_scope: str = "local"
    deadline: float | None = None
    constraint: Constraint | None = None
    top_logprobs: int | None = None


@dataclass(frozen=True)
class AdapterUse:
    """An adapter applied to one request, at a strength."""

    name: str
    scale: float = 1.0


@dataclass(frozen=True)
class GenerateRequest:
    """What an engine is asked: token ids in, events out.

    ``cache_scope`` names whose prefixes this request may share: requests of
    different scopes never see each other's cache. ``deadline`` is when the first
    token must have come, in seconds of the event loop's clock.

    ``top_logprobs`` None: no log-probabilities; otherwise each token comes with its own and
    those of that many likeliest alternatives. ``prompt_logprobs`` is the same for the prompt.
    """

    request_id: str
    prompt: tuple[int, ...]
    max_tokens: int
    sampling: Sampling = field(default_factory=Sampling)
    cache_scope: str = "local"
    deadline: float | None = None
    adapters: tuple[AdapterUse, ...] = ()
    constraint: Constraint | None = None
    top_logprobs: int | None = None
    prompt_logprobs: int | None = None


@dataclass(frozen=True)
class EmbedRequest:
    """Texts to embed, as token ids, one tuple per text."""

    request_id: str
    inputs: tuple[tuple[int, ...], ...]
    cache_scope: str = "local"
    deadline: float | None = None
