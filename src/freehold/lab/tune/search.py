"""Who is better, who stays in the running, and who wins. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from freehold.domain.engine import Affinity
from freehold.lab.tune.grid import Candidate, free_or_bound
from freehold.machine.profile import WEIGHTS, Loss, Speeds, score

# Below this a gain is not told from noise.
LEAST_GAIN = 0.03
# No part of the mix may be slower than untuned by more than a measurement may be off.
SLACK = 0.05


@dataclass(frozen=True)
class Point:
    """One finalist as measured, with its loss (None: nothing but rounding is different)."""

    candidate: Candidate
    speeds: Speeds
    loss: Loss | None = None


def projected(speeds: Speeds, depth: int, full: int) -> Speeds:
    """What was measured ``depth`` tokens deep as it would be at ``full``: a token's time grows by
    the same for each token it looks back on. For the first stages; what is shown is measured.
    """
    shallow = 1 / speeds.empty
    growth = max(0.0, 1 / speeds.deep - shallow) * full / depth
    return msgspec.structs.replace(speeds, deep=1 / (shallow + growth))


def best(
    measured: Mapping[Candidate, Speeds], baseline: Speeds, count: int
) -> tuple[Candidate, ...]:
    """The ``count`` fastest, best first."""
    return tuple(sorted(measured, key=lambda c: -score(measured[c], baseline))[:count])


def worth_binding(
    bound: Mapping[Candidate, Speeds], measured: Mapping[Candidate, Speeds]
) -> dict[Candidate, Speeds]:
    """Those that are faster by more than noise than the same with threads that are free. Bound
    ones cannot make way for another program, and that is not in the measurement."""
    return {
        candidate: speeds
        for candidate, speeds in bound.items()
        if score(speeds, measured[free_or_bound(candidate, Affinity.FREE)]) > 1 + LEAST_GAIN
    }


def finalists(
    baseline: Candidate, measured: Mapping[Candidate, Speeds], untuned: Speeds
) -> tuple[Candidate, ...]:
    """The baseline, and of each format the fastest, those first that are slower at nothing, as
    far as a first look tells; those that gain nothing are left out."""
    chosen: dict[str | None, Candidate] = {}
    ranked = best(measured, untuned, len(measured))
    for candidate in sorted(ranked, key=lambda c: slowest(measured[c], untuned) < 1 - 2 * SLACK):
        worth = score(measured[candidate], untuned) > 1
        if candidate != baseline and worth:
            chosen.setdefault(candidate.quantisation, candidate)
    return (baseline, *chosen.values())


def medians(rounds: Sequence[Speeds]) -> Speeds:
    return Speeds(**{part: statistics.median(getattr(r, part) for r in rounds) for part in WEIGHTS})


def admissible(point: Point, baseline: Speeds, max_loss: float) -> bool:
    """Within the loss allowed, and at no part of the mix slower than untuned."""
    lossless = point.loss is None or point.loss.divergence <= max_loss
    return lossless and slowest(point.speeds, baseline) >= 1 - SLACK


def slowest(speeds: Speeds, baseline: Speeds) -> float:
    """The least ratio of all parts of the mix."""
    ratios: list[float] = [getattr(speeds, part) / getattr(baseline, part) for part in WEIGHTS]
    return min(ratios)


def limit(baseline: Point, max_loss: float) -> float:
    """What may be lost: as much as is allowed, or as the weights as they are have lost already
    against a better source."""
    return max(max_loss, baseline.loss.divergence if baseline.loss else 0.0)


def winner(baseline: Point, others: Sequence[Point], max_loss: float) -> Point:
    """The fastest that is admissible, if it is faster than noise could make it; else the
    baseline."""
    most = limit(baseline, max_loss)
    allowed = [p for p in others if admissible(p, baseline.speeds, most)]
    fastest = max(allowed, key=lambda p: score(p.speeds, baseline.speeds), default=baseline)
    return fastest if score(fastest.speeds, baseline.speeds) > 1 + LEAST_GAIN else baseline


def frontier(baseline: Point, others: Sequence[Point]) -> tuple[Point, ...]:
    """Those that nobody beats at both speed and loss; the least loss first."""

    def loss(point: Point) -> float:
        return point.loss.divergence if point.loss is not None else 0.0

    kept: list[Point] = []
    ranked = sorted((baseline, *others), key=lambda p: (loss(p), -score(p.speeds, baseline.speeds)))
    for point in ranked:
        if not kept or score(point.speeds, baseline.speeds) > score(
            kept[-1].speeds, baseline.speeds
        ):
            kept.append(point)
    return tuple(kept)
