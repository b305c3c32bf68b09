"""Anthropic's messages as this server speaks them. Unknown fields are refused by name.

Fields that ask nothing of a local server are accepted without effect: they are
marked so. Fields of features that are not here are accepted only with the value that
means "not used".
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag

from freehold.api.bounds import JsonObject
from freehold.domain.sampling import MAX_STOP_CHARACTERS, MAX_STOP_STRINGS

_MAX_MESSAGES = 4096
_MAX_BLOCKS = 4096
_MAX_TOKENS = 16 * 1024 * 1024
_MAX_TOOLS = 256
_WITHOUT_EFFECT = "Accepted without effect: it asks nothing of a local server."


def _text_as_block(value: Any) -> Any:
    return [{"type": "text", "text": value}] if isinstance(value, str) else value


def _tag(value: Any) -> str:
    kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return f"{kind} block"


def _by_type(*types: str) -> Discriminator:
    """Blocks told apart by ``type``.

    The tags are no words of JSON: ``text`` and ``thinking`` are types and fields as well, and an
    error's path holds both.
    """
    expected = ", ".join(f"'{each}'" for each in types)
    return Discriminator(
        _tag,
        custom_error_type="union_tag_invalid",
        custom_error_context={"discriminator": "type", "tag": "", "expected_tags": expected},
    )


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class CacheControl(_Request):
    """What can be cached is cached anyway."""

    type: Literal["ephemeral"]
    ttl: Literal["5m", "1h"] | None = None


_CacheControl = Annotated[CacheControl | None, Field(description=_WITHOUT_EFFECT)]
_Name = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[a-zA-Z0-9_-]+$")]
_CallId = Annotated[str, Field(min_length=1, max_length=256)]


class TextInput(_Request):
    type: Literal["text"]
    text: str
    cache_control: _CacheControl = None
    citations: None = None


_Text = Annotated[
    list[TextInput],
    Field(max_length=_MAX_BLOCKS),
    BeforeValidator(_text_as_block, json_schema_input_type=str | list[TextInput]),
]


class ThinkingInput(_Request):
    """What the model thought, for templates that want to see it again."""

    type: Literal["thinking"]
    thinking: str
    signature: str | None = Field(default=None, description=_WITHOUT_EFFECT)


class RedactedThinkingInput(_Request):
    """Thinking that only the service it came from can read. It is left out."""

    type: Literal["redacted_thinking"]
    data: str


class DirectCaller(_Request):
    type: Literal["direct"]


class ToolUseInput(_Request):
    type: Literal["tool_use"]
    id: _CallId
    name: _Name
    input: JsonObject
    cache_control: _CacheControl = None
    caller: DirectCaller | None = Field(default=None, description=_WITHOUT_EFFECT)
    toolset_name: None = None


class ToolResultInput(_Request):
    """What a call has returned. With ``is_error`` the model is told that it failed."""

    type: Literal["tool_result"]
    tool_use_id: _CallId
    content: _Text | None = None
    is_error: bool | None = None
    cache_control: _CacheControl = None
    toolset_name: None = None


UserBlock = Annotated[
    Annotated[TextInput, Tag("text block")] | Annotated[ToolResultInput, Tag("tool_result block")],
    _by_type("text", "tool_result"),
]
AssistantBlock = Annotated[
    Annotated[TextInput, Tag("text block")]
    | Annotated[ThinkingInput, Tag("thinking block")]
    | Annotated[RedactedThinkingInput, Tag("redacted_thinking block")]
    | Annotated[ToolUseInput, Tag("tool_use block")],
    _by_type("text", "thinking", "redacted_thinking", "tool_use"),
]


BlockInput = TextInput | ThinkingInput | RedactedThinkingInput | ToolUseInput | ToolResultInput


class UserInput(_Request):
    role: Literal["user"]
    content: Annotated[
        list[UserBlock],
        Field(min_length=1, max_length=_MAX_BLOCKS),
        BeforeValidator(_text_as_block, json_schema_input_type=str | list[UserBlock]),
    ]


class AssistantInput(_Request):
    """The last of all: the model goes on from it."""

    role: Literal["assistant"]
    content: Annotated[
        list[AssistantBlock],
        Field(max_length=_MAX_BLOCKS),
        BeforeValidator(_text_as_block, json_schema_input_type=str | list[AssistantBlock]),
    ]


class SystemInput(_Request):
    """Instructions between the turns, for templates that allow them there."""

    role: Literal["system"]
    content: _Text


MessageInput = Annotated[UserInput | AssistantInput | SystemInput, Field(discriminator="role")]


def _callers_own(value: Any) -> Any:
    if value is None or value == "custom":
        return value
    raise ValueError(f"this server has no tool {value!r:.80}, only tools of the caller's own")


class ToolInput(_Request):
    """A tool of the caller's own. ``strict`` makes no difference here: calls that are enforced
    always fit."""

    type: Annotated[Literal["custom"] | None, BeforeValidator(_callers_own)] = None
    name: _Name
    description: str | None = None
    input_schema: JsonObject
    strict: bool | None = None
    cache_control: _CacheControl = None
    eager_input_streaming: bool | None = Field(default=None, description=_WITHOUT_EFFECT)


class ToolMode(_Request):
    """``any``: at least one call."""

    type: Literal["auto", "any"]
    disable_parallel_tool_use: bool | None = None


class OneTool(_Request):
    """This one must be called."""

    type: Literal["tool"]
    name: _Name
    disable_parallel_tool_use: bool | None = None


class NoTool(_Request):
    type: Literal["none"]


ToolChoiceInput = Annotated[ToolMode | OneTool | NoTool, Field(discriminator="type")]


class ThinkingEnabled(_Request):
    """``budget_tokens`` may be fewer than Anthropic's models want."""

    type: Literal["enabled"]
    budget_tokens: Annotated[int, Field(ge=1, le=_MAX_TOKENS)]
    display: Literal["summarized"] | None = Field(
        default=None, description="Thinking is always shown, and never shortened."
    )


