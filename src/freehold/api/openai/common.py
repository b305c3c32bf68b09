"""What requests of OpenAI's dialect have in common. Unknown fields are refused by name.

Fields that ask nothing of a local server are accepted without effect: they are marked so.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from freehold.domain.sampling import MAX_STOP_CHARACTERS, MAX_STOP_STRINGS

T = TypeVar("T")

MAX_MESSAGES = 1024
MAX_TOKENS = 16 * 1024 * 1024
MAX_TOOLS = 128
MAX_ANSWERS = 16
MAX_CHARACTERS = 8 * 1024 * 1024
_MAX_BIASES = 1024
WITHOUT_EFFECT = "Accepted without effect: it asks nothing of a local server."


def _one_as_list(value: Any) -> Any:
    """A field that may be one text or a list is read as a list: errors then name one form."""
    return [value] if isinstance(value, str) else value


def mode_as_object(value: Any) -> Any:
    return {"type": value} if isinstance(value, str) else value


class Request(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


Text = Annotated[str, Field(max_length=MAX_CHARACTERS)]
ModelName = Annotated[str, Field(min_length=1, max_length=1024)]
ToolName = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[a-zA-Z0-9_.-]+$")]
SchemaName = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[a-zA-Z0-9_-]+$")]
CallId = Annotated[str, Field(min_length=1, max_length=256)]
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
Budget = Annotated[int, Field(ge=0, le=MAX_TOKENS)]

Stop = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARACTERS)]
Stops = Annotated[
    list[Stop],
    Field(max_length=MAX_STOP_STRINGS),
    BeforeValidator(_one_as_list, json_schema_input_type=str | list[str]),
]
_Penalty = Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)]
TokenId = Annotated[str, Field(pattern=r"^[0-9]{1,7}$")]
Bias = Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]


class SamplingFields(Request):
    """How tokens are chosen. What is left out keeps our default."""

    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    stop: Stops | None = None
    frequency_penalty: _Penalty | None = None
    presence_penalty: _Penalty | None = None
    logit_bias: Annotated[dict[TokenId, Bias], Field(max_length=_MAX_BIASES)] | None = None

    # Not OpenAI's: the names that vLLM and llama.cpp's server use.
    top_k: Annotated[int, Field(ge=0, le=MAX_TOKENS)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    typical_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=10, allow_inf_nan=False)] | None = None
    ignore_eos: bool | None = None


_Mark = Annotated[str, Field(max_length=1024)]


class FieldsWithoutEffect(Request):
    """Who asks, and how the bill is to be written."""

    user: _Mark | None = Field(default=None, description=WITHOUT_EFFECT)
    safety_identifier: _Mark | None = Field(default=None, description=WITHOUT_EFFECT)
    prompt_cache_key: _Mark | None = Field(default=None, description=WITHOUT_EFFECT)
    service_tier: _Mark | None = Field(default=None, description=WITHOUT_EFFECT)


class ToolMode(Request):
    """``"auto"``, ``"none"`` or ``"required"``."""

    type: Literal["auto", "none", "required"]


class TextFormat(Request):
    type: Literal["text"]


class JsonObjectFormat(Request):
    type: Literal["json_object"]


class StreamOptions(Request):
    include_usage: bool = False
    include_obfuscation: bool | None = Field(default=None, description=WITHOUT_EFFECT)
