"""``/metrics``: what is counted, in Prometheus's words.

Labels hold the names of models that are or were loaded, and words of ours: nothing that a request
could make up. What a key has used is `freehold key usage`'s to tell: who asks how much is nobody's
business who may only watch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version

from fastapi import APIRouter, Request
from fastapi.responses import Response
from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from freehold.api.routing import runtime_of
from freehold.domain.upstreams import host_of
from freehold.engines.llamacpp.messages import Inspected
from freehold.engines.upstream.engine import UpstreamFigures
from freehold.engines.upstream.replicas import Health
from freehold.engines.vllm.figures import QueueTimes, VllmFigures
from freehold.runtime.admission import Queue
from freehold.runtime.engine_figures import EngineFigures, figures_of, own_resident_bytes
from freehold.runtime.observing import Histogram, Meters, ModelTally
from freehold.runtime.residency_words import Why

router = APIRouter()


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics(request: Request) -> Response:
    """Counts and gauges for Prometheus. Engines that do not answer in time are left out."""
    runtime = runtime_of(request)
    engines = await figures_of(lease.supervisor for lease in runtime.manager.loaded())
    encode, media_type = choose_encoder(request.headers.get("accept", ""))
    known = runtime.manager.known
    queues = tuple(
        replace(queue, model=known.shown(queue.model)) for queue in runtime.admission.queues()
    )
    upstreams = runtime.manager.upstreams.figures()
    told = Told(runtime.meters, engines, queues, runtime.manager.unloads, upstreams)
    return Response(encode(registry(told)), media_type=media_type)


def registry(told: Told) -> CollectorRegistry:
    """A registry of our own: the library's usual one tells of things we have not asked for."""
    collected = CollectorRegistry(auto_describe=False)
    collected.register(told)
    return collected


@dataclass(frozen=True, eq=False)  # a registry keeps its collectors by identity
class Told(Collector):
    """Everything that is told, at one moment. ``queues`` stand before models that have been loaded;
    ``unloads`` by reason.
    """

    meters: Meters
    engines: tuple[EngineFigures, ...]
    queues: tuple[Queue, ...]
    unloads: Mapping[Why, int]
    upstreams: tuple[UpstreamFigures, ...] = ()

    def collect(self) -> Iterable[Metric]:
        yield from _gateway(self.meters)
        yield from _room(self.queues, self.unloads)
        yield from _answers(self.meters.models, _queue_times(self.engines))
        yield from _engines(self.engines)
        if self.upstreams:
            yield from _upstreams(self.upstreams)


def _gateway(meters: Meters) -> Iterator[Metric]:
    info = GaugeMetricFamily("freehold_info", "Always 1; what runs here.", labels=["version"])
    info.add_metric([version("freehold")], 1)
    yield info
    requests = CounterMetricFamily(
        "freehold_requests",
        "HTTP requests that are over, by dialect and status. 499: the client left before it.",
        labels=["dialect", "status"],
    )
    for (dialect, status), count in sorted(meters.requests.items()):
        requests.add_metric([dialect, str(status)], count)
    yield requests
    yield GaugeMetricFamily(
        "freehold_requests_in_flight", "HTTP requests under way.", value=meters.in_flight
    )
    yield GaugeMetricFamily(
        "freehold_gateway_resident_bytes",
        "Memory of the process that answers HTTP.",
        value=own_resident_bytes(),
    )


def _room(queues: tuple[Queue, ...], unloads: Mapping[Why, int]) -> Iterator[Metric]:
    for name, help_text in (
        ("waiting", "Requests that wait for their turn before a model."),
        ("running", "Requests whose turn it is."),
    ):
        family = GaugeMetricFamily(f"freehold_queue_{name}", help_text, labels=["model"])
        for queue in queues:
            family.add_metric([queue.model], getattr(queue, name))
        yield family
    left = CounterMetricFamily("freehold_unloads", "Models unloaded, by reason.", labels=["reason"])
    for why in Why:
        left.add_metric([why.name.lower()], unloads.get(why, 0))
    yield left


_COUNTS = (
    ("prompt_tokens", "Tokens of prompts, cached ones included."),
    ("cached_tokens", "Tokens of prompts that were in the prefix cache."),
    ("completion_tokens", "Tokens generated, reasoning included."),
    ("reasoning_tokens", "Tokens generated as reasoning."),
    ("prefix_hits", "Answers that found some of their prompt in the prefix cache."),
    ("loads", "Times the model was loaded into memory."),
    ("restarts", "Times its engine was started again after it had died."),
)
_TIMES = (
    ("first_token", "time_to_first_token_seconds", "From a request's arrival to its first token."),
    ("between_tokens", "inter_token_seconds", "Between the tokens of an answer, as they arrive."),
    ("queued", "engine_queue_seconds", "From the engine's receipt to a request's first step."),
)


def _answers(
    models: dict[str, ModelTally], elsewhere: Mapping[str, QueueTimes]
) -> Iterator[Metric]:
    """``elsewhere``: what engines measure that do not tell it of each answer."""
    ended = CounterMetricFamily(
        "freehold_answers",
        "Answers that are over, by how they ended.",
        labels=["model", "end"],
    )
    for model, tally in sorted(models.items()):
        for end, count in sorted(tally.answers.items()):
            ended.add_metric([model, end], count)
    yield ended
    for name, help_text in _COUNTS:
        family = CounterMetricFamily(f"freehold_{name}", help_text, labels=["model"])
        for model, tally in sorted(models.items()):
            family.add_metric([model], getattr(tally, name))
        yield family
    for name, told_as, help_text in _TIMES:
        times = HistogramMetricFamily(f"freehold_{told_as}", help_text, labels=["model"])
        for model, tally in sorted(models.items()):
            if name == "queued" and model in elsewhere:
                times.add_metric([model], elsewhere[model].buckets, elsewhere[model].total)
                continue
            histogram: Histogram = getattr(tally, name)
            times.add_metric([model], _buckets(histogram), histogram.total)
        yield times


