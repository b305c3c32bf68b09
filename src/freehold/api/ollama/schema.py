"""Ollama's generate and chat as this server speaks them. Unknown fields are refused by name.

Fields and options that ask nothing of this server are accepted without effect: they are marked
so. What is not here is accepted only with the value that means "not used".

``keep_alive`` is how long the model stays unused from then on, for whoever asks: 0 unloads it after
the answer, once nobody else uses it; below zero it stays. Another model may need its room before.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field

from freehold.api.bounds import ErrorValues, JsonObject
from freehold.domain.durations import DURATION
from freehold.domain.sampling import MAX_STOP_CHARACTERS, MAX_STOP_STRINGS

_MAX_MESSAGES = 1024
_MAX_TOKENS = 16 * 1024 * 1024
_MAX_TOOLS = 128
_MAX_IMAGES = 64
_MAX_DEVICES = 1024
_WITHOUT_EFFECT = "Accepted without effect: it asks nothing of this server."
_REFUSED = "Refused where it is not empty: this server does not do that."


class Request(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


ModelName = Annotated[str, Field(min_length=1, max_length=1024)]
# Older clients send ``name``.
NamedModel = Annotated[ModelName, Field(validation_alias=AliasChoices("model", "name"))]

_Share = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
_Penalty = Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)]
_Count = Annotated[int, Field(ge=0, le=_MAX_TOKENS)]
# As the API counts: -1 stands for all there are.
_CountOrAll = Annotated[int, Field(ge=-1, le=_MAX_TOKENS)]
_Device = Annotated[int, Field(ge=-1, le=_MAX_DEVICES)]
_AnyNumber = Annotated[float, Field(ge=-1e9, le=1e9, allow_inf_nan=False)]


class Options(Request):
    """What is left out keeps this server's default, not Ollama's."""

    temperature: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] | None = None
    top_k: _Count | None = None
    top_p: _Share | None = None
    min_p: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    typical_p: _Share | None = None
    seed: Annotated[int, Field(ge=-1, lt=2**63)] | None = Field(
        default=None, description="-1: a fresh one for each request."
    )
    num_predict: Annotated[int, Field(ge=-2, le=_MAX_TOKENS)] | None = Field(
        default=None, description="-1 and -2: as many tokens as there is room for."
    )
    stop: (
        Annotated[
            list[Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARACTERS)]],
            Field(max_length=MAX_STOP_STRINGS),
        ]
        | None
    ) = None
    repeat_penalty: Annotated[float, Field(gt=0, le=10, allow_inf_nan=False)] | None = None
    repeat_last_n: _CountOrAll | None = Field(
        default=None, description="How many of the latest tokens penalties look at; -1: all."
    )
    presence_penalty: _Penalty | None = None
    frequency_penalty: _Penalty | None = None
    num_ctx: Annotated[int, Field(ge=1, le=_MAX_TOKENS)] | None = Field(
        default=None,
        description="Refused where it is more than the model is loaded with.",
    )

    mirostat: Literal[0] | None = None
    mirostat_tau: _AnyNumber | None = Field(default=None, description=_WITHOUT_EFFECT)
    mirostat_eta: _AnyNumber | None = Field(default=None, description=_WITHOUT_EFFECT)
    tfs_z: Annotated[float, Field(ge=1, le=1)] | None = None
    vocab_only: Literal[False] | None = None
    embedding_only: Literal[False] | None = None

    num_keep: _CountOrAll | None = Field(default=None, description=_WITHOUT_EFFECT)
    num_batch: _Count | None = Field(default=None, description=_WITHOUT_EFFECT)
    num_thread: _Device | None = Field(default=None, description=_WITHOUT_EFFECT)
    num_gpu: _Device | None = Field(default=None, description=_WITHOUT_EFFECT)
    main_gpu: _Device | None = Field(default=None, description=_WITHOUT_EFFECT)
    numa: bool | None = Field(default=None, description=_WITHOUT_EFFECT)
    low_vram: bool | None = Field(default=None, description=_WITHOUT_EFFECT)
    f16_kv: bool | None = Field(default=None, description=_WITHOUT_EFFECT)
    logits_all: bool | None = Field(default=None, description=_WITHOUT_EFFECT)
    use_mmap: bool | None = Field(default=None, description=_WITHOUT_EFFECT)
    use_mlock: bool | None = Field(default=None, description=_WITHOUT_EFFECT)
    penalize_newline: bool | None = Field(default=None, description=_WITHOUT_EFFECT)


_LONGEST_SECONDS = 1e12


# One check for each field of several types: errors then name the field, not a branch of it.


def _checked_duration(value: Any) -> Any:
    if isinstance(value, str):
        fits = DURATION.fullmatch(value) is not None
    else:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        fits = number and abs(value) <= _LONGEST_SECONDS
    if not fits:
        raise ValueError('it must be seconds, or a duration such as "5m"')
    return value


def _checked_think(value: Any) -> Any:
    if not isinstance(value, bool) and value not in ("low", "medium", "high"):
        raise ValueError('it must be true, false, "low", "medium" or "high"')
    return value


def _checked_format(value: Any) -> Any:
    if not isinstance(value, dict) and value not in ("", "json"):
        raise ValueError('it must be "json" or a JSON schema')
    return value


_Seconds = Annotated[float, Field(ge=-_LONGEST_SECONDS, le=_LONGEST_SECONDS)]
_Duration = Annotated[str, Field(pattern=f"^(?:{DURATION.pattern})$")]
KeepAlive = Annotated[
    int | float | str,
    BeforeValidator(_checked_duration, json_schema_input_type=_Seconds | _Duration),
]
Think = Annotated[bool | Literal["low", "medium", "high"], BeforeValidator(_checked_think)]
Format = Annotated[Literal["", "json"] | JsonObject, BeforeValidator(_checked_format)]
_Images = Annotated[list[str], Field(max_length=_MAX_IMAGES)]


class Ask(Request):
    """What generate and chat have in common. ``stream`` left out means true."""

    model: ModelName
    stream: bool | None = None
    format: Format | None = Field(default=None, description='"json", or a JSON schema.')
    options: Options | None = None
    keep_alive: KeepAlive | None = Field(
        default=None, description="How long the model stays unused; 0: not at all, -1: for ever."
    )
    think: Think | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    truncate: Literal[False] | None = None
    shift: Literal[False] | None = None

    @property
    def streams(self) -> bool:
        return self.stream is not False


class GenerateRequest(Ask):
    """``raw`` and ``suffix``: the prompt is gone on with as it is, without the template."""

    prompt: str | None = None
    suffix: str | None = None
    system: str | None = None
    raw: bool | None = None
    template: str | None = Field(default=None, description=_REFUSED)
    context: Annotated[list[int], Field(max_length=_MAX_TOKENS)] | None = Field(
        default=None, description=_REFUSED
    )
    images: _Images | None = Field(default=None, description=_REFUSED)


_Name = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[a-zA-Z0-9_.-]+$")]
_CallId = Annotated[str, Field(min_length=1, max_length=256)]


class _Turn(Request):
    """What a turn may have, whoever's it is: clients put an empty ``images`` on all of them."""

    content: str = ""
    images: _Images | None = Field(default=None, description=_REFUSED)


