"""OpenAI's responses as this server speaks them. Unknown fields are refused by name.

Fields that ask nothing of a local server are accepted without effect: they are
marked so. Fields of features that are not here are accepted only with the value that
means "not used".
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field

from freehold.api.bounds import JsonObject, writable
from freehold.api.openai.common import (
    MAX_MESSAGES,
    MAX_TOKENS,
    MAX_TOOLS,
    WITHOUT_EFFECT,
    Budget,
    CallId,
    Effort,
    FieldsWithoutEffect,
    JsonObjectFormat,
    ModelName,
    Request,
    SamplingFields,
    SchemaName,
    Text,
    TextFormat,
    ToolMode,
    ToolName,
    mode_as_object,
)
from freehold.api.openai.schema import Timings, TokenLogprob

LOGPROBS = "message.output_text.logprobs"
MAX_ID = 128
_MAX_PARTS = 1024

Status = Literal["in_progress", "completed", "incomplete"]
_Id = Annotated[str, Field(min_length=1, max_length=MAX_ID)]


# What goes in


class InputText(Request):
    type: Literal["input_text"]
    text: Text


class AnsweredText(Request):
    """An answer's text, sent back."""

    type: Literal["output_text"]
    text: Text
    annotations: list[Any] | None = Field(default=None, description=WITHOUT_EFFECT)
    logprobs: list[Any] | None = Field(default=None, description=WITHOUT_EFFECT)


def _text_as_part(value: Any) -> Any:
    if isinstance(value, str):  # complaints are about the field as it was sent
        return [{"type": "input_text", "text": writable(value)}]
    return value


_Part = Annotated[InputText | AnsweredText, Field(discriminator="type")]
_Content = Annotated[
    list[_Part],
    Field(max_length=_MAX_PARTS),
    BeforeValidator(_text_as_part, json_schema_input_type=str | list[_Part]),
]


class _Item(Request):
    id: _Id | None = Field(default=None, description=WITHOUT_EFFECT)
    status: Status | None = Field(default=None, description=WITHOUT_EFFECT)


class MessageItem(_Item):
    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: _Content
    phase: Literal["commentary", "final_answer"] | None = Field(
        default=None, description=WITHOUT_EFFECT
    )


class CallItem(_Item):
    """A call that was made. ``arguments`` is JSON, as text."""

    type: Literal["function_call"]
    call_id: CallId
    name: ToolName
    arguments: Text


class CallResultItem(_Item):
    """What a call has returned."""

    type: Literal["function_call_output"]
    call_id: CallId
    output: _Content


class ThoughtPart(Request):
    type: Literal["reasoning_text"]
    text: Text


class SummaryPart(Request):
    type: Literal["summary_text"]
    text: Text


class ThoughtItem(_Item):
    """What an assistant thought before it answered or called, for templates that want to see it.

    ``encrypted_content`` is another server's secret and of no use here.
    """

    type: Literal["reasoning"]
    summary: Annotated[list[SummaryPart], Field(max_length=_MAX_PARTS)] | None = Field(
        default=None, description=WITHOUT_EFFECT
    )
    content: Annotated[list[ThoughtPart], Field(max_length=_MAX_PARTS)] | None = None
    encrypted_content: None = None


def _message_by_default(value: Any) -> Any:
    return {"type": "message", **value} if isinstance(value, dict) else value


Item = Annotated[
    Annotated[MessageItem | CallItem | CallResultItem | ThoughtItem, Field(discriminator="type")],
    BeforeValidator(_message_by_default),
]


def _text_as_message(value: Any) -> Any:
    return [{"role": "user", "content": writable(value)}] if isinstance(value, str) else value


def _only_functions(value: Any) -> Any:
    if isinstance(value, str) and value != "function":
        raise ValueError(f"this server runs no tools, {value!r} neither; a tool is a 'function'")
    return value


class ResponseTool(Request):
    """``strict`` makes no difference here: calls that are enforced always fit."""

    type: Annotated[Literal["function"], BeforeValidator(_only_functions)]
    name: ToolName
    description: Text | None = None
    parameters: JsonObject | None = None
    strict: bool | None = None


class NamedTool(Request):
    """This one must be called."""

    type: Literal["function"]
    name: ToolName


ToolChoice = Annotated[
    Annotated[ToolMode | NamedTool, Field(discriminator="type")],
    BeforeValidator(
        mode_as_object, json_schema_input_type=Literal["auto", "none", "required"] | NamedTool
    ),
]


class SchemaFormat(Request):
    """``strict`` makes no difference here: the schema is always kept to."""

    type: Literal["json_schema"]
    name: SchemaName
    schema_: JsonObject = Field(alias="schema")
    description: Text | None = Field(default=None, description=WITHOUT_EFFECT)
    strict: bool | None = None


class TextConfig(Request):
    format: (
        Annotated[TextFormat | JsonObjectFormat | SchemaFormat, Field(discriminator="type")] | None
    ) = None
    verbosity: Literal["medium"] | None = None


