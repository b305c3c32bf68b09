"""Between OpenAI's words and ours. Pure."""

from __future__ import annotations

from freehold.api.openai.schema import (
    AssistantMessage,
    ChatCompletion,
    ChatCompletionChunk,
    ChatCompletionRequest,
    ChatMessage,
    Choice,
    ChunkChoice,
    Delta,
    ErrorDetails,
    ErrorResponse,
    PromptTokensDetails,
    Usage,
)
from freehold.api.problem import Problem
from freehold.domain import events
from freehold.domain.chat import ChatRequest, Message, Role
from freehold.domain.errors import InvalidRequest
from freehold.domain.sampling import DEFAULT_TEMPERATURE, DEFAULT_TOP_P, Sampling

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
    return ChatRequest(
        model=body.model,
        messages=tuple(Message(_ROLES[m.role], _text(m)) for m in body.messages),
        sampling=_sampling(body),
        max_tokens=body.max_completion_tokens or body.max_tokens,
        cache_scope=cache_scope,
        deadline=deadline,
    )


def _text(message: ChatMessage) -> str:
    return "".join(part.text for part in message.content)


def _sampling(body: ChatCompletionRequest) -> Sampling:
    return Sampling(
        temperature=DEFAULT_TEMPERATURE if body.temperature is None else body.temperature,
        top_p=DEFAULT_TOP_P if body.top_p is None else body.top_p,
        seed=body.seed,
        stop=tuple(body.stop or ()),
    )


def usage(counted: events.Usage) -> Usage:
    return Usage(
        prompt_tokens=counted.prompt_tokens,
        completion_tokens=counted.completion_tokens,
        total_tokens=counted.prompt_tokens + counted.completion_tokens,
        prompt_tokens_details=PromptTokensDetails(cached_tokens=counted.cached_tokens),
    )


def completion(
    identity: str, created: int, model: str, text: str, finished: events.Finished
) -> ChatCompletion:
    """The whole answer at once."""
    return ChatCompletion(
        id=identity,
        created=created,
        model=model,
        choices=[
            Choice(message=AssistantMessage(content=text), finish_reason=finished.reason.value)
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
            case events.TextDelta(text) if text:
                return [self._chunk([ChunkChoice(delta=Delta(content=text))])]
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
