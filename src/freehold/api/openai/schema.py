"""OpenAI's chat completions as this server speaks them. Unknown fields are refused by name.

Fields that ask nothing of a local server are accepted without effect: they are
marked so. Fields of features that are not here are accepted only with the value that
means "not used".
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from freehold.domain.sampling import MAX_STOP_CHARACTERS, MAX_STOP_STRINGS

_MAX_MESSAGES = 1024
_MAX_TOKENS = 16 * 1024 * 1024
_MAX_BIASES = 1024
_MAX_TOOLS = 128
_MAX_ANSWERS = 16
_WITHOUT_EFFECT = "Accepted without effect: it asks nothing of a local server."


def _one_as_list(value: Any) -> Any:
    """A field that may be one text or a list is read as a list: errors then name one form."""
    return [value] if isinstance(value, str) else value


def _text_as_part(value: Any) -> Any:
    return [{"type": "text", "text": value}] if isinstance(value, str) else value


def _is_none(value: Any) -> bool:
    return value is None


Stop = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARACTERS)]
Stops = Annotated[
    list[Stop],
    Field(max_length=MAX_STOP_STRINGS),
    BeforeValidator(_one_as_list, json_schema_input_type=str | list[str]),
]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class TextPart(_Request):
    type: Literal["text"]
    text: str


_Text = Annotated[
    list[TextPart],
    Field(min_length=1),
    BeforeValidator(_text_as_part, json_schema_input_type=str | list[TextPart]),
]
_Name = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[a-zA-Z0-9_.-]+$")]
_CallId = Annotated[str, Field(min_length=1, max_length=256)]


class InstructionMessage(_Request):
    """What the model is told beforehand."""

    role: Literal["system", "developer"]
    content: _Text
    name: str | None = Field(default=None, description=_WITHOUT_EFFECT)


class UserMessage(_Request):
    role: Literal["user"]
    content: _Text
    name: str | None = Field(default=None, description=_WITHOUT_EFFECT)


class CalledFunction(_Request):
    """``arguments`` is JSON, as text."""

    name: _Name
    arguments: str


class MadeCall(_Request):
    id: _CallId
    type: Literal["function"] = "function"
    function: CalledFunction
    index: int | None = Field(default=None, description=_WITHOUT_EFFECT)


class AssistantTurn(_Request):
    """``reasoning_content``: what it thought first, for templates that want to see it again."""

    role: Literal["assistant"]
    content: _Text | None = None
    reasoning_content: str | None = None
    tool_calls: Annotated[list[MadeCall], Field(max_length=_MAX_TOOLS)] | None = None
    refusal: None = None
    name: str | None = Field(default=None, description=_WITHOUT_EFFECT)
    annotations: list[Any] | None = Field(default=None, description=_WITHOUT_EFFECT)
    audio: None = None
    function_call: None = None


class ToolMessage(_Request):
    """What a call has returned."""

    role: Literal["tool"]
    content: _Text
    tool_call_id: _CallId
    name: _Name | None = None


ChatMessage = Annotated[
    InstructionMessage | UserMessage | AssistantTurn | ToolMessage, Field(discriminator="role")
]


class FunctionDefinition(_Request):
    """``strict`` makes no difference here: calls that are enforced always fit."""

    name: _Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class FunctionTool(_Request):
    type: Literal["function"]
    function: FunctionDefinition


class NamedFunction(_Request):
    name: _Name


class NamedTool(_Request):
    """This one must be called."""

    type: Literal["function"]
    function: NamedFunction


def _mode_as_object(value: Any) -> Any:
    return {"type": value} if isinstance(value, str) else value


class ToolMode(_Request):
    """``"auto"``, ``"none"`` or ``"required"``."""

    type: Literal["auto", "none", "required"]


ToolChoice = Annotated[
    Annotated[ToolMode | NamedTool, Field(discriminator="type")],
    BeforeValidator(
        _mode_as_object, json_schema_input_type=Literal["auto", "none", "required"] | NamedTool
    ),
]
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh"]


_Penalty = Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)]
TokenId = Annotated[str, Field(pattern=r"^[0-9]{1,7}$")]
Bias = Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]


class TextFormat(_Request):
    type: Literal["text"]


class JsonObjectFormat(_Request):
    type: Literal["json_object"]


class NamedSchema(_Request):
    """``strict`` makes no difference here: the schema is always kept to."""

    name: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[a-zA-Z0-9_-]+$")]
    schema_: dict[str, Any] = Field(alias="schema")
    description: str | None = Field(default=None, description=_WITHOUT_EFFECT)
    strict: bool | None = None


class JsonSchemaFormat(_Request):
    type: Literal["json_schema"]
    json_schema: NamedSchema


class RegexFormat(_Request):
    """Not OpenAI's: the answer matches a regular expression."""

    type: Literal["regex"]
    regex: Annotated[str, Field(min_length=1)]


class LarkFormat(_Request):
    """Not OpenAI's: the answer is a sentence of a grammar in Lark's notation."""

    type: Literal["lark"]
    lark: Annotated[str, Field(min_length=1)]


ResponseFormat = Annotated[
    TextFormat | JsonObjectFormat | JsonSchemaFormat | RegexFormat | LarkFormat,
    Field(discriminator="type"),
]


class StreamOptions(_Request):
    include_usage: bool = False
    include_obfuscation: bool | None = Field(default=None, description=_WITHOUT_EFFECT)


class ChatCompletionRequest(_Request):
    model: Annotated[str, Field(min_length=1, max_length=1024)]
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=_MAX_MESSAGES)]
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    stop: Stops | None = None
    max_tokens: Annotated[int, Field(ge=1, le=_MAX_TOKENS)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=_MAX_TOKENS)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    frequency_penalty: _Penalty | None = None
    presence_penalty: _Penalty | None = None
    logit_bias: Annotated[dict[TokenId, Bias], Field(max_length=_MAX_BIASES)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: ResponseFormat | None = None
    n: Annotated[int, Field(ge=1, le=_MAX_ANSWERS)] | None = None
    tools: Annotated[list[FunctionTool], Field(max_length=_MAX_TOOLS)] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: Effort | None = Field(
        default=None,
        description='"none" switches reasoning off; the other levels are for models that know them',
    )
    reasoning_budget: Annotated[int, Field(ge=0, le=_MAX_TOKENS)] | None = Field(
        default=None, description="Not OpenAI's: tokens of reasoning, at most."
    )

    # Not OpenAI's: the names that vLLM and llama.cpp's server use.
    top_k: Annotated[int, Field(ge=0, le=_MAX_TOKENS)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    typical_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=10, allow_inf_nan=False)] | None = None
    ignore_eos: bool | None = None

    user: str | None = Field(default=None, description=_WITHOUT_EFFECT)
    safety_identifier: str | None = Field(default=None, description=_WITHOUT_EFFECT)
    prompt_cache_key: str | None = Field(default=None, description=_WITHOUT_EFFECT)
    metadata: dict[str, Any] | None = Field(default=None, description=_WITHOUT_EFFECT)
    service_tier: str | None = Field(default=None, description=_WITHOUT_EFFECT)
    store: Literal[False] | None = Field(default=None, description=_WITHOUT_EFFECT)


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


class Choice(BaseModel):
    index: int = 0
    message: AssistantMessage
    finish_reason: FinishReason
    logprobs: ChoiceLogprobs | None = None


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
    size_bytes: int | None
    licence_declared: str | None


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[Model]


class ErrorDetails(BaseModel):
    message: str
    type: str
    param: str | None
    code: str


class ErrorResponse(BaseModel):
    error: ErrorDetails