class ReasoningConfig(Request):
    """``effort`` "none" switches reasoning off; other levels are for models that know them.

    No summaries are made: the reasoning itself is part of the output.
    """

    effort: Effort | None = None
    summary: Literal["auto", "concise", "detailed"] | None = Field(
        default=None, description=WITHOUT_EFFECT
    )
    generate_summary: Literal["auto", "concise", "detailed"] | None = Field(
        default=None, description=WITHOUT_EFFECT
    )


class ResponseStreamOptions(Request):
    include_obfuscation: bool | None = Field(default=None, description=WITHOUT_EFFECT)


_Key = Annotated[str, Field(max_length=64)]
_Value = Annotated[str, Field(max_length=512)]


class ResponsesRequest(SamplingFields, FieldsWithoutEffect):
    """Of the sampling fields OpenAI has ``temperature`` and ``top_p`` alone."""

    model: ModelName
    input: Annotated[
        list[Item],
        Field(min_length=1, max_length=MAX_MESSAGES),
        BeforeValidator(_text_as_message, json_schema_input_type=str | list[Item]),
    ]
    instructions: Text | None = Field(
        default=None, description="For this response; they do not pass on to those that follow it."
    )
    previous_response_id: _Id | None = None
    store: bool | None = Field(
        default=None, description="Kept in memory unless false, until newer ones need the room."
    )
    max_output_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS)] | None = None
    text: TextConfig | None = None
    tools: Annotated[list[ResponseTool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    reasoning: ReasoningConfig | None = None
    reasoning_budget: Budget | None = Field(
        default=None, description="Not OpenAI's: tokens of reasoning, at most."
    )
    include: (
        Annotated[
            list[Literal["message.output_text.logprobs", "reasoning.encrypted_content"]],
            Field(max_length=8),
        ]
        | None
    ) = Field(default=None, description="Reasoning is never encrypted: it comes as it is.")
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    stream: bool | None = None
    stream_options: ResponseStreamOptions | None = None
    metadata: Annotated[dict[_Key, _Value], Field(max_length=16)] | None = None

    background: Literal[False] | None = None
    conversation: None = None
    prompt: None = None
    truncation: Literal["disabled"] | None = None
    prompt_cache_retention: Literal["in_memory", "24h"] | None = Field(
        default=None, description=WITHOUT_EFFECT
    )


# What comes out


class OutputText(BaseModel):
    """``logprobs`` where asked for: of all tokens the text took, reasoning and calls included."""

    type: Literal["output_text"] = "output_text"
    text: str
    annotations: list[Any] = []
    logprobs: list[TokenLogprob] = []


class ReasoningText(BaseModel):
    type: Literal["reasoning_text"] = "reasoning_text"
    text: str


class MessageOutput(BaseModel):
    id: str
    type: Literal["message"] = "message"
    status: Status
    role: Literal["assistant"] = "assistant"
    content: list[OutputText]


class ReasoningOutput(BaseModel):
    id: str
    type: Literal["reasoning"] = "reasoning"
    status: Status
    summary: list[Any] = []
    content: list[ReasoningText]


class CallOutput(BaseModel):
    id: str
    type: Literal["function_call"] = "function_call"
    status: Status
    call_id: str
    name: str
    arguments: str


Output = ReasoningOutput | MessageOutput | CallOutput


class InputTokensDetails(BaseModel):
    """``cache_write_tokens``: what was computed and is now in the cache."""

    cached_tokens: int
    cache_write_tokens: int


class OutputTokensDetails(BaseModel):
    reasoning_tokens: int


class ResponseUsage(BaseModel):
    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class Failure(BaseModel):
    """Why a response failed that had begun."""

    code: Literal["server_error", "invalid_prompt"]
    message: str
    param: str | None = None
    type: str | None = None


class IncompleteDetails(BaseModel):
    reason: Literal["max_output_tokens"]


def _is_none(value: Any) -> bool:
    return value is None


class ResponseObject(BaseModel):
    """One response, and what was asked for."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    status: Literal["in_progress", "completed", "incomplete", "failed"] = "in_progress"
    background: Literal[False] = False
    error: Failure | None = None
    incomplete_details: IncompleteDetails | None = None
    instructions: str | None
    max_output_tokens: int | None
    metadata: dict[str, str]
    model: str
    output: list[Output] = []
    parallel_tool_calls: bool
    previous_response_id: str | None
    reasoning: dict[str, Any]
    store: bool
    temperature: float
    text: dict[str, Any]
    tool_choice: str | dict[str, Any]
    tools: list[dict[str, Any]]
    top_logprobs: int
    top_p: float
    truncation: Literal["disabled"] = "disabled"
    usage: ResponseUsage | None = None
    user: str | None
    timings: Timings | None = Field(
        default=None, exclude_if=_is_none, description="When it has ended."
    )


class DeletedResponse(BaseModel):
    id: str
    object: Literal["response"] = "response"
    deleted: Literal[True] = True
