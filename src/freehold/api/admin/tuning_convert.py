"""From searches and their results to what programs are told. Pure."""

from __future__ import annotations

import dataclasses

import msgspec

from freehold.api.admin.tuning_schema import (
    LossShown,
    PointShown,
    SearchShown,
    SearchWished,
    SpeedsShown,
    TuneRequest,
    TuningShown,
)
from freehold.api.openai.profiles import settings_shown
from freehold.api.sentences import all_shown
from freehold.domain.error_values import as_data
from freehold.machine.tuning import TunedPoint, Tuning
from freehold.runtime.searches import Search, SearchWishes


def wishes(body: TuneRequest) -> SearchWishes:
    return SearchWishes(
        minutes=body.minutes,
        max_loss=body.max_loss,
        users=body.users,
        depth=body.depth,
        formats=None if body.formats is None else tuple(body.formats),
    )


def search(found: Search) -> SearchShown:
    return SearchShown(
        model=found.model,
        wishes=SearchWished.model_validate(dataclasses.asdict(found.wishes)),
        state=found.state,
        began=found.began.isoformat(timespec="seconds"),
        unloaded=found.unloaded,
        stage=found.stage,
        done=found.done,
        count=found.count,
        seconds_left=found.seconds_left,
        notes=all_shown(found.notes),
        error=found.error,
        error_code=found.error_code,
        error_values=as_data(found.error_values),
    )


def tuning(found: Tuning, objection: str | None) -> TuningShown:
    profile = found.profile
    return TuningShown(
        measured_at=profile.measured_at,
        depth=profile.depth,
        users=profile.users,
        max_loss=found.max_loss,
        baseline=_point(found.baseline),
        points=[_point(point) for point in found.points],
        objection=objection,
    )


def _point(point: TunedPoint) -> PointShown:
    loss = point.loss
    return PointShown(
        weights=point.weights,
        settings=settings_shown(point.settings),
        tokens_per_second=SpeedsShown(**msgspec.to_builtins(point.tokens_per_second)),
        gain=point.gain,
        loss=None if loss is None else LossShown(**msgspec.to_builtins(loss)),
        admissible=point.admissible,
        on_frontier=point.on_frontier,
        chosen=point.chosen,
    )
