"""Between OpenAI's words and ours. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from freehold.api.openai import schema
from freehold.api.openai.schema import (
    AssistantMessage,
    ChatCompletion,
    ChatCompletionChunk,
    ChatCompletionRequest,
    Choice,
    ChoiceLogprobs,
    ChunkChoice,
    CompletionTokensDetails,
    Delta,
    ErrorDetails,
    ErrorResponse,
    FunctionCall,
    FunctionCallDelta,
    JsonObjectFormat,
    JsonSchemaFormat,
    LarkFormat,
    PromptTokensDetails,
    RegexFormat,
    TokenLogprob,
    ToolCall,
    ToolCallDelta,
    TopLogprob,
    Usage,
)
from freehold.api.problem import Problem
from freehold.domain import answers, events
from freehold.domain import chat as domain
from freehold.domain.chat import ChatRequest, Conversation, Message, Role
from freehold.domain.errors import InvalidRequest
from freehold.domain.sampling import Constraint, Grammar, Sampling

T = TypeVar("T")

# What stands for minus infinity, which JSON cannot say; OpenAI's API uses the same number.
_LEAST_LOGPROB = -9999.0

_REASONS: Mapping[answers.EndReason, schema.FinishReason] = {
    answers.EndReason.STOP: "stop",
    answers.EndReason.STOP_STRING: "stop",
    answers.EndReason.LENGTH: "length",
    answers.EndReason.TOOL_CALLS: "tool_calls",
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
        conversation=Conversation(
            messages=_messages(body.messages),
            tools=tuple(_tool(tool.function) for tool in body.tools or ()),
            reasoning=_reasoning(body),
        ),
        sampling=_sampling(body),
        max_tokens=body.max_completion_tokens or body.max_tokens,
        cache_scope=cache_scope,
        deadline=deadline,
        constraint=_constraint(body),
        top_logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        tool_choice=_tool_choice(body),
        answers=body.n or 1,
    )


def _messages(given: Sequence[schema.ChatMessage]) -> tuple[Message, ...]:
    names = {
        call.id: call.function.name
        for message in given
        if isinstance(message, schema.AssistantTurn)
        for call in message.tool_calls or ()
    }
    return tuple(_message(message, names) for message in given)


def _message(given: schema.ChatMessage, names: Mapping[str, str]) -> Message:
    """``names``: of the tools that were called, by the calls' ids."""
    match given:
        case schema.InstructionMessage():
            return Message(Role.SYSTEM, _text(given.content))
        case schema.UserMessage():
            return Message(Role.USER, _text(given.content))
        case schema.AssistantTurn():
            calls = tuple(
                domain.ToolCall(call.id, call.function.name, call.function.arguments)
                for call in given.tool_calls or ()
            )
            return Message(
                Role.ASSISTANT,
                _text(given.content or ()),
                reasoning=given.reasoning_content,
                tool_calls=calls,
            )
        case schema.ToolMessage():
            return Message(
                Role.TOOL,
                _text(given.content),
                tool_call_id=given.tool_call_id,
                tool_name=given.name or names.get(given.tool_call_id),
            )


def _text(parts: Iterable[schema.TextPart]) -> str:
    return "".join(part.text for part in parts)


def _tool(given: schema.FunctionDefinition) -> domain.Tool:
    parameters = given.parameters or {"type": "object", "properties": {}}
    return domain.Tool(given.name, given.description or "", json.dumps(parameters))


def _tool_choice(body: ChatCompletionRequest) -> domain.ToolChoice:
    parallel = body.parallel_tool_calls is not False
    match body.tool_choice:
        case schema.NamedTool(function=named):
            return domain.ToolChoice(domain.ToolUse.REQUIRED, named.name, parallel)
        case schema.ToolMode(type=mode):
            return domain.ToolChoice(domain.ToolUse(mode), None, parallel)
        case _:
            return domain.ToolChoice(parallel=parallel)


def _reasoning(body: ChatCompletionRequest) -> domain.ReasoningWish:
    effort = body.reasoning_effort
    if effort == "none":
        return domain.ReasoningWish(enabled=False)
    return domain.ReasoningWish(effort=effort, budget=body.reasoning_budget)


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


def usage(counted: Sequence[answers.AnswerUsage]) -> Usage:
    """Of all answers to one request: its prompt counts once, and was cached as for the first."""
    first = counted[0]
    generated = sum(each.completion_tokens for each in counted)
    return Usage(
        prompt_tokens=first.prompt_tokens,
        completion_tokens=generated,
        total_tokens=first.prompt_tokens + generated,
        prompt_tokens_details=PromptTokensDetails(cached_tokens=first.cached_tokens),
        completion_tokens_details=CompletionTokensDetails(
            reasoning_tokens=sum(each.reasoning_tokens for each in counted)
        ),
    )


def completion(
    identity: str, created: int, model: str, whole: Sequence[answers.WholeAnswer]
) -> ChatCompletion:
    """The whole answers at once."""
    return ChatCompletion(
        id=identity,
        created=created,
        model=model,
        choices=[_choice(number, answer) for number, answer in enumerate(whole)],
        usage=usage([answer.ended.usage for answer in whole]),
    )


def _choice(number: int, answer: answers.WholeAnswer) -> Choice:
    calls = [
        ToolCall(id=call.id, function=FunctionCall(name=call.name, arguments=call.arguments))
        for call in answer.tool_calls
    ]
    return Choice(
        index=number,
        message=AssistantMessage(
            content=None if calls and not answer.content else answer.content,
            reasoning_content=answer.reasoning or None,
            tool_calls=calls or None,
        ),
        finish_reason=_REASONS[answer.ended.reason],
        logprobs=logprobs(answer.logprobs),
    )


class Chunks:
    """The parts of the answers to one request as OpenAI's chunks, ready to be sent."""

    def __init__(self, identity: str, created: int, model: str, *, include_usage: bool) -> None:
        self._identity = identity
        self._created = created
        self._model = model
        self._include_usage = include_usage
        self._counted: list[answers.AnswerUsage] = []

    def of(self, number: int, part: answers.Part) -> list[str]:
        """What one part is to the client: nothing, or a chunk."""
        match part:
            case answers.Begun():
                return [self._delta(number, Delta(role="assistant", content=""))]
            case answers.ContentDelta(text, found):
                choice = ChunkChoice(
                    index=number, delta=Delta(content=text), logprobs=logprobs(found)
                )
                return [self._chunk([choice])]
            case answers.ReasoningDelta(text):
                return [self._delta(number, Delta(reasoning_content=text))]
            case answers.ToolCallBegun(call, identity, name):
                begun = ToolCallDelta(
                    index=call,
                    id=identity,
                    type="function",
                    function=FunctionCallDelta(name=name, arguments=""),
                )
                return [self._delta(number, Delta(tool_calls=[begun]))]
            case answers.ToolCallDelta(call, arguments):
                more = ToolCallDelta(index=call, function=FunctionCallDelta(arguments=arguments))
                return [self._delta(number, Delta(tool_calls=[more]))]
            case answers.Ended(reason, counted):
                self._counted.append(counted)
                last = ChunkChoice(index=number, delta=Delta(), finish_reason=_REASONS[reason])
                return [self._chunk([last])]

    def last(self) -> list[str]:
        """When all answers have ended: the usage of all, if it was asked for."""
        return [self._chunk([], usage(self._counted))] if self._include_usage else []

    def _delta(self, number: int, delta: Delta) -> str:
        return self._chunk([ChunkChoice(index=number, delta=delta)])

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
