"""Between OpenAI's words for responses and ours. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from freehold.api.openai import convert
from freehold.api.openai.common import JsonObjectFormat, ToolMode
from freehold.api.openai.responses_schema import (
    LOGPROBS,
    AnsweredText,
    CallItem,
    CallOutput,
    CallResultItem,
    InputText,
    Item,
    MessageItem,
    MessageOutput,
    NamedTool,
    Output,
    ReasoningOutput,
    ResponseObject,
    ResponsesRequest,
    SchemaFormat,
    ThoughtItem,
)
from freehold.domain.chat import (
    ChatRequest,
    Conversation,
    Message,
    Role,
    ToolCall,
    ToolChoice,
)
from freehold.domain.errors import InvalidRequest
from freehold.domain.sampling import Constraint

# Fields as deeper layers name them, in this route's words.
_OWN_WORDS = {
    "messages": "input",
    "response_format": "text.format",
    "reasoning": "reasoning_budget",
    "reasoning_effort": "reasoning.effort",
    "logprobs": "include",
}
_ROLES: Mapping[str, Role] = {
    "system": Role.SYSTEM,
    "developer": Role.SYSTEM,
    "user": Role.USER,
    "assistant": Role.ASSISTANT,
}


def said(body: ResponsesRequest, before: Sequence[Message]) -> tuple[Message, ...]:
    """The conversation, from ``before`` to this request's input, without its instructions."""
    turns = _Turns(before)
    for item in body.input:
        turns.take(item)
    return turns.messages()


def remembered(said_before: Sequence[Message], output: Iterable[Output]) -> tuple[Message, ...]:
    """The conversation with an answer behind it."""
    turns = _Turns(said_before)
    for item in output:
        turns.answer(item)
    return turns.messages()


def chat_request(
    body: ResponsesRequest, messages: tuple[Message, ...], *, cache_scope: str, deadline: float
) -> ChatRequest:
    """``messages`` as `said` gives them. Raises `InvalidRequest` where fields contradict."""
    _require_sense(body)
    instructions = (Message(Role.SYSTEM, body.instructions),) if body.instructions else ()
    return ChatRequest(
        model=body.model,
        conversation=Conversation(
            messages=(*instructions, *messages),
            tools=tuple(
                convert.tool(tool.name, tool.description, tool.parameters)
                for tool in body.tools or ()
            ),
            reasoning=convert.reasoning_wish(
                body.reasoning.effort if body.reasoning else None, body.reasoning_budget
            ),
        ),
        sampling=convert.sampling(body),
        max_tokens=body.max_output_tokens,
        cache_scope=cache_scope,
        deadline=deadline,
        constraint=_constraint(body),
        top_logprobs=(body.top_logprobs or 0) if _wants_logprobs(body) else None,
        tool_choice=_tool_choice(body),
    )


def _require_sense(body: ResponsesRequest) -> None:
    if body.top_logprobs and not _wants_logprobs(body):
        raise InvalidRequest(
            f"top_logprobs has a meaning only with {LOGPROBS!r} in include.", field="top_logprobs"
        )
    if body.stream_options is not None and not body.stream:
        raise InvalidRequest(
            "stream_options has a meaning only with stream: true.", field="stream_options"
        )


def _wants_logprobs(body: ResponsesRequest) -> bool:
    return LOGPROBS in (body.include or ())


def _constraint(body: ResponsesRequest) -> Constraint | None:
    match body.text.format if body.text else None:
        case JsonObjectFormat():
            return convert.by_schema({"type": "object"})
        case SchemaFormat(schema_=wanted):
            return convert.by_schema(wanted)
        case _:
            return None


def _tool_choice(body: ResponsesRequest) -> ToolChoice:
    chosen = body.tool_choice
    return convert.chosen_tool(
        chosen.type if isinstance(chosen, ToolMode) else None,
        chosen.name if isinstance(chosen, NamedTool) else None,
        body.parallel_tool_calls,
    )


