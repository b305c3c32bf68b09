"""From the moments chunks arrived to the numbers in the table. Pure.

TTFT: from sending a request to its first chunk with text. ITL: the gaps between the
chunks with text of one answer, of all answers together. TPOT: the time from first to
last chunk by the tokens after the first. Throughput: all answers' tokens by the time
from the first request's sending to the last chunk.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from freehold.lab.bench.statistics import gaps, percentile, time_per_token


@dataclass(frozen=True)
class Record:
    """One request. Times in seconds; ``sent`` and ``chunks`` by the same clock.

    ``tokens`` is the server's own count where it gives one; ``copied`` says how much of
    the answer stands in the prompt.
    """

    role: str
    sent: float
    chunks: tuple[float, ...]
    prompt_tokens: int | None
    tokens: int
    wanted: int
    copied: float


@dataclass(frozen=True)
class Summary:
    """One measurement. Times in milliseconds, None where there is nothing to measure.

    ``others`` is the share of the machine that neither the server nor the clients had.
    """

    requests: int
    tokens: int
    cut_short: int
    seconds: float
    tokens_per_second: float
    ttft_p50: float | None
    ttft_p99: float | None
    itl_p50: float | None
    itl_p99: float | None
    tpot_p50: float | None
    tpot_p99: float | None
    copied: float
    peak_memory_mb: float
    others: float


def gaps_within(record: Record, start: float, end: float) -> list[float]:
    """The gaps that overlap the time from ``start`` to ``end``."""
    return [
        later - earlier
        for earlier, later in itertools.pairwise(record.chunks)
        if later > start and earlier < end
    ]


def summarise(records: Sequence[Record], peak_memory: float, others: float = 0.0) -> Summary:
    """One server in one workload. Where a long prompt arrives, ITL is the others' meanwhile."""
    answered = [record for record in records if record.chunks]
    start = min(record.sent for record in records)
    end = max((record.chunks[-1] for record in answered), default=start)
    arrival = next((record for record in answered if record.role == "arrival"), None)
    if arrival is None:
        between = [gap for record in answered for gap in gaps(record.chunks)]
    else:
        between = [
            gap
            for record in answered
            if record is not arrival
            for gap in gaps_within(record, arrival.sent, arrival.chunks[0])
        ]
    first = [record.chunks[0] - record.sent for record in answered]
    pace = [
        each
        for record in answered
        if (each := time_per_token(gaps(record.chunks), record.tokens)) is not None
    ]
    tokens = sum(record.tokens for record in records)
    seconds = end - start
    return Summary(
        requests=len(records),
        tokens=tokens,
        cut_short=sum(record.tokens != record.wanted for record in records),
        seconds=round(seconds, 3),
        tokens_per_second=round(tokens / seconds, 2) if seconds > 0 else 0.0,
        ttft_p50=_milliseconds(first, 50),
        ttft_p99=_milliseconds(first, 99),
        itl_p50=_milliseconds(between, 50),
        itl_p99=_milliseconds(between, 99),
        tpot_p50=_milliseconds(pace, 50),
        tpot_p99=_milliseconds(pace, 99),
        copied=round(sum(record.copied for record in records) / len(records), 3),
        peak_memory_mb=round(peak_memory / 1e6, 1),
        others=round(others, 3),
    )


def _milliseconds(values: Sequence[float], percent: float) -> float | None:
    value = percentile(values, percent)
    return None if value is None else round(value * 1000, 2)


def copied_share(answer: str, prompt: str, window: int = 16) -> float:
    """How many of the answer's stretches of ``window`` characters stand in the prompt."""
    places = range(len(answer) - window + 1)
    if not places:
        return 0.0
    return sum(answer[at : at + window] in prompt for at in places) / len(places)
