"""What is tried: the grid of settings and formats, in the order in which they usually matter.

    cache and kernels ──▶ micro-batch and threads ──▶ a core each ──▶ formats ──▶ final

Each stage varies what its name says around the best of the stage before it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from types import MappingProxyType

import msgspec

from freehold.domain.engine import Affinity, CacheConfig, CacheLayout, CacheType
from freehold.machine.computer import Processor
from freehold.machine.profile import EngineSettings
from freehold.weights.gguf_types import FILE_TYPES

# Formats that llama.cpp writes well without an importance matrix -> about how many bits a weight
# takes, whole files, of models whose matrices are small (those keep more).
FORMATS = MappingProxyType(
    {
        "F16": 16.1,
        "BF16": 16.1,
        "Q8_0": 8.6,
        "Q6_K": 8.2,
        "Q5_K_M": 6.7,
        "Q5_1": 6.7,
        "Q5_0": 6.2,
        "Q4_K_M": 6.4,
        "Q4_K_S": 6.2,
        "Q4_1": 5.9,
        "IQ4_NL": 5.7,
        "Q4_0": 5.7,
    }
)
DEFAULT_FORMATS = ("Q8_0", "Q6_K", "Q4_K_M", "Q4_0")
FILE_TYPE_OF = MappingProxyType(
    {name: number for number, name in FILE_TYPES.items() if name in FORMATS}
)
MICRO_BATCHES = (512, 256, 128)


class Candidate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``quantisation`` None: the weights as they are."""

    quantisation: str | None
    settings: EngineSettings


def caches_and_kernels(
    base: EngineSettings, processor: Processor, *, fast_kernels: bool
) -> tuple[Candidate, ...]:
    """The baseline first. ``fast_kernels``: whether they work here, so that there is a choice."""
    caches = (base.cache, *(cache for cache in _caches(base, processor) if cache != base.cache))
    repacks = (True, False) if fast_kernels else (False,)
    settings = (
        msgspec.structs.replace(base, cache=cache, repack=repack)
        for cache in caches
        for repack in repacks
    )
    return _distinct([base, *settings])


def micro_batches_and_threads(
    best: Sequence[Candidate], processor: Processor
) -> tuple[Candidate, ...]:
    return _distinct(
        msgspec.structs.replace(known.settings, micro_batch=micro_batch, threads=threads)
        for known in best
        for threads in thread_counts(known.settings.threads, processor)
        for micro_batch in MICRO_BATCHES
    )


def on_a_core_each(best: Candidate) -> tuple[Candidate, ...]:
    """The same with its threads bound; nothing where there is one thread."""
    settings = best.settings
    if settings.threads < 2 or settings.affinity is Affinity.CORES:
        return ()
    return (free_or_bound(best, Affinity.CORES),)


def free_or_bound(candidate: Candidate, affinity: Affinity) -> Candidate:
    settings = msgspec.structs.replace(candidate.settings, affinity=affinity)
    return msgspec.structs.replace(candidate, settings=settings)


def formats(best: Sequence[Candidate], names: Sequence[str]) -> tuple[Candidate, ...]:
    return tuple(Candidate(name, known.settings) for name in names for known in best)


def thread_counts(base: int, processor: Processor) -> tuple[int, ...]:
    """The base, one for each physical core, one core left to the rest of the system, a half."""
    counts = [base]
    if processor.cores >= 4:
        counts += [processor.physical or base, processor.cores - 1, processor.cores // 2]
    return tuple(dict.fromkeys(min(count, processor.cores) for count in counts))


def _caches(base: EngineSettings, processor: Processor) -> Iterable[CacheConfig]:
    def cache(layout: CacheLayout, kind: CacheType, *, flash: bool) -> CacheConfig:
        return dataclasses.replace(
            base.cache, layout=layout, key_type=kind, value_type=kind, flash_attention=flash
        )

    streams, unified = CacheLayout.STREAMS, CacheLayout.UNIFIED
    yield cache(streams, CacheType.F16, flash=False)
    yield cache(streams, CacheType.F16, flash=True)
    yield cache(streams, CacheType.Q8_0, flash=True)
    yield cache(unified, CacheType.F16, flash=False)
    yield cache(unified, CacheType.F16, flash=True)
    # Without instructions for it, bf16 is only slower.
    if {"avx512_bf16", "amx_bf16", "bf16"}.intersection(processor.instruction_sets):
        yield cache(streams, CacheType.BF16, flash=False)
        yield cache(streams, CacheType.BF16, flash=True)


def _distinct(settings: Iterable[EngineSettings]) -> tuple[Candidate, ...]:
    return tuple(Candidate(None, known) for known in dict.fromkeys(settings))


def changes_answers(candidate: Candidate) -> bool:
    """Whether more than the rounding of sums is different from the weights as they are."""
    kinds = {candidate.settings.cache.key_type, candidate.settings.cache.value_type}
    return candidate.quantisation is not None or not kinds <= {CacheType.F16, CacheType.F32}
