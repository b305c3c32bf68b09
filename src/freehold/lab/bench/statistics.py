"""Percentiles, means and what they are taken of. Pure."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import msgspec


def percentile(values: Sequence[float], percent: float) -> float | None:
    """Linear between the two nearest ranks; None of nothing."""
    if not values:
        return None
    ordered = sorted(values)
    place = (len(ordered) - 1) * percent / 100
    below, above = math.floor(place), math.ceil(place)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def median(values: Sequence[float | None]) -> float | None:
    """The median of what was measured."""
    return percentile([value for value in values if value is not None], 50)


def geometric_mean(values: Sequence[float]) -> float:
    """The mean for ratios: no workload counts more because its numbers are large."""
    return math.exp(sum(map(math.log, values)) / len(values))


def gaps(moments: Sequence[float]) -> list[float]:
    """The time between each moment and the next."""
    return [later - earlier for earlier, later in itertools.pairwise(moments)]


def time_per_token(between: Sequence[float], tokens: int) -> float | None:
    """TPOT: an answer's gaps together by its tokens after the first; None of one chunk or token."""
    return sum(between) / (tokens - 1) if tokens > 1 and between else None


class Spread(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How ``count`` values are spread."""

    count: int
    mean: float
    p50: float
    p90: float
    p99: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        """None of nothing."""
        p50, p90, p99 = (percentile(values, percent) for percent in (50, 90, 99))
        if p50 is None or p90 is None or p99 is None:
            return None
        mean = math.fsum(values) / len(values)
        return cls(len(values), *(round(value, 3) for value in (mean, p50, p90, p99)))
