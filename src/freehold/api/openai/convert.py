"""Between OpenAI's words and ours. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from freehold.api.bounds import given
from freehold.api.openai import schema
from freehold.api.openai.common import JsonObjectFormat, SamplingFields, ToolMode
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
            messages=messages(body.messages),
            tools=tools(body.tools or ()),
            reasoning=reasoning_wish(body.reasoning_effort, body.reasoning_budget),
        ),
        sampling=sampling(body),
        max_tokens=body.max_completion_tokens or body.max_tokens,
        cache_scope=cache_scope,
        deadline=deadline,
        constraint=_constraint(body),
        top_logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        tool_choice=tool_choice(body.tool_choice, body.parallel_tool_calls),
        answers=body.n or 1,
    )


def messages(given: Sequence[schema.ChatMessage]) -> tuple[Message, ...]:
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


def tools(given: Iterable[schema.FunctionTool]) -> tuple[domain.Tool, ...]:
    return tuple(
        tool(each.function.name, each.function.description, each.function.parameters)
        for each in given
    )


def tool(name: str, description: str | None, parameters: dict[str, Any] | None) -> domain.Tool:
    wanted = parameters or {"type": "object", "properties": {}}
    return domain.Tool(name, description or "", json.dumps(wanted))


def tool_choice(
    given: schema.NamedTool | ToolMode | None, parallel_calls: bool | None
) -> domain.ToolChoice:
    named = given.function.name if isinstance(given, schema.NamedTool) else None
    mode = given.type if isinstance(given, ToolMode) else None
    return chosen_tool(mode, named, parallel_calls)


def chosen_tool(
    mode: str | None, named: str | None, parallel_calls: bool | None
) -> domain.ToolChoice:
    """A tool that is ``named`` must be called; ``mode`` is for when none is."""
    use = domain.ToolUse.REQUIRED if named is not None else domain.ToolUse(mode or "auto")
    return domain.ToolChoice(use, named, parallel_calls is not False)


def reasoning_wish(effort: str | None, budget: int | None) -> domain.ReasoningWish:
    if effort == "none":
        return domain.ReasoningWish(enabled=False)
    return domain.ReasoningWish(effort=effort, budget=budget)


def sampling(body: SamplingFields) -> Sampling:
    """What the body says; what it leaves out keeps our default."""
    default = Sampling()
    return Sampling(
        temperature=given(body.temperature, default.temperature),
        top_p=given(body.top_p, default.top_p),
        top_k=given(body.top_k, default.top_k),
        min_p=given(body.min_p, default.min_p),
        typical_p=given(body.typical_p, default.typical_p),
        repetition_penalty=given(body.repetition_penalty, default.repetition_penalty),
        presence_penalty=given(body.presence_penalty, default.presence_penalty),
        frequency_penalty=given(body.frequency_penalty, default.frequency_penalty),
        logit_bias=tuple((int(token), bias) for token, bias in (body.logit_bias or {}).items()),
        seed=body.seed,
        stop=tuple(body.stop or ()),
        ignore_end=given(body.ignore_eos, default.ignore_end),
    )


def _constraint(body: ChatCompletionRequest) -> Constraint | None:
    match body.response_format:
        case JsonObjectFormat():
            return by_schema({"type": "object"})
        case JsonSchemaFormat(json_schema=named):
            return by_schema(named.schema_)
        case RegexFormat(regex=expression):
            return Constraint(Grammar.REGEX, expression)
        case LarkFormat(lark=grammar):
            return Constraint(Grammar.LARK, grammar)
        case _:
            return None


def by_schema(wanted: dict[str, Any]) -> Constraint:
    return Constraint(Grammar.JSON_SCHEMA, json.dumps(wanted))


def logprobs(found: Iterable[events.TokenLogprob]) -> ChoiceLogprobs | None:
    """None where there are none, as without being asked for."""
    content = token_logprobs(found)
    return ChoiceLogprobs(content=content) if content else None


def token_logprobs(found: Iterable[events.TokenLogprob]) -> list[TokenLogprob]:
    return [
        TokenLogprob(
            **_top(one.chosen).model_dump(), top_logprobs=[_top(other) for other in one.top]
        )
        for one in found
    ]


def _top(alternative: events.Alternative) -> TopLogprob:
    return TopLogprob(
        token=alternative.piece.decode("utf-8", "replace"),
        logprob=finite(alternative.logprob),
        bytes=list(alternative.piece),
    )


def finite(logprob: float) -> float:
    return max(logprob, _LEAST_LOGPROB)


def usage(counted: Sequence[answers.AnswerUsage], prompts: int = 1) -> Usage:
    """Of all answers to ``prompts``, as many to each: a prompt counts once, and was cached as for
    the first of its answers."""
    firsts = counted[:: len(counted) // prompts]
    read = sum(each.prompt_tokens for each in firsts)
    generated = sum(each.completion_tokens for each in counted)
    return Usage(
        prompt_tokens=read,
        completion_tokens=generated,
        total_tokens=read + generated,
        prompt_tokens_details=PromptTokensDetails(
            cached_tokens=sum(each.cached_tokens for each in firsts)
        ),
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
        timings=timings(answer.ended),
    )


def timings(ended: answers.Ended) -> schema.Timings:
    measured, first = ended.timings, ended.first_answer
    return schema.Timings(
        queued=round(measured.queued, 4),
        prefill=round(measured.prefill, 4),
        decode=round(measured.decode, 4),
        first_answer=None if first is None else round(first, 4),
    )


class Chunks:
    """The parts of the answers to one request as OpenAI's chunks, ready to be sent."""

    def __init__(self, identity: str, created: int, model: str, *, include_usage: bool) -> None:
        self._identity = identity
        self._created = created
        self._model = model
        self._include_usage = include_usage
        self._counted: dict[int, answers.AnswerUsage] = {}

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
                self._counted[number] = counted
                last = ChunkChoice(
                    index=number,
                    delta=Delta(),
                    finish_reason=_REASONS[reason],
                    timings=timings(part),
                )
                return [self._chunk([last])]

    def last(self) -> list[str]:
        """When all answers have ended: the usage of all, if it was asked for."""
        counted = [self._counted[number] for number in sorted(self._counted)]
        return [self._chunk([], usage(counted))] if self._include_usage else []

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


def in_own_words(error: InvalidRequest) -> InvalidRequest:
    """The same complaint with the field as the chat route names it."""
    field = "reasoning_budget" if error.field == "reasoning" else error.field
    return InvalidRequest(error.message, field=field, hint=error.hint, values=error.values)


def error_body(problem: Problem) -> ErrorResponse:
    return ErrorResponse(
        error=ErrorDetails(
            message=problem.message,
            type=_TYPES.get(problem.status, "server_error"),
            param=problem.field,
            code=problem.code,
            values=problem.told,
        )
    )
