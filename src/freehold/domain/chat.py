"""Conversations and requests, as every dialect and every engine understands them."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from freehold.domain.sampling import Constraint, Sampling


class Role(enum.StrEnum):
    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


@dataclass(frozen=True)
class ToolCall:
    """A call the model made. ``arguments`` is a JSON object, as text."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class Message:
    """One turn of a conversation, in plain text.

    ``reasoning`` and ``tool_calls`` are an assistant's. A turn of `Role.TOOL` is the result of
    the call ``tool_call_id``, of the tool ``tool_name`` where that is known.
    """

    role: Role
    content: str
    reasoning: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    tool_name: str | None = None


@dataclass(frozen=True)
class Tool:
    """Something the model may ask its caller to do. ``parameters`` is a JSON schema, as text."""

    name: str
    description: str = ""
    parameters: str = '{"type": "object", "properties": {}}'


class ToolUse(enum.StrEnum):
    """Whether a model calls tools."""

    AUTO = "auto"  # as it likes
    NONE = "none"  # it is not told of any
    REQUIRED = "required"  # at least one; a grammar sees to it


@dataclass(frozen=True)
class ToolChoice:
    """``name``: this tool and no other, with `ToolUse.REQUIRED`. ``parallel``: several at once."""

    use: ToolUse = ToolUse.AUTO
    name: str | None = None
    parallel: bool = True


@dataclass(frozen=True)
class ReasoningWish:
    """How a model that can reason before it answers should.

    ``enabled`` None: as its template does. ``effort`` is a word for templates that know such
    words. ``budget`` bounds the tokens of reasoning; then the answer begins.
    """

    enabled: bool | None = None
    effort: str | None = None
    budget: int | None = None


@dataclass(frozen=True)
class Conversation:
    """What a chat template renders. ``continues``: the last turn is the model's own, unfinished."""

    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    reasoning: ReasoningWish = ReasoningWish()
    continues: bool = False


@dataclass(frozen=True)
class ChatRequest:
    """A chat completion, parsed once at the border and valid from then on.

    ``max_tokens`` None means: as many as the context has room for. ``top_logprobs`` and
    ``constraint`` are as in `GenerateRequest`, but the constraint holds for the answer,
    not for reasoning before it. ``answers`` are given independently of each other. ``said`` are the
    tokens of an answer that was cut: it goes on behind them, and has no constraint. ``deadline`` is
    when the answer must have begun, in seconds of the event loop's clock; None means never.
    ``keep_alive`` is how many seconds the model stays unused from then on; None leaves that as it
    is.
    """

    model: str
    conversation: Conversation
    sampling: Sampling = field(default_factory=Sampling)
    max_tokens: int | None = None
    cache_scope: str = "local"
    deadline: float | None = None
    keep_alive: float | None = None
    constraint: Constraint | None = None
    top_logprobs: int | None = None
    tool_choice: ToolChoice = ToolChoice()
    answers: int = 1
    said: tuple[int, ...] = ()


@dataclass(frozen=True)
class MessagesRequest:
    """What an engine is asked that keeps its own template: one answer to ``chat``, whose
    ``answers`` and ``keep_alive`` are not its business.
    """

    request_id: str
    chat: ChatRequest


@dataclass(frozen=True)
class CompletionRequest:
    """Text to go on with, as it is: no template. Fields as in `ChatRequest`.

    ``suffix``: what comes after the hole the answer fills, for models that can. A ``prompt`` of
    token ids is taken as it is.
    """

    model: str
    prompt: str | tuple[int, ...]
    suffix: str | None = None
    sampling: Sampling = field(default_factory=Sampling)
    max_tokens: int | None = None
    cache_scope: str = "local"
    deadline: float | None = None
    keep_alive: float | None = None
    constraint: Constraint | None = None
    top_logprobs: int | None = None
    prompt_logprobs: int | None = None
    answers: int = 1


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
    ``shown`` are control tokens that are part of the answer's text: tool calls are written
    with such tokens by some models.
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
    shown: tuple[int, ...] = ()


@dataclass(frozen=True)
class EmbedRequest:
    """Texts to embed, as token ids, one tuple per text."""

    request_id: str
    inputs: tuple[tuple[int, ...], ...]
    cache_scope: str = "local"
    deadline: float | None = None
