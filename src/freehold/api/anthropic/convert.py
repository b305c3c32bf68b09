"""Between Anthropic's words and ours. Pure."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from freehold.api.anthropic import schema
from freehold.api.anthropic.schema import (
    AnsweredMessage,
    ContentBlock,
    ContentBlockDelta,
    ContentBlockStart,
    ContentBlockStop,
    ErrorEvent,
    ErrorReason,
    InputJsonDelta,
    MessageDelta,
    MessageRequest,
    MessageStart,
    MessageStop,
    MessageUsage,
    OutputTokensDetails,
    SignatureDelta,
    StopDelta,
    StreamEvent,
    TextBlock,
    TextDelta,
    ThinkingBlock,
    ThinkingDelta,
    TokenCountRequest,
    ToolUseBlock,
)
from freehold.api.bounds import given
from freehold.api.problem import Problem
from freehold.domain import answers
from freehold.domain.chat import (
    ChatRequest,
    Conversation,
    Message,
    ReasoningWish,
    Role,
    Tool,
    ToolCall,
    ToolChoice,
    ToolUse,
)
from freehold.domain.errors import EngineError, InvalidRequest
from freehold.domain.sampling import Constraint, Grammar, Sampling

# Blocks of text that somebody wrote are pieces of their own; the model's own are one text.
_BETWEEN_BLOCKS = "\n\n"
_FAILED = "Error: "
_SIGNATURE = "unsigned"

_REASONS: Mapping[answers.EndReason, schema.StopReason] = {
    answers.EndReason.STOP: "end_turn",
    answers.EndReason.STOP_STRING: "stop_sequence",
    answers.EndReason.LENGTH: "max_tokens",
    answers.EndReason.TOOL_CALLS: "tool_use",
}
_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    413: "request_too_large",
    415: "invalid_request_error",
    429: "rate_limit_error",
}
# Anthropic's words for fields that strata below this one refuse.
_FIELDS = {
    "reasoning": "thinking",
    "reasoning_effort": "output_config.effort",
    "response_format": "output_config.format",
    "stop": "stop_sequences",
}

_Turn = tuple[str, Sequence[schema.BlockInput]]


def chat_request(body: MessageRequest, *, cache_scope: str, deadline: float) -> ChatRequest:
    """Raises `InvalidRequest` where fields contradict each other."""
    thinking = body.thinking
    if isinstance(thinking, schema.ThinkingEnabled) and thinking.budget_tokens >= body.max_tokens:
        raise InvalidRequest(
            "It must be less than max_tokens, which counts thinking too.",
            field="thinking.budget_tokens",
        )
    return ChatRequest(
        model=body.model,
        conversation=_conversation(body),
        sampling=_sampling(body),
        max_tokens=body.max_tokens,
        cache_scope=cache_scope,
        deadline=deadline,
        constraint=_constraint(body),
        tool_choice=_tool_choice(body),
    )


def count_request(body: TokenCountRequest, *, deadline: float) -> ChatRequest:
    """For its prompt alone. Raises as `chat_request`."""
    return ChatRequest(
        model=body.model,
        conversation=_conversation(body),
        deadline=deadline,
        tool_choice=_tool_choice(body),
    )


def _conversation(body: TokenCountRequest) -> Conversation:
    messages = _messages(body)
    continues = messages[-1].role is Role.ASSISTANT
    if continues:
        _require_unfinished(messages[-1], body)
    return Conversation(
        messages=messages,
        tools=tuple(_tool(each) for each in body.tools or ()),
        reasoning=_reasoning(body),
        continues=continues,
    )


def _require_unfinished(last: Message, body: TokenCountRequest) -> None:
    """Raise `InvalidRequest` if the answer that the caller has begun cannot be gone on with."""
    if last.tool_calls:
        raise InvalidRequest(
            "The last turn calls a tool: its tool_result is missing.", field="messages"
        )
    if isinstance(body.thinking, schema.ThinkingEnabled):
        raise InvalidRequest(
            "The last message begins the answer, and thinking comes before an answer.",
            field="thinking",
        )
    if body.output_config is not None and body.output_config.format is not None:
        raise InvalidRequest(
            "The last message begins the answer; only a whole answer can be held to a schema.",
            field="output_config.format",
        )


def _messages(body: TokenCountRequest) -> tuple[Message, ...]:
    turns: list[_Turn] = [] if body.system is None else [("system", body.system)]
    turns += [(message.role, message.content) for message in body.messages]
    names = {
        block.id: block.name
        for _, blocks in turns
        for block in blocks
        if isinstance(block, schema.ToolUseInput)
    }
    found: list[Message] = []
    for role, same in itertools.groupby(turns, key=lambda turn: turn[0]):
        blocks = [block for _, content in same for block in content]
        match role:
            case "system":
                found.append(Message(Role.SYSTEM, _joined(blocks, _BETWEEN_BLOCKS)))
            case "assistant":
                found.append(_assistant(blocks))
            case _:
                found += _user(blocks, names)
    return tuple(found)


def _user(blocks: Sequence[schema.BlockInput], names: Mapping[str, str]) -> list[Message]:
    """``names``: of the tools that were called, by the calls' ids."""
    found = [
        Message(
            Role.TOOL,
            f"{_FAILED if block.is_error else ''}{_joined(block.content or (), _BETWEEN_BLOCKS)}",
            tool_call_id=block.tool_use_id,
            tool_name=names.get(block.tool_use_id),
        )
        for block in blocks
        if isinstance(block, schema.ToolResultInput)
    ]
    if len(found) < len(blocks):
        found.append(Message(Role.USER, _joined(blocks, _BETWEEN_BLOCKS)))
    return found