class ThinkingDisabled(_Request):
    type: Literal["disabled"]


class ThinkingAdaptive(_Request):
    """As the model's template does when nothing is said; so it is without ``thinking``."""

    type: Literal["adaptive"]
    display: Literal["summarized"] | None = Field(
        default=None, description="Thinking is always shown, and never shortened."
    )


ThinkingChoice = Annotated[
    ThinkingEnabled | ThinkingDisabled | ThinkingAdaptive, Field(discriminator="type")
]


class OutputSchema(_Request):
    type: Literal["json_schema"]
    schema_: JsonObject = Field(alias="schema")


class OutputConfig(_Request):
    """``effort`` is for models that know levels of it. ``format`` is always kept to."""

    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: OutputSchema | None = None


class KeptThinking(_Request):
    """Nothing is cleared: what earlier turns show of their reasoning is the template's business."""

    type: Literal["clear_thinking_20251015"]
    keep: Literal["all"]


class ContextManagement(_Request):
    """Conversations are not edited here: only what leaves them whole is accepted."""

    edits: Annotated[list[KeptThinking], Field(max_length=8)] = []


class TokenCountRequest(_Request):
    """All that makes a prompt."""

    model: Annotated[str, Field(min_length=1, max_length=1024)]
    messages: Annotated[list[MessageInput], Field(min_length=1, max_length=_MAX_MESSAGES)]
    system: _Text | None = None
    tools: Annotated[list[ToolInput], Field(max_length=_MAX_TOOLS)] | None = None
    tool_choice: ToolChoiceInput | None = None
    thinking: ThinkingChoice | None = None
    output_config: OutputConfig | None = None
    context_management: ContextManagement | None = Field(default=None, description=_WITHOUT_EFFECT)
    cache_control: _CacheControl = None


