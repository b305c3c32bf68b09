"""OpenAI's chat completions as this server speaks them. Unknown fields are refused by name.

Fields that ask nothing of a local server are accepted without effect: they are
marked so. Fields of features that are not here are accepted only with the value that
means "not used".
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field

from freehold.api.bounds import ErrorValues, JsonObject
from freehold.api.openai.common import (
    MAX_ANSWERS,
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
    StreamOptions,
    TextFormat,
    ToolMode,
    ToolName,
    mode_as_object,
)
from freehold.api.openai.profiles import ProfileShown


def _text_as_part(value: Any) -> Any:
    return [{"type": "text", "text": value}] if isinstance(value, str) else value


def _is_none(value: Any) -> bool:
    return value is None


class TextPart(Request):
    type: Literal["text"]
    text: str


_Text = Annotated[
    list[TextPart],
    Field(min_length=1),
    BeforeValidator(_text_as_part, json_schema_input_type=str | list[TextPart]),
]


class InstructionMessage(Request):
    """What the model is told beforehand."""

    role: Literal["system", "developer"]
    content: _Text
    name: str | None = Field(default=None, description=WITHOUT_EFFECT)


class UserMessage(Request):
    role: Literal["user"]
    content: _Text
    name: str | None = Field(default=None, description=WITHOUT_EFFECT)


class CalledFunction(Request):
    """``arguments`` is JSON, as text."""

    name: ToolName
    arguments: str


class MadeCall(Request):
    id: CallId
    type: Literal["function"] = "function"
    function: CalledFunction
    index: int | None = Field(default=None, ge=0, le=10_000, description=WITHOUT_EFFECT)


class AssistantTurn(Request):
    """``reasoning_content``: what it thought first, for templates that want to see it again."""

    role: Literal["assistant"]
    content: _Text | None = None
    reasoning_content: str | None = None
    tool_calls: Annotated[list[MadeCall], Field(max_length=MAX_TOOLS)] | None = None
    refusal: None = None
    name: str | None = Field(default=None, description=WITHOUT_EFFECT)
    annotations: list[Any] | None = Field(default=None, description=WITHOUT_EFFECT)
    audio: None = None
    function_call: None = None


class ToolMessage(Request):
    """What a call has returned."""

    role: Literal["tool"]
    content: _Text
    tool_call_id: CallId
    name: ToolName | None = None


ChatMessage = Annotated[
    InstructionMessage | UserMessage | AssistantTurn | ToolMessage, Field(discriminator="role")
]


class FunctionDefinition(Request):
    """``strict`` makes no difference here: calls that are enforced always fit."""

    name: ToolName
    description: str | None = None
    parameters: JsonObject | None = None
    strict: bool | None = None


class FunctionTool(Request):
    type: Literal["function"]
    function: FunctionDefinition


class NamedFunction(Request):
    name: ToolName


class NamedTool(Request):
    """This one must be called."""

    type: Literal["function"]
    function: NamedFunction


ToolChoice = Annotated[
    Annotated[ToolMode | NamedTool, Field(discriminator="type")],
    BeforeValidator(
        mode_as_object, json_schema_input_type=Literal["auto", "none", "required"] | NamedTool
    ),
]


class NamedSchema(Request):
    """``strict`` makes no difference here: the schema is always kept to."""

    name: SchemaName
    schema_: JsonObject = Field(alias="schema")
    description: str | None = Field(default=None, description=WITHOUT_EFFECT)
    strict: bool | None = None


class JsonSchemaFormat(Request):
    type: Literal["json_schema"]
    json_schema: NamedSchema


class RegexFormat(Request):
    """Not OpenAI's: the answer matches a regular expression."""

    type: Literal["regex"]
    regex: Annotated[str, Field(min_length=1)]


class LarkFormat(Request):
    """Not OpenAI's: the answer is a sentence of a grammar in Lark's notation."""

    type: Literal["lark"]
    lark: Annotated[str, Field(min_length=1)]


ResponseFormat = Annotated[
    TextFormat | JsonObjectFormat | JsonSchemaFormat | RegexFormat | LarkFormat,
    Field(discriminator="type"),
]