def _assistant(blocks: Sequence[schema.BlockInput]) -> Message:
    thoughts = [block.thinking for block in blocks if isinstance(block, schema.ThinkingInput)]
    return Message(
        Role.ASSISTANT,
        _joined(blocks, ""),
        reasoning="".join(thoughts) or None,
        tool_calls=tuple(
            ToolCall(block.id, block.name, json.dumps(block.input, ensure_ascii=False))
            for block in blocks
            if isinstance(block, schema.ToolUseInput)
        ),
    )


def _joined(blocks: Iterable[schema.BlockInput], between: str) -> str:
    return between.join(block.text for block in blocks if isinstance(block, schema.TextInput))


def _tool(given: schema.ToolInput) -> Tool:
    return Tool(given.name, given.description or "", json.dumps(given.input_schema))


def _tool_choice(body: TokenCountRequest) -> ToolChoice:
    match body.tool_choice:
        case schema.OneTool(name=name, disable_parallel_tool_use=single):
            return ToolChoice(ToolUse.REQUIRED, name, parallel=not single)
        case schema.ToolMode(type=mode, disable_parallel_tool_use=single):
            use = ToolUse.REQUIRED if mode == "any" else ToolUse.AUTO
            return ToolChoice(use, parallel=not single)
        case schema.NoTool():
            return ToolChoice(ToolUse.NONE)
        case None:
            return ToolChoice()


def _reasoning(body: TokenCountRequest) -> ReasoningWish:
    effort = body.output_config.effort if body.output_config is not None else None
    match body.thinking:
        case schema.ThinkingEnabled(budget_tokens=budget):
            return ReasoningWish(enabled=True, effort=effort, budget=budget)
        case schema.ThinkingDisabled():
            return ReasoningWish(enabled=False, effort=effort)
        case _:
            return ReasoningWish(effort=effort)


def _constraint(body: TokenCountRequest) -> Constraint | None:
    if body.output_config is None or body.output_config.format is None:
        return None
    return Constraint(Grammar.JSON_SCHEMA, json.dumps(body.output_config.format.schema_))


def _sampling(body: MessageRequest) -> Sampling:
    """What the body says; what it leaves out keeps our default."""
    default = Sampling()
    return Sampling(
        temperature=given(body.temperature, default.temperature),
        top_p=given(body.top_p, default.top_p),
        top_k=given(body.top_k, default.top_k),
        seed=body.seed,
        stop=tuple(body.stop_sequences or ()),
    )


def message(identity: str, model: str, parts: Sequence[answers.Part]) -> AnsweredMessage:
    """The whole answer at once, of all its parts."""
    ended = parts[-1]
    assert isinstance(ended, answers.Ended)
    # Not of a `WholeAnswer`: the order of its blocks would be lost.
    kept = [part for part in parts if _place(part) is not None]
    return AnsweredMessage(
        id=identity,
        model=model,
        content=[_block(list(same)) for _, same in itertools.groupby(kept, key=_place)],
        stop_reason=_REASONS[ended.reason],
        stop_sequence=ended.stop,
        usage=_usage(ended.usage),
    )


def _place(part: answers.Part) -> str | int | None:
    """Parts of one block, and no others beside them, have the same place; None: of no block."""
    match part:
        case answers.ReasoningDelta():
            return "thinking"
        case answers.ContentDelta(text):
            return "text" if text else None
        case answers.ToolCallBegun(number) | answers.ToolCallDelta(number):
            return number
        case _:
            return None


