"""What fits this machine and how fast it should be, as programs see it. Bytes and seconds.

Estimates and measured values are apart: neither stands in for the other.
"""

from __future__ import annotations

from pydantic import BaseModel, Field

from freehold.api.sentences import Sentence


class PlanReason(BaseModel):
    """Something that keeps a model out: ``wanted`` against ``has``, in the unit of its kind."""

    why: str
    said: Sentence
    wanted: float | None
    has: float | None


class Estimated(BaseModel):
    """Arithmetic. It may be off by the share ``band``; ``basis`` says what it rests on.

    ``tokens_per_second`` is each user's behind a prompt of ``depth`` tokens, ``first_token`` the
    wait of the last of them when all ask at once.
    """

    tokens_per_second: float
    prefill: float
    first_token: float
    depth: int
    band: float
    basis: Sentence


class Measured(BaseModel):
    """What `tune` measured on this machine. ``tokens_per_second`` is each user's, at the depth
    nearest to the estimate's; null: not with so many users.
    """

    measured_at: str
    tokens_per_second: float | None
    prefill: float
    depth: int
    users: int


class PlannedModel(BaseModel):
    """One model in one file. ``reasons`` is empty where it fits; what does not fit has no estimate
    of its speed.
    """

    model: str
    title: str
    quantisation: str | None
    here: bool
    file_bytes: int | None
    fits: bool
    reasons: list[PlanReason]
    context: int | None
    memory_estimated: int | None
    estimated: Estimated | None
    measured: Measured | None
    files: list[PlannedModel] = Field(description="Further published files of the same model.")


class PlanShown(BaseModel):
    """``calibrated``: the day this machine was measured; null: speeds are from nameplates.
    ``models`` are best first, then those that do not fit.
    """

    processor: str
    cores: int
    memory_available: int
    disk_available: int
    calibrated: str | None
    users: int
    prompt: int
    models: list[PlannedModel] = Field(description="Those here and those of the catalogue.")