class ChatCompletionRequest(SamplingFields, FieldsWithoutEffect):
    model: ModelName
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES)]
    max_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: ResponseFormat | None = None
    n: Annotated[int, Field(ge=1, le=MAX_ANSWERS)] | None = None
    tools: Annotated[list[FunctionTool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: Effort | None = Field(
        default=None,
        description='"none" switches reasoning off; the other levels are for models that know them',
    )
    reasoning_budget: Budget | None = Field(
        default=None, description="Not OpenAI's: tokens of reasoning, at most."
    )

    metadata: dict[str, Any] | None = Field(default=None, description=WITHOUT_EFFECT)
    store: Literal[False] | None = Field(default=None, description=WITHOUT_EFFECT)


class PromptTokensDetails(BaseModel):
    cached_tokens: int


class CompletionTokensDetails(BaseModel):
    reasoning_tokens: int


class Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails


class TopLogprob(BaseModel):
    """``bytes`` are what the token spells; ``token`` shows them as text as well as can be."""

    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(TopLogprob):
    top_logprobs: list[TopLogprob]


class ChoiceLogprobs(BaseModel):
    content: list[TokenLogprob]
    refusal: None = None


class FunctionCall(BaseModel):
    name: str
    arguments: str


class ToolCall(BaseModel):
    id: str
    type: Literal["function"] = "function"
    function: FunctionCall


class AssistantMessage(BaseModel):
    """``content`` is null where there is nothing but calls."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    reasoning_content: str | None = Field(default=None, exclude_if=_is_none)
    refusal: None = None
    tool_calls: list[ToolCall] | None = Field(default=None, exclude_if=_is_none)


FinishReason = Literal["stop", "length", "tool_calls"]


class Timings(BaseModel):
    """Not OpenAI's. Seconds: waiting, reading the prompt, writing; and from the request's arrival
    to the first of the answer proper, after any reasoning (null: none came).
    """

    queued: float
    prefill: float
    decode: float
    first_answer: float | None


class Choice(BaseModel):
    index: int = 0
    message: AssistantMessage
    finish_reason: FinishReason
    logprobs: ChoiceLogprobs | None = None
    timings: Timings


class ChatCompletion(BaseModel):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage


class FunctionCallDelta(BaseModel):
    name: str | None = None
    arguments: str | None = None


class ToolCallDelta(BaseModel):
    index: int
    id: str | None = None
    type: Literal["function"] | None = None
    function: FunctionCallDelta


class Delta(BaseModel):
    role: Literal["assistant"] | None = None
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCallDelta] | None = None


class ChunkChoice(BaseModel):
    index: int = 0
    delta: Delta
    finish_reason: FinishReason | None = None
    logprobs: ChoiceLogprobs | None = None
    timings: Timings | None = Field(default=None, description="With the finish_reason.")


class ChatCompletionChunk(BaseModel):
    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | None = None


class Model(BaseModel):
    """``freehold`` holds what OpenAI's object has no place for."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str
    freehold: ModelDetails


class ModelDetails(BaseModel):
    loaded: bool
    aliases: list[str]
    alias_of: str | None
    size_bytes: int | None
    licence: Licence | None
    profile: ProfileShown | None = Field(
        description="What `freehold tune` found for it; null: it was not tuned here."
    )
    upstream: Elsewhere | None = Field(description="Who answers instead of this machine.")


class Elsewhere(BaseModel):
    """Servers that answer as a model. ``leaves_machine``: what is asked of it goes there."""

    hosts: list[str]
    leaves_machine: bool


class Licence(BaseModel):
    """What the licences of a model in the store allow. ``concluded`` is an SPDX expression;
    ``run`` and ``serve`` are the verdicts on using it oneself and on offering it to others.
    """

    concluded: str | None
    run: str
    serve: str
    duties: list[str]


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[Model]


class ErrorDetails(BaseModel):
    """``code`` does not change; ``values``, which OpenAI's lacks, are what the message is about."""

    message: str
    type: str
    param: str | None
    code: str
    values: ErrorValues


class ErrorResponse(BaseModel):
    error: ErrorDetails