def _block(parts: Sequence[answers.Part]) -> ContentBlock:
    text = "".join(_text(part) for part in parts)
    match parts[0]:
        case answers.ReasoningDelta():
            return ThinkingBlock(thinking=text, signature=_SIGNATURE)
        case answers.ToolCallBegun(_, identity, name):
            return ToolUseBlock(id=_call_id(identity), name=name, input=_object(text))
        case _:
            return TextBlock(text=text)


def _text(part: answers.Part) -> str:
    match part:
        case answers.ReasoningDelta(text) | answers.ContentDelta(text):
            return text
        case answers.ToolCallDelta(_, arguments):
            return arguments
        case _:
            return ""


def _call_id(identity: str) -> str:
    """With the beginning that Anthropic's ids have: there are clients that look at it."""
    return f"toolu_{identity.removeprefix('call_')}"


def _object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise EngineError("The model called a tool with something that is no JSON object.")
    return found


def _usage(counted: answers.AnswerUsage) -> MessageUsage:
    return MessageUsage(
        input_tokens=counted.prompt_tokens - counted.cached_tokens,
        cache_read_input_tokens=counted.cached_tokens,
        output_tokens=counted.completion_tokens,
        output_tokens_details=OutputTokensDetails(thinking_tokens=counted.reasoning_tokens),
    )


class Events:
    """The parts of one answer as Anthropic's events."""

    def __init__(self, identity: str, model: str) -> None:
        self._identity = identity
        self._model = model
        self._index = 0  # of the block that is open, or comes next
        self._open: str | int | None = None

    def of(self, part: answers.Part) -> list[StreamEvent]:
        """What one part is to the client."""
        match part:
            case answers.Begun():
                return [self._start(part)]
            case answers.Ended():
                delta = StopDelta(stop_reason=_REASONS[part.reason], stop_sequence=part.stop)
                last = MessageDelta(delta=delta, usage=_usage(part.usage))
                return [*self._close(), last, MessageStop()]
            case _:
                return [] if _place(part) is None else [*self._enter(part), *self._more(part)]

    def _start(self, begun: answers.Begun) -> MessageStart:
        counted = answers.AnswerUsage(begun.prompt_tokens, begun.cached_tokens, 0)
        return MessageStart(
            message=AnsweredMessage(
                id=self._identity,
                model=self._model,
                content=[],
                stop_reason=None,
                stop_sequence=None,
                usage=_usage(counted),
            )
        )

    def _enter(self, part: answers.Part) -> list[StreamEvent]:
        place = _place(part)
        if place == self._open:
            return []
        closed = self._close()
        self._open = place
        return [*closed, ContentBlockStart(index=self._index, content_block=_empty_block(part))]

    def _close(self) -> list[StreamEvent]:
        if self._open is None:
            return []
        closed: list[StreamEvent] = []
        if self._open == "thinking":
            closed.append(self._delta(SignatureDelta(signature=_SIGNATURE)))
        closed.append(ContentBlockStop(index=self._index))
        self._open = None
        self._index += 1
        return closed

    def _more(self, part: answers.Part) -> list[StreamEvent]:
        match part:
            case answers.ReasoningDelta(text):
                return [self._delta(ThinkingDelta(thinking=text))]
            case answers.ContentDelta(text):
                return [self._delta(TextDelta(text=text))]
            case answers.ToolCallDelta(_, arguments):
                return [self._delta(InputJsonDelta(partial_json=arguments))]
            case _:
                return []

    def _delta(self, delta: schema.BlockDelta) -> ContentBlockDelta:
        return ContentBlockDelta(index=self._index, delta=delta)


def _empty_block(first: answers.Part) -> ContentBlock:
    """The block that begins with ``first``, before anything is in it."""
    match first:
        case answers.ReasoningDelta():
            return ThinkingBlock(thinking="", signature="")
        case answers.ToolCallBegun(_, identity, name):
            return ToolUseBlock(id=_call_id(identity), name=name, input={})
        case _:
            return TextBlock(text="")


def error_body(problem: Problem) -> ErrorEvent:
    """The shape has no place for a field: it is named in the message."""
    text = problem.message
    if problem.code == InvalidRequest.code and problem.field is not None:
        text = f"{_FIELDS.get(problem.field, problem.field)}: {text}"
    kind = _TYPES.get(problem.status)
    if kind is None:
        kind = "overloaded_error" if problem.retry_after is not None else "api_error"
    return ErrorEvent(error=ErrorReason(type=kind, message=text))
