"""Between OpenAI's words and ours. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

from freehold.api.openai.schema import (
    AssistantMessage,
    ChatCompletion,
    ChatCompletionChunk,
    ChatCompletionRequest,
    ChatMessage,
    Choice,
    ChoiceLogprobs,
    ChunkChoice,
    Delta,
    ErrorDetails,
    ErrorResponse,
    JsonObjectFormat,
    JsonSchemaFormat,
    LarkFormat,
    PromptTokensDetails,
    RegexFormat,
    TokenLogprob,
    TopLogprob,
    Usage,
)
from freehold.api.problem import Problem
from freehold.domain import events
from freehold.domain.chat import ChatRequest, Message, Role
from freehold.domain.errors import InvalidRequest
from freehold.domain.sampling import Constraint, Grammar, Sampling

T = TypeVar("T")

# What stands for minus infinity, which JSON cannot say; OpenAI's API uses the same number.
_LEAST_LOGPROB = -9999.0

_ROLES = {
    "system": Role.SYSTEM,
    "developer": Role.SYSTEM,
    "user": Role.USER,
    "assistant": Role.ASSISTANT,
}
_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    429: "rate_limit_error",
}


def chat_request(body: ChatCompletionRequest, *, cache_scope: str, deadline: float) -> ChatRequest:
    """Raises `InvalidRequest` where fields contradict each other."""
    if body.max_tokens and body.max_completion_tokens:
        raise InvalidRequest(
            "max_tokens and max_completion_tokens mean the same; send one of them.",
            field="max_tokens",
        )
    if body.stream_options is not None and not body.stream:
        raise InvalidRequest(
            "stream_options has a meaning only with stream: true.", field="stream_options"
        )
    if body.top_logprobs is not None and not body.logprobs:
        raise InvalidRequest(
            "top_logprobs has a meaning only with logprobs: true.", field="top_logprobs"
        )
    return ChatRequest(
        model=body.model,
        messages=tuple(Message(_ROLES[m.role], _text(m)) for m in body.messages),
        sampling=_sampling(body),
        max_tokens=body.max_completion_tokens or body.max_tokens,
        cache_scope=cache_scope,
        deadline=deadline,
        constraint=_constraint(body),
        top_logprobs=(body.top_logprobs or 0) if body.logprobs else None,
    )


def _text(message: ChatMessage) -> str:
    return "".join(part.text for part in message.content)


def _sampling(body: ChatCompletionRequest) -> Sampling:
    """What the body says; what it leaves out keeps our default."""
    default = Sampling()
    return Sampling(
        temperature=_given(body.temperature, default.temperature),
        top_p=_given(body.top_p, default.top_p),
        top_k=_given(body.top_k, default.top_k),
        min_p=_given(body.min_p, default.min_p),
        typical_p=_given(body.typical_p, default.typical_p),
        repetition_penalty=_given(body.repetition_penalty, default.repetition_penalty),
        presence_penalty=_given(body.presence_penalty, default.presence_penalty),
        frequency_penalty=_given(body.frequency_penalty, default.frequency_penalty),
        logit_bias=tuple((int(token), bias) for token, bias in (body.logit_bias or {}).items()),
        seed=body.seed,
        stop=tuple(body.stop or ()),
        ignore_end=_given(body.ignore_eos, default.ignore_end),
    )


def _given(value: T | None, default: T) -> T:
    return default if value is None else value


def _constraint(body: ChatCompletionRequest) -> Constraint | None:
    match body.response_format:
        case JsonObjectFormat():
            return Constraint(Grammar.JSON_SCHEMA, '{"type": "object"}')
        case JsonSchemaFormat(json_schema=named):
            return Constraint(Grammar.JSON_SCHEMA, json.dumps(named.schema_))
        case RegexFormat(regex=expression):
            return Constraint(Grammar.REGEX, expression)
        case LarkFormat(lark=grammar):
            return Constraint(Grammar.LARK, grammar)
        case _:
            return None


def logprobs(found: Iterable[events.TokenLogprob]) -> ChoiceLogprobs | None:
    """None where there are none, as without being asked for."""
    content = [
        TokenLogprob(
            **_top(one.chosen).model_dump(), top_logprobs=[_top(other) for other in one.top]
        )
        for one in found
    ]
    return ChoiceLogprobs(content=content) if content else None


def _top(alternative: events.Alternative) -> TopLogprob:
    return TopLogprob(
        token=alternative.piece.decode("utf-8", "replace"),
        logprob=max(alternative.logprob, _LEAST_LOGPROB),
        bytes=list(alternative.piece),
    )


def usage(counted: events.Usage) -> Usage:
    return Usage(
        prompt_tokens=counted.prompt_tokens,
        completion_tokens=counted.completion_tokens,
        total_tokens=counted.prompt_tokens + counted.completion_tokens,
        prompt_tokens_details=PromptTokensDetails(cached_tokens=counted.cached_tokens),
    )


@dataclass(frozen=True)
class Answer:
    """Every `events.TextDelta` of a request as one."""

    text: str
    logprobs: tuple[events.TokenLogprob, ...]


def completion(
    identity: str, created: int, model: str, answer: Answer, finished: events.Finished
) -> ChatCompletion:
    """The whole answer at once."""
    return ChatCompletion(
        id=identity,
        created=created,
        model=model,
        choices=[
            Choice(
                message=AssistantMessage(content=answer.text),
                finish_reason=finished.reason.value,
                logprobs=logprobs(answer.logprobs),
            )
        ],
        usage=usage(finished.usage),
    )


class Chunks:
    """The events of one answer as OpenAI's chunks, ready to be sent."""

    def __init__(self, identity: str, created: int, model: str, *, include_usage: bool) -> None:
        self._identity = identity
        self._created = created
        self._model = model
        self._include_usage = include_usage

    def first(self) -> str:
        return self._chunk([ChunkChoice(delta=Delta(role="assistant", content=""))])

    def of(self, event: events.Event) -> list[str]:
        """No, one or two chunks."""
        match event:
            case events.TextDelta(text=text, logprobs=found) if text or found:
                choice = ChunkChoice(delta=Delta(content=text), logprobs=logprobs(found))
                return [self._chunk([choice])]
            case events.Finished() as finished:
                last = ChunkChoice(delta=Delta(), finish_reason=finished.reason.value)
                chunks = [self._chunk([last])]
                if self._include_usage:
                    chunks.append(self._chunk([], usage(finished.usage)))
                return chunks
            case _:
                return []

    def _chunk(self, choices: list[ChunkChoice], counted: Usage | None = None) -> str:
        chunk = ChatCompletionChunk(
            id=self._identity,
            created=self._created,
            model=self._model,
            choices=choices,
            usage=counted,
        )
        return chunk.model_dump_json(exclude_none=True)


def error_body(problem: Problem) -> ErrorResponse:
    return ErrorResponse(
        error=ErrorDetails(
            message=problem.message,
            type=_TYPES.get(problem.status, "server_error"),
            param=problem.field,
            code=problem.code,
        )
    )
