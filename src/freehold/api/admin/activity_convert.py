"""From what is counted and under way to what programs are told. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from freehold.api.admin.activity_schema import (
    EngineActivity,
    ModelActivity,
    ReadingActivity,
    RequestUnderWay,
)
from freehold.runtime.access.caller import OWNER
from freehold.runtime.admission import Queue
from freehold.runtime.engine_figures import EngineFigures
from freehold.runtime.observing import ModelTally
from freehold.runtime.under_way import Asked

_NOBODY_ASKED = ModelTally()


def models(
    tallies: Mapping[str, ModelTally], queues: Iterable[Queue], engines: Iterable[EngineFigures]
) -> list[ModelActivity]:
    """By name. ``queues`` name models as listings do."""
    before = {queue.model: queue for queue in queues}
    loaded = {engine.model: engine for engine in engines}
    return [
        _model(name, tallies.get(name, _NOBODY_ASKED), before.get(name), loaded.get(name))
        for name in sorted({*tallies, *before, *loaded})
    ]


def _model(
    name: str, tally: ModelTally, queue: Queue | None, engine: EngineFigures | None
) -> ModelActivity:
    counts = tally.so_far()
    return ModelActivity(
        model=name,
        waiting=0 if queue is None else queue.waiting,
        running=0 if queue is None else queue.running,
        answers=counts.answers,
        prompt_tokens=counts.prompt_tokens,
        cached_tokens=counts.cached_tokens,
        completion_tokens=counts.completion_tokens,
        first_tokens=counts.first_tokens,
        first_token_seconds=counts.first_token_seconds,
        engine=None if engine is None else _engine(engine),
    )


def _engine(figures: EngineFigures) -> EngineActivity:
    told: Any = figures.inspected
    return EngineActivity(
        name=figures.engine,
        sequences=figures.sequences,
        context=figures.context,
        resident_bytes=figures.resident,
        running=None if told is None else told.running,
        waiting=None if told is None else told.waiting,
        held_tokens=None if told is None else told.held_tokens,
        shelved_bytes=getattr(told, "shelved_bytes", None),
    )


def request(asked: Asked, now: float, shown: Callable[[str], str]) -> RequestUnderWay:
    """``shown``: the name that listings have for a model."""
    used = asked.usage
    return RequestUnderWay(
        id=asked.id,
        request=asked.request,
        model=shown(asked.model),
        dialect=asked.dialect,
        key=None if asked.caller.id == OWNER.id else asked.caller.name,
        state="running" if asked.running else "waiting",
        seconds=round(max(0.0, now - asked.began), 3),
        prompt_tokens=used.prompt_tokens,
        completion_tokens=used.completion_tokens,
        reading=_reading(asked),
    )


def _reading(asked: Asked) -> ReadingActivity | None:
    """Of all its answers; several to one prompt read it once."""
    read = [each.reading for each in asked.readings if each.reading is not None]
    if not read:
        return None
    furthest = max(read, key=lambda each: each.read)
    return ReadingActivity(tokens=furthest.read, prompt_tokens=furthest.prompt_tokens)