class SystemTurn(_Turn):
    role: Literal["system"]


class UserTurn(_Turn):
    role: Literal["user"]


class CalledFunction(Request):
    name: _Name
    arguments: JsonObject = {}
    index: int | None = Field(default=None, ge=0, le=10_000, description=_WITHOUT_EFFECT)


class MadeCall(Request):
    """``index`` is what a client that put a streamed answer together sends back."""

    id: _CallId | None = None
    index: int | None = Field(default=None, ge=0, le=10_000, description=_WITHOUT_EFFECT)
    type: Literal["function"] | None = None
    function: CalledFunction


class AssistantTurn(_Turn):
    """``thinking``: what it thought first, for templates that want to see it again."""

    role: Literal["assistant"]
    thinking: str | None = None
    tool_calls: Annotated[list[MadeCall], Field(max_length=_MAX_TOOLS)] | None = None


class ToolTurn(_Turn):
    """What a call has returned. Without ``tool_call_id``: the first unanswered call, of
    ``tool_name`` where that is given.
    """

    role: Literal["tool"]
    tool_name: _Name | None = None
    tool_call_id: _CallId | None = None


Turn = Annotated[SystemTurn | UserTurn | AssistantTurn | ToolTurn, Field(discriminator="role")]


class FunctionDefinition(Request):
    name: _Name
    description: str | None = None
    parameters: JsonObject | None = None


class FunctionTool(Request):
    type: Literal["function"] = "function"
    function: FunctionDefinition


class ChatRequest(Ask):
    messages: Annotated[list[Turn], Field(max_length=_MAX_MESSAGES)] | None = None
    tools: Annotated[list[FunctionTool], Field(max_length=_MAX_TOOLS)] | None = None


# Answers: one line of a stream, or the whole.


class TopLogprob(BaseModel):
    """``bytes`` are what the token spells; ``token`` shows them as text as well as can be."""

    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(TopLogprob):
    top_logprobs: list[TopLogprob] | None = None


class Answer(BaseModel):
    """Durations are nanoseconds; from ``done_reason`` on, fields come with the last line only.

    ``load_duration`` lasts until the model is loaded and the prompt rendered.
    """

    model: str
    created_at: str
    done: bool
    done_reason: Literal["stop", "length", "load", "unload"] | None = None
    total_duration: int | None = None
    load_duration: int | None = None
    prompt_eval_count: int | None = None
    prompt_eval_duration: int | None = None
    eval_count: int | None = None
    eval_duration: int | None = None
    logprobs: list[TokenLogprob] | None = None


class GenerateResponse(Answer):
    response: str
    thinking: str | None = None


class FunctionCall(BaseModel):
    name: str
    arguments: dict[str, Any]


class ToolCall(BaseModel):
    id: str
    function: FunctionCall


class AssistantMessage(BaseModel):
    role: Literal["assistant"] = "assistant"
    content: str
    thinking: str | None = None
    tool_calls: list[ToolCall] | None = None


class ChatResponse(Answer):
    message: AssistantMessage


class ErrorResponse(BaseModel):
    """``code`` and ``values`` are ours: Ollama's clients read the sentence alone."""

    error: str
    code: str
    values: ErrorValues