class MessageRequest(TokenCountRequest):
    max_tokens: Annotated[int, Field(ge=1, le=_MAX_TOKENS)]
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = Field(
        default=None, description="More than 1 is not Anthropic's."
    )
    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = None
    top_k: Annotated[int, Field(ge=0, le=_MAX_TOKENS)] | None = None
    stop_sequences: (
        Annotated[
            list[Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARACTERS)]],
            Field(max_length=MAX_STOP_STRINGS),
        ]
        | None
    ) = None
    stream: bool | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = Field(
        default=None, description="Not Anthropic's: the same seed gives the same answer."
    )

    metadata: dict[str, Any] | None = Field(default=None, description=_WITHOUT_EFFECT)
    service_tier: Literal["auto", "standard_only"] | None = Field(
        default=None, description=_WITHOUT_EFFECT
    )


class TokenCount(BaseModel):
    input_tokens: int


class TextBlock(BaseModel):
    type: Literal["text"] = "text"
    text: str


class ThinkingBlock(BaseModel):
    """``signature`` is there because clients require one; it vouches for nothing."""

    type: Literal["thinking"] = "thinking"
    thinking: str
    signature: str


class ToolUseBlock(BaseModel):
    type: Literal["tool_use"] = "tool_use"
    id: str
    name: str
    input: dict[str, Any]


ContentBlock = TextBlock | ThinkingBlock | ToolUseBlock
StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"]


class OutputTokensDetails(BaseModel):
    thinking_tokens: int


class MessageUsage(BaseModel):
    """``input_tokens`` are those that were not cached."""

    input_tokens: int
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int
    output_tokens: int
    output_tokens_details: OutputTokensDetails


class AnsweredMessage(BaseModel):
    """``stop_reason`` is null at the beginning of a stream."""

    id: str
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"
    model: str
    content: list[ContentBlock]
    stop_reason: StopReason | None
    stop_sequence: str | None
    usage: MessageUsage


class MessageStart(BaseModel):
    type: Literal["message_start"] = "message_start"
    message: AnsweredMessage


class ContentBlockStart(BaseModel):
    type: Literal["content_block_start"] = "content_block_start"
    index: int
    content_block: ContentBlock


class TextDelta(BaseModel):
    type: Literal["text_delta"] = "text_delta"
    text: str


class ThinkingDelta(BaseModel):
    type: Literal["thinking_delta"] = "thinking_delta"
    thinking: str


class SignatureDelta(BaseModel):
    type: Literal["signature_delta"] = "signature_delta"
    signature: str


class InputJsonDelta(BaseModel):
    type: Literal["input_json_delta"] = "input_json_delta"
    partial_json: str


BlockDelta = TextDelta | ThinkingDelta | SignatureDelta | InputJsonDelta


class ContentBlockDelta(BaseModel):
    type: Literal["content_block_delta"] = "content_block_delta"
    index: int
    delta: BlockDelta


class ContentBlockStop(BaseModel):
    type: Literal["content_block_stop"] = "content_block_stop"
    index: int


class StopDelta(BaseModel):
    stop_reason: StopReason
    stop_sequence: str | None


class MessageDelta(BaseModel):
    type: Literal["message_delta"] = "message_delta"
    delta: StopDelta
    usage: MessageUsage


class MessageStop(BaseModel):
    type: Literal["message_stop"] = "message_stop"


class Ping(BaseModel):
    """Nothing has happened; the connection is alive. It may come anywhere."""

    type: Literal["ping"] = "ping"


class ErrorReason(BaseModel):
    type: str
    message: str


class ErrorEvent(BaseModel):
    """The body of a refusal, and the last event of a stream that failed."""

    type: Literal["error"] = "error"
    error: ErrorReason


StreamEvent = (
    MessageStart
    | ContentBlockStart
    | ContentBlockDelta
    | ContentBlockStop
    | MessageDelta
    | MessageStop
    | Ping
    | ErrorEvent
)