def blank(identity: str, created: int, model: str, body: ResponsesRequest) -> ResponseObject:
    """The response before its first word: what it answers to, and how."""
    sampling = convert.sampling(body)
    chosen = body.tool_choice
    written = body.text.format if body.text and body.text.format else None
    return ResponseObject(
        id=identity,
        created_at=created,
        instructions=body.instructions,
        max_output_tokens=body.max_output_tokens,
        metadata=body.metadata or {},
        model=model,
        parallel_tool_calls=body.parallel_tool_calls is not False,
        previous_response_id=body.previous_response_id,
        reasoning={"effort": body.reasoning.effort if body.reasoning else None, "summary": None},
        store=keeps(body),
        temperature=sampling.temperature,
        text={"format": written.model_dump(by_alias=True) if written else {"type": "text"}},
        tool_choice=(
            chosen.model_dump()
            if isinstance(chosen, NamedTool)
            else (chosen.type if chosen is not None else "auto")
        ),
        tools=[tool.model_dump() for tool in body.tools or ()],
        top_logprobs=body.top_logprobs or 0,
        top_p=sampling.top_p,
        user=body.user,
    )


def keeps(body: ResponsesRequest) -> bool:
    """Whether the response is to be stored."""
    return body.store is not False


def in_own_words(error: InvalidRequest) -> InvalidRequest:
    """The same complaint with the field as this route names it."""
    field = _OWN_WORDS.get(error.field or "", error.field)
    return InvalidRequest(error.message, field=field, hint=error.hint)


@dataclass
class _Turn:
    """An assistant's turn. Chat templates want in one what items say one after another."""

    reasoning: str | None = None
    content: str | None = None
    calls: tuple[ToolCall, ...] = ()

    def message(self) -> Message:
        return Message(
            Role.ASSISTANT,
            self.content or "",
            reasoning=self.reasoning,
            tool_calls=self.calls,
        )


class _Turns:
    """Items, one after another, as turns."""

    def __init__(self, before: Sequence[Message]) -> None:
        self._messages = list(before)
        self._turn: _Turn | None = None
        self._names = {call.id: call.name for message in before for call in message.tool_calls}

    def messages(self) -> tuple[Message, ...]:
        self._flush()
        return tuple(self._messages)

    def take(self, item: Item) -> None:
        """An item of a request."""
        match item:
            case MessageItem(role="assistant"):
                self._say(_text(item.content))
            case MessageItem():
                self._add(Message(_ROLES[item.role], _text(item.content)))
            case ThoughtItem():
                self._think("".join(part.text for part in item.content or ()))
            case CallItem():
                self._call(ToolCall(item.call_id, item.name, item.arguments))
            case CallResultItem():
                name = self._names.get(item.call_id)
                content = _text(item.output)
                self._add(Message(Role.TOOL, content, tool_call_id=item.call_id, tool_name=name))

    def answer(self, item: Output) -> None:
        """An item of a response."""
        match item:
            case MessageOutput():
                self._say("".join(part.text for part in item.content))
            case ReasoningOutput():
                self._think("".join(part.text for part in item.content))
            case CallOutput():
                self._call(ToolCall(item.call_id, item.name, item.arguments))

    def _think(self, text: str) -> None:
        if self._turn is not None and (self._turn.content is not None or self._turn.calls):
            self._flush()
        turn = self._going()
        turn.reasoning = (turn.reasoning or "") + text

    def _say(self, text: str) -> None:
        if self._turn is not None and (self._turn.content is not None or self._turn.calls):
            self._flush()
        self._going().content = text

    def _call(self, call: ToolCall) -> None:
        self._names[call.id] = call.name
        turn = self._going()
        turn.calls = (*turn.calls, call)

    def _add(self, message: Message) -> None:
        self._flush()
        self._messages.append(message)

    def _going(self) -> _Turn:
        if self._turn is None:
            self._turn = _Turn()
        return self._turn

    def _flush(self) -> None:
        if self._turn is not None:
            self._messages.append(self._turn.message())
            self._turn = None


def _text(parts: Iterable[InputText | AnsweredText]) -> str:
    return "".join(part.text for part in parts)
