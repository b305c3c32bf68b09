"""From the records of a stage to its figures, and from several runs to their medians. Pure.

Rates are by the seconds from the first sending to the end of the last request; only completed
requests count as output. Goodput: completed requests a second that kept to the limits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import msgspec

from freehold.lab.bench.records import Limits, Outcome, Record
from freehold.lab.bench.statistics import Spread, median


class Summary(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One run of a stage. ``ttfa_ms`` is of answers that reasoned first; ``goodput`` None: no
    limits were given. ``shorter``: completed answers of fewer tokens than asked for."""

    requests: int
    completed: int
    refused: int
    failed: int
    cancelled: int
    shorter: int
    seconds: float
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    output_per_second: float
    total_per_second: float
    requests_per_second: float
    goodput: float | None
    ttft_ms: Spread | None
    ttfa_ms: Spread | None
    tpot_ms: Spread | None
    itl_ms: Spread | None
    late_ms: Spread | None


def summarise(records: Sequence[Record], limits: Limits) -> Summary:
    """The figures of one run."""
    counts = Counter(record.outcome for record in records)
    done = [record for record in records if record.outcome is Outcome.COMPLETED]
    start = min((record.sent_s for record in records), default=0.0)
    seconds = max((record.ended_s for record in records), default=start) - start
    read = sum(record.prompt_tokens or 0 for record in done)
    written = sum(record.completion_tokens for record in done)

    def rate(count: int) -> float:
        return round(count / seconds, 4) if seconds > 0 else 0.0

    return Summary(
        requests=len(records),
        completed=len(done),
        refused=counts[Outcome.REFUSED],
        failed=counts[Outcome.FAILED],
        cancelled=counts[Outcome.CANCELLED],
        shorter=sum(record.completion_tokens < record.wanted_tokens for record in done),
        seconds=round(seconds, 3),
        prompt_tokens=read,
        cached_tokens=sum(record.cached_tokens or 0 for record in done),
        completion_tokens=written,
        output_per_second=rate(written),
        total_per_second=rate(read + written),
        requests_per_second=rate(len(done)),
        goodput=rate(sum(map(limits.met, done))) if limits.given else None,
        ttft_ms=_spread([record.ttft_ms for record in done]),
        ttfa_ms=_spread([record.ttfa_ms for record in done if record.reasoned]),
        tpot_ms=_spread([record.tpot_ms for record in done]),
        itl_ms=Spread.of([gap for record in done for gap in record.gaps_ms]),
        late_ms=_spread([record.late_ms for record in records]),
    )


def _spread(values: Sequence[float | None]) -> Spread | None:
    return Spread.of([value for value in values if value is not None])


def _of(name: str, part: str) -> Callable[[Summary], float | None]:
    def figure(summary: Summary) -> float | None:
        spread = getattr(summary, name)
        return None if spread is None else float(getattr(spread, part))

    return figure


_TIMES = ("ttft_ms", "ttfa_ms", "tpot_ms", "itl_ms")
_PARTS = ("mean", "p50", "p90", "p99")

# Every figure that has a median over repeats, by its name in JSON.
FIGURES: Mapping[str, Callable[[Summary], float | None]] = {
    "output_per_second": lambda summary: summary.output_per_second,
    "total_per_second": lambda summary: summary.total_per_second,
    "requests_per_second": lambda summary: summary.requests_per_second,
    "goodput": lambda summary: summary.goodput,
    **{f"{name}.{part}": _of(name, part) for name in _TIMES for part in _PARTS},
}


class Middle(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A figure over the repeats."""

    median: float
    low: float
    high: float


def middles(summaries: Sequence[Summary]) -> dict[str, Middle]:
    """For each of `FIGURES` that was measured, its median and its extremes."""
    found = {}
    for name, figure in FIGURES.items():
        values = [value for summary in summaries if (value := figure(summary)) is not None]
        middle = median(values)
        if middle is not None:
            found[name] = Middle(middle, min(values), max(values))
    return found
