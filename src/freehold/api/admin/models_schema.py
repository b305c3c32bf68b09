"""Models in memory, as programs see them. Bytes, seconds, and times as ISO 8601 in UTC."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field

from freehold.api.openai.common import ModelName, Request
from freehold.api.openai.profiles import ProfileShown
from freehold.domain.durations import DURATION, FOREVER, seconds

_LONGEST_SECONDS = 1e12


def _checked_duration(value: Any) -> Any:
    try:
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise ValueError
        if not isinstance(value, str) and abs(value) > _LONGEST_SECONDS:
            raise ValueError
        seconds(value)
    except ValueError:
        raise ValueError('it must be seconds, a duration such as "5m", or "forever"') from None
    return value


_Seconds = Annotated[float, Field(ge=-_LONGEST_SECONDS, le=_LONGEST_SECONDS)]
_Duration = Annotated[str, Field(pattern=f"^(?:{FOREVER}|{DURATION.pattern})$")]
KeepAlive = Annotated[
    int | float | str,
    BeforeValidator(_checked_duration, json_schema_input_type=_Seconds | _Duration),
]


class LoadRequest(Request):
    model: ModelName
    pin: bool = Field(default=False, description="It stays until it is unloaded or unpinned.")
    keep_alive: KeepAlive | None = Field(
        default=None, description="How long it stays unused; left out: as it is set for others."
    )


class UnloadRequest(Request):
    model: ModelName


class PinRequest(Request):
    """``pinned`` true loads the model first if need be."""

    model: ModelName
    pinned: bool


class Memory(BaseModel):
    """``expected_bytes`` is what the model was or will be loaded for, ``measured_bytes`` the most
    that its process has taken, mapped weights included; null where nothing was measured.
    """

    expected_bytes: int
    measured_bytes: int | None


class ModelInMemory(BaseModel):
    """``users`` have a lease of it, ``waiting`` have asked for one. ``progress`` of its load is
    from 0 to 1, null where it is not known; ``stage`` says what is being done, where the engine
    tells. ``expires`` null: it stays until its room is needed, and if ``pinned`` even then.
    ``profile``: what `freehold tune` measured and it runs with; null: it runs untuned, or is not
    loaded yet.
    """

    model: str
    state: Literal["waiting", "loading", "ready", "leaving"]
    since: str
    expires: str | None
    pinned: bool
    users: int
    waiting: int
    context: int | None
    progress: float | None
    stage: str | None
    memory: Memory
    profile: ProfileShown | None


class ModelsInMemory(BaseModel):
    """In the order of the first request. ``budget_bytes`` are for all together at this moment."""

    budget_bytes: int
    models: list[ModelInMemory]


class Unloaded(BaseModel):
    """``left`` null: it is not in memory. Else it is still in use, and leaves afterwards."""

    model: str
    left: ModelInMemory | None
