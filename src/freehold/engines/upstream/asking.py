"""From our requests to OpenAI's words, and what an upstream cannot be asked. Pure.

Nothing is left out that a request asks for: what the upstream's kind has no field for is refused
by name. The one exception: `top_k` at our default goes unsaid where there is no such field, since
that is also what requests say that name none.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

from freehold.domain.chat import (
    ChatRequest,
    Conversation,
    Message,
    ReasoningWish,
    Role,
    ToolChoice,
    ToolUse,
)
from freehold.domain.errors import InvalidRequest
from freehold.domain.sampling import Constraint, Grammar, Sampling
from freehold.domain.upstreams import Upstream, UpstreamKind

OPENAI, VLLM = UpstreamKind.OPENAI, UpstreamKind.VLLM
LLAMA_SERVER, FREEHOLD = UpstreamKind.LLAMA_SERVER, UpstreamKind.FREEHOLD

# Our fields beyond OpenAI's → their names with each kind of server that has them.
_NAMES: dict[str, dict[UpstreamKind, str]] = {
    "top_k": {VLLM: "top_k", LLAMA_SERVER: "top_k", FREEHOLD: "top_k"},
    "min_p": {VLLM: "min_p", LLAMA_SERVER: "min_p", FREEHOLD: "min_p"},
    "typical_p": {LLAMA_SERVER: "typical_p", FREEHOLD: "typical_p"},
    # llama-server's `repeat_penalty` looks at another stretch of text than ours.
    "repetition_penalty": {VLLM: "repetition_penalty", FREEHOLD: "repetition_penalty"},
    "ignore_end": {VLLM: "ignore_eos", LLAMA_SERVER: "ignore_eos", FREEHOLD: "ignore_eos"},
}
# As the dialects call them, where that differs.
_FIELDS = {"ignore_end": "ignore_eos"}
_ANY_OBJECT = {"type": "object"}
# What a conversation costs before it is tokenised: characters to a token of English, and what is
# counted for an answer whose length nobody limits.
_CHARACTERS, _ANSWER = 4, 1024


def require_possible(upstream: Upstream, asked: ChatRequest) -> None:
    """Raise `InvalidRequest` for what it cannot be asked."""
    body_of(upstream, asked)


def body_of(upstream: Upstream, asked: ChatRequest) -> dict[str, Any]:
    """The body of a streaming request. Raises `InvalidRequest` for what cannot be asked."""
    told = asked.conversation
    if told.continues or asked.said:
        raise _cannot(upstream, "go on with an answer that was begun", "messages")
    options = {"include_usage": True}
    if upstream.kind is VLLM:
        options["continuous_usage_stats"] = True
    body: dict[str, Any] = {
        "model": upstream.model,
        "messages": [_message(upstream.kind, each) for each in told.messages],
        "stream": True,
        "stream_options": options,
        **_sampling(upstream, asked.sampling),
        **_tools(asked.conversation, asked.tool_choice),
        **_reasoning(upstream, told.reasoning),
    }
    if asked.max_tokens is not None:
        body["max_tokens"] = asked.max_tokens
    if asked.top_logprobs is not None:
        body |= {"logprobs": True, "top_logprobs": asked.top_logprobs}
    if asked.constraint is not None:
        body["response_format"] = _format(upstream, asked.constraint)
    if upstream.kind is VLLM:
        # Prefixes are shared within a scope: what one key has said, no other finds in the cache.
        body["cache_salt"] = hashlib.sha256(asked.cache_scope.encode()).hexdigest()
    return body


def _message(kind: UpstreamKind, message: Message) -> dict[str, Any]:
    told: dict[str, Any] = {"role": message.role.value, "content": message.content}
    if message.role is Role.TOOL:
        told["tool_call_id"] = message.tool_call_id or ""
    if message.tool_calls:
        told["content"] = message.content or None
        told["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in message.tool_calls
        ]
    if message.reasoning is not None and kind is not OPENAI:  # which has no field for it
        told["reasoning_content"] = message.reasoning
    return told


def _sampling(upstream: Upstream, sampling: Sampling) -> dict[str, Any]:
    plain = Sampling()
    told: dict[str, Any] = {"temperature": sampling.temperature, "top_p": sampling.top_p}
    for name in ("presence_penalty", "frequency_penalty"):
        if getattr(sampling, name):
            told[name] = getattr(sampling, name)
    if sampling.logit_bias:
        told["logit_bias"] = {str(token): bias for token, bias in sampling.logit_bias}
    if sampling.seed is not None:
        told["seed"] = sampling.seed
    if sampling.stop:
        told["stop"] = list(sampling.stop)
    for name, names in _NAMES.items():
        value, usual = getattr(sampling, name), getattr(plain, name)
        if upstream.kind in names:
            # Said even where it is usual here: there, another value may be.
            told[names[upstream.kind]] = value
        elif value != usual:
            field = _FIELDS.get(name, name)
            raise _cannot(upstream, f"be asked for {field}", field)
    _require_no_window(upstream, sampling)
    return told


def _require_no_window(upstream: Upstream, sampling: Sampling) -> None:
    if sampling.dry is not None:
        raise _cannot(upstream, "be asked for dry", "dry")
    penalised = (
        sampling.repetition_penalty != 1.0
        or sampling.presence_penalty
        or sampling.frequency_penalty
    )
    if sampling.penalty_window is not None and penalised:
        raise _cannot(upstream, "limit penalties to a window", "penalty_window")


def _tools(told: Conversation, choice: ToolChoice) -> dict[str, Any]:
    if not told.tools or choice.use is ToolUse.NONE:
        return {}
    wanted: Any = choice.use.value
    if choice.name is not None:
        wanted = {"type": "function", "function": {"name": choice.name}}
    body: dict[str, Any] = {
        "tools": [
            {
                "type": "function",
                "function": {
                    "name": tool.name,
                    "description": tool.description,
                    "parameters": json.loads(tool.parameters),
                },
            }
            for tool in told.tools
        ],
        "tool_choice": wanted,
    }
    if not choice.parallel:
        body["parallel_tool_calls"] = False
    return body


def _reasoning(upstream: Upstream, wish: ReasoningWish) -> dict[str, Any]:
    if wish.enabled is False or wish.budget == 0:
        if upstream.kind in (VLLM, LLAMA_SERVER):
            return {"chat_template_kwargs": {"enable_thinking": False}}
        return {"reasoning_effort": "none"}
    told: dict[str, Any] = {}
    if wish.budget is not None:
        if upstream.kind is not FREEHOLD:
            raise _cannot(upstream, "be held to a budget of reasoning", "reasoning")
        told["reasoning_budget"] = wish.budget
    if wish.effort is not None:
        told["reasoning_effort"] = wish.effort
    if wish.enabled and upstream.kind in (VLLM, LLAMA_SERVER):
        told["chat_template_kwargs"] = {"enable_thinking": True}
    return told


def _format(upstream: Upstream, constraint: Constraint) -> dict[str, Any]:
    if constraint.grammar is Grammar.JSON_SCHEMA:
        schema = json.loads(constraint.text)
        if schema == _ANY_OBJECT:
            return {"type": "json_object"}
        return {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": schema, "strict": True},
        }
    if upstream.kind is not FREEHOLD:
        raise _cannot(upstream, f"hold an answer to a {constraint.grammar}", "response_format")
    return {"type": constraint.grammar.value, constraint.grammar.value: constraint.text}


def _cannot(upstream: Upstream, what: str, field: str) -> InvalidRequest:
    hint = None
    if upstream.kind is OPENAI:
        hint = "If its server can: the setting `kind` of an upstream says whose it is."
    return InvalidRequest(
        f"The upstream {upstream.name} (kind {upstream.kind}) cannot {what}.",
        field=field,
        hint=hint,
    )


# Where it should go


def beginning_of(asked: ChatRequest) -> bytes:
    """A digest of the part of a conversation that stays the same in all its turns: whose it is,
    the tools, and everything up to the first message of the user.
    """
    digest = hashlib.sha256()
    for text in _leading(asked):
        digest.update(f"{len(text)}:{text}".encode())
    return digest.digest()


def _leading(asked: ChatRequest) -> Iterable[str]:
    yield asked.cache_scope
    for tool in asked.conversation.tools:
        yield from (tool.name, tool.description, tool.parameters)
    for message in asked.conversation.messages:
        yield from (message.role, message.content)
        if message.role is Role.USER:
            return


def expected_tokens(asked: ChatRequest) -> int:
    """What a request will take, prompt and answer, as far as one can tell beforehand."""
    told = asked.conversation
    characters = sum(len(message.content) for message in told.messages)
    characters += sum(len(tool.parameters) + len(tool.description) for tool in told.tools)
    return characters // _CHARACTERS + min(asked.max_tokens or _ANSWER, _ANSWER)
