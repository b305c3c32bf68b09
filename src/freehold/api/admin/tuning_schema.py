"""Searching for the best format and settings of a model, as programs see it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from freehold.api.bounds import ErrorValues
from freehold.api.openai.common import ModelName, Request
from freehold.api.openai.profiles import SettingsShown
from freehold.api.sentences import Sentence

_Format = Annotated[str, Field(pattern=r"^[A-Za-z0-9_]{1,16}$")]


class TuneRequest(Request):
    """As the options of `freehold tune`."""

    model: ModelName
    minutes: Annotated[float, Field(ge=0.1, le=1440)] = Field(
        default=20, description="What the search may take, about."
    )
    max_loss: Annotated[float, Field(ge=0, le=10)] = Field(
        default=0.02, description="Mean KL divergence (nats) up to which other weights are taken."
    )
    users: Annotated[int, Field(ge=1, le=256)] | None = Field(
        default=None, description="Sequences at once to tune for; left out: as `parallel` is set."
    )
    depth: Annotated[int, Field(ge=64, le=1024 * 1024)] | None = Field(
        default=None, description="Tokens of prompt to tune for; left out: 2048, or as many as fit."
    )
    formats: Annotated[list[_Format], Field(max_length=16)] | None = Field(
        default=None, description="Formats to try; none: the weights stay as they are."
    )


class SearchWished(BaseModel):
    """What a search was begun with; null: as `freehold tune` does."""

    minutes: float
    max_loss: float
    users: int | None
    depth: int | None
    formats: list[str] | None


class SearchShown(BaseModel):
    """A search. ``done`` of ``count`` measurements of ``stage`` are made. ``seconds_left`` is what
    the whole should still take. ``unloaded``: the model was in memory, and was unloaded for it.
    ``stopped``: beginning it again, with the same wishes, goes on with what was measured.
    """

    model: str
    wishes: SearchWished
    state: Literal["running", "done", "stopped", "failed"]
    began: str
    unloaded: bool
    stage: str | None
    done: int
    count: int
    seconds_left: float | None
    notes: list[Sentence]
    error: str | None
    error_code: str | None
    error_values: ErrorValues


class TuningState(BaseModel):
    """``search``: the one that runs, or the last since the server began; null: none."""

    search: SearchShown | None


class SpeedsShown(BaseModel):
    """Tokens per second: reading a prompt, decoding in an empty context, behind the prompt, and
    all sequences together.
    """

    prefill: float
    empty: float
    deep: float
    many: float


class LossShown(BaseModel):
    """Against the weights as they are, each with one standard error."""

    tokens: int
    divergence: float
    divergence_error: float
    agreement: float
    agreement_error: float
    source_perplexity: float
    perplexity: float
    perplexity_error: float


class PointShown(BaseModel):
    """One finalist. ``weights`` null: as they are; ``loss`` null: nothing but rounding differs.
    ``gain`` is against the untuned model.
    """

    weights: str | None
    settings: SettingsShown
    tokens_per_second: SpeedsShown
    gain: float
    loss: LossShown | None
    admissible: bool
    on_frontier: bool
    chosen: bool


class TuningShown(BaseModel):
    """``objection``: why it does not hold here any more; null: it does."""

    measured_at: str
    depth: int
    users: int
    max_loss: float
    baseline: PointShown
    points: list[PointShown]
    objection: str | None


class TuningResult(BaseModel):
    """``begun``: a search of it was stopped. ``quantisation``: of the weights as they are."""

    model: str
    quantisation: str | None
    begun: bool
    tuning: TuningShown | None
