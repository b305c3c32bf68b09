"""vLLM's own counts, read from its Prometheus text, in the words that all engines share. Pure.

Only the names below are looked at. vLLM labels some of its counts with names of adapters; none of
those is read, and of prompts it tells nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from freehold.domain.errors import EngineError

_QUEUE_SECONDS = "vllm:request_queue_time_seconds"
_CACHE = "vllm:cache_config_info"


@dataclass(frozen=True)
class QueueTimes:
    """Cumulative counts of requests by how long they waited: ``buckets`` have upper bounds in
    seconds, ``total`` is the sum of all waits.
    """

    buckets: tuple[tuple[str, float], ...]
    total: float


@dataclass(frozen=True)
class VllmFigures:
    """As `Inspected`, as far as vLLM counts it. ``queried_tokens`` of prompts were looked for in
    the prefix cache, ``hit_tokens`` found; ``cache_tokens`` is how much the cache holds, 0 where it
    is not told. ``queue`` is since vLLM began.
    """

    running: int
    waiting: int
    held_tokens: int
    cache_tokens: int
    preemptions: int
    queried_tokens: int
    hit_tokens: int
    queue: QueueTimes


def figures_of(text: str) -> VllmFigures:
    """Raises `EngineError` for what is not Prometheus's text, or not vLLM's."""
    try:
        samples = [
            sample
            for family in text_string_to_metric_families(text)
            if family.name.startswith("vllm:")
            for sample in family.samples
        ]
    except (ValueError, LookupError, TypeError) as error:
        raise EngineError(f"vLLM's figures are not understood: {error}.") from error
    sums: dict[str, float] = {}
    for sample in samples:
        sums[sample.name] = sums.get(sample.name, 0.0) + sample.value
    try:
        cache = _cache_tokens(samples)
        return VllmFigures(
            running=int(sums["vllm:num_requests_running"]),
            waiting=int(sums["vllm:num_requests_waiting"]),
            held_tokens=round(_mean(samples, "vllm:kv_cache_usage_perc") * cache),
            cache_tokens=cache,
            preemptions=int(sums["vllm:num_preemptions_total"]),
            queried_tokens=int(sums["vllm:prefix_cache_queries_total"]),
            hit_tokens=int(sums["vllm:prefix_cache_hits_total"]),
            queue=_queue(samples),
        )
    except (KeyError, ValueError, ZeroDivisionError) as error:
        raise EngineError(f"vLLM's figures lack what is read of them: {error}.") from error


def _mean(samples: Iterable[Sample], name: str) -> float:
    """Of a share that each of vLLM's engines tells."""
    values = [sample.value for sample in samples if sample.name == name]
    return sum(values) / len(values)


def _cache_tokens(samples: Iterable[Sample]) -> int:
    found = 0
    for sample in samples:
        if sample.name == _CACHE:
            labels: Mapping[str, str] = sample.labels
            found += _number(labels.get("num_gpu_blocks")) * _number(labels.get("block_size"))
    return found


def _number(text: str | None) -> int:
    """0 for what is no number: vLLM writes ``None``."""
    return int(text) if text is not None and text.isdecimal() else 0


def _queue(samples: Iterable[Sample]) -> QueueTimes:
    buckets: dict[str, float] = {}
    total = 0.0
    for sample in samples:
        if sample.name == f"{_QUEUE_SECONDS}_bucket":
            bound = sample.labels["le"]
            buckets[bound] = buckets.get(bound, 0.0) + sample.value
        elif sample.name == f"{_QUEUE_SECONDS}_sum":
            total += sample.value
    return QueueTimes(tuple(sorted(buckets.items(), key=lambda each: float(each[0]))), total)
