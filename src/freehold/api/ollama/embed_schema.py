"""Ollama's embed, and embeddings before it, as this server speaks them.

Unknown fields are refused by name. Sampling has no place here, so its options are unknown.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, Field, PlainValidator

from freehold.api.ollama.schema import KeepAlive, ModelName, Request

_MAX_INPUTS = 2048
_MAX_CHARACTERS = 1024 * 1024
_MAX_TOKENS = 16 * 1024 * 1024
_MAX_DIMENSIONS = 64 * 1024
_MAX_DEVICES = 1024
_WITHOUT_EFFECT = "Accepted without effect: it asks nothing of this server."
_KEEP_ALIVE = "How long the model stays unused; 0: not at all, -1: for ever."


def _inputs(value: Any) -> tuple[str, ...]:
    """One text or a list of them; complaints are about the whole field, by number."""
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not texts:
        raise ValueError("it must be a text, or a list of texts that is not empty")
    if len(texts) > _MAX_INPUTS:
        raise ValueError(f"it has {len(texts)} items; at most {_MAX_INPUTS} are accepted")
    for number, text in enumerate(texts):
        if not isinstance(text, str) or not text:
            raise ValueError(f"item {number} is empty or no text")
        if len(text) > _MAX_CHARACTERS:
            raise ValueError(f"item {number} has more than {_MAX_CHARACTERS} characters")
    return tuple(texts)


_Text = Annotated[str, Field(min_length=1, max_length=_MAX_CHARACTERS)]
_Texts = Annotated[list[_Text], Field(min_length=1, max_length=_MAX_INPUTS)]
_Count = Annotated[int, Field(ge=0, le=_MAX_TOKENS)]
_Device = Annotated[int, Field(ge=-1, le=_MAX_DEVICES)]


class EmbedOptions(Request):
    num_ctx: Annotated[int, Field(ge=1, le=_MAX_TOKENS)] | None = Field(
        default=None, description="Refused where it is more than the model is loaded with."
    )
    num_batch: _Count | None = Field(default=None, description=_WITHOUT_EFFECT)
    num_thread: _Device | None = Field(default=None, description=_WITHOUT_EFFECT)
    num_gpu: _Device | None = Field(default=None, description=_WITHOUT_EFFECT)
    main_gpu: _Device | None = Field(default=None, description=_WITHOUT_EFFECT)
    numa: bool | None = Field(default=None, description=_WITHOUT_EFFECT)
    low_vram: bool | None = Field(default=None, description=_WITHOUT_EFFECT)
    f16_kv: bool | None = Field(default=None, description=_WITHOUT_EFFECT)
    use_mmap: bool | None = Field(default=None, description=_WITHOUT_EFFECT)
    use_mlock: bool | None = Field(default=None, description=_WITHOUT_EFFECT)


class Wanted(Request):
    """What both have in common."""

    model: ModelName
    options: EmbedOptions | None = None
    keep_alive: KeepAlive | None = Field(default=None, description=_KEEP_ALIVE)


class EmbedRequest(Wanted):
    """``dimensions`` keeps so many numbers of each vector and scales them to length 1."""

    input: Annotated[
        tuple[str, ...], PlainValidator(_inputs, json_schema_input_type=_Text | _Texts)
    ]
    truncate: bool | None = Field(
        default=None,
        description="Nothing is truncated here, whatever it says: what is too long is refused.",
    )
    dimensions: Annotated[int, Field(ge=1, le=_MAX_DIMENSIONS)] | None = None


class EmbeddingsRequest(Wanted):
    prompt: _Text


class EmbedResponse(BaseModel):
    """Durations are nanoseconds; the vectors have length 1."""

    model: str
    embeddings: list[list[float]]
    total_duration: int
    load_duration: int
    prompt_eval_count: int


class EmbeddingsResponse(BaseModel):
    embedding: list[float]