def _queue_times(engines: Iterable[EngineFigures]) -> dict[str, QueueTimes]:
    return {
        each.model: each.inspected.queue
        for each in engines
        if isinstance(each.inspected, VllmFigures)
    }


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    """Cumulative, as Prometheus has them."""
    count, told = 0, []
    for bound, here in zip((*histogram.bounds, "+Inf"), histogram.counts, strict=True):
        count += here
        told.append((str(bound), float(count)))
    return told


_GAUGES = (
    ("running", "Requests the engine works on."),
    ("waiting", "Requests that wait inside the engine."),
    ("held_tokens", "Tokens in the key-value cache."),
    ("cache_tokens", "Tokens that all of it holds, where blocks are shared among sequences."),
    ("shelved_bytes", "Ordinary memory that keeps the prefixes of finished requests."),
)
_TOTALS = (
    ("preemptions", "Requests put aside because the cache was full."),
    ("drafted_tokens", "Tokens guessed."),
    ("accepted_tokens", "Guessed tokens that were right."),
    ("queried_tokens", "Tokens of prompts that were looked for in the engine's prefix cache."),
    ("hit_tokens", "Those of them that were there."),
)
_KINDS = ("answering", "mixed", "reading")
_SHARES = (
    ("steps", "engine_steps", "Steps, by what they held."),
    ("seconds", "engine_step_seconds", "Time spent in steps."),
    ("rows", "engine_rows", "Rows of answers computed in steps."),
    ("tokens", "engine_prompt_tokens", "Tokens of prompts computed in steps."),
)


def _engines(engines: tuple[EngineFigures, ...]) -> Iterator[Metric]:
    labels = ["model", "engine"]
    told = [each for each in engines if each.inspected is not None]
    yield _gauge(
        "answers_inspection",
        "1: the figures below are here. 0: it was too busy.",
        [(each, float(each.inspected is not None)) for each in engines],
    )
    yield _gauge(
        "sequences",
        "Sequences it can run at once.",
        [(each, float(each.sequences)) for each in engines],
    )
    yield _gauge(
        "context_tokens",
        "Tokens each sequence can hold.",
        [(each, float(each.context)) for each in engines],
    )
    yield _gauge(
        "resident_bytes",
        "Memory of its process, mapped weights included.",
        [(each, float(each.resident)) for each in engines if each.resident is not None],
    )
    for name, help_text in _GAUGES:
        yield _gauge(
            name,
            help_text,
            [(each, value) for each in told if (value := _of(each, name)) is not None],
        )
    for name, help_text in _TOTALS:
        total = CounterMetricFamily(f"freehold_engine_{name}", help_text, labels=labels)
        for each in told:
            if (value := _of(each, name)) is not None:
                total.add_metric([each.model, each.engine], value)
        yield total
    for name, told_as, help_text in _SHARES:
        share = CounterMetricFamily(f"freehold_{told_as}", help_text, labels=[*labels, "kind"])
        for each in told:
            if isinstance(each.inspected, Inspected):
                for kind in _KINDS:
                    value = getattr(getattr(each.inspected, kind), name)
                    share.add_metric([each.model, each.engine, kind], value)
        yield share


def _of(engine: EngineFigures, name: str) -> float | None:
    """None: this engine does not count it."""
    return getattr(engine.inspected, name, None)


_REPLICAS = (
    ("requests", "Requests under way at a replica of an upstream."),
    ("tokens", "Tokens outstanding there, prompts and answers, as expected beforehand."),
)


def _upstreams(upstreams: tuple[UpstreamFigures, ...]) -> Iterator[Metric]:
    labels = ["model", "replica"]
    told = [(each.name, replica) for each in upstreams for replica in each.replicas]
    healthy = GaugeMetricFamily(
        "freehold_upstream_healthy", "1: it gets requests. 0: it was ejected.", labels=labels
    )
    for model, replica in told:
        well = replica.health is not Health.EJECTED
        healthy.add_metric([model, host_of(replica.url)], float(well))
    yield healthy
    for name, help_text in _REPLICAS:
        gauge = GaugeMetricFamily(f"freehold_upstream_{name}", help_text, labels=labels)
        for model, replica in told:
            gauge.add_metric([model, host_of(replica.url)], getattr(replica, name))
        yield gauge
    ejections = CounterMetricFamily(
        "freehold_upstream_ejections", "Times a replica was ejected.", labels=labels
    )
    for model, replica in told:
        ejections.add_metric([model, host_of(replica.url)], replica.ejections)
    yield ejections
    retries = CounterMetricFamily(
        "freehold_upstream_retries", "Requests that another replica was asked.", labels=["model"]
    )
    for each in upstreams:
        retries.add_metric([each.name], each.retries)
    yield retries


def _gauge(name: str, help_text: str, values: list[tuple[EngineFigures, float]]) -> Metric:
    family = GaugeMetricFamily(f"freehold_engine_{name}", help_text, labels=["model", "engine"])
    for each, value in values:
        family.add_metric([each.model, each.engine], value)
    return family
