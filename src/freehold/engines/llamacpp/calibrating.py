"""Measures what predictions of speed need, on models made up for it, in a process of its own.

Run as ``python -P -m freehold.engines.llamacpp.calibrating THREADS fast|plain``. It prints a line
of JSON for everything it begins (`Doing`), and a `Calibration` last. Each time is the middle one of
a few, because what is predicted is the usual speed, not the best.

    fixed costs    a model of almost no weights, with few and with many layers
    attention      a model of almost no weights, at the beginning and behind 1,536 tokens
    formats        for each two models larger than the caches, of long rows and of short ones: one
                   token, eight, and a prompt
"""

from __future__ import annotations

import ctypes
import datetime
import logging
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from freehold.domain.engine import CacheConfig, CacheType, Kernels
from freehold.engines.llamacpp.bench_steps import CHUNK, Bench, Clock
from freehold.engines.llamacpp.made_up import Shape, bare
from freehold.machine.calibration import FEW, AttentionCost, Calibration, TypeCost
from freehold.process.inside import leave_no_core
from freehold.text.vocabulary import start_native
from freehold.weights.gguf_types import TensorType

# The formats of the files people run, the most common first.
TYPES = (
    *(TensorType.Q4_K, TensorType.Q6_K, TensorType.Q8_0, TensorType.Q5_0, TensorType.Q4_0),
    *(TensorType.Q5_K, TensorType.IQ4_NL, TensorType.BF16, TensorType.F16, TensorType.F32),
)
# Flash attention, the type of the cache, and the size of the heads.
LOOKS = (
    *((False, CacheType.F16, dim) for dim in (64, 128, 256)),
    *((True, CacheType.F16, dim) for dim in (64, 128, 256)),
    *((True, CacheType.BF16, dim) for dim in (64, 128)),
    *((True, CacheType.Q8_0, dim) for dim in (64, 128)),
)

# Bytes of weights that no cache holds, whatever the processor says of its own.
_LEAST_BYTES, _MOST_BYTES = 64 << 20, 256 << 20
_PROMPT = 128
_DEPTH = 1536
_CELLS = 256
# A processor that was idle is faster for a moment than it can go on.
_WARMING_SECONDS = 2.0
_FEW_LAYERS, _MANY_LAYERS = 4, 24


class Doing(msgspec.Struct, frozen=True, tag=True):
    """What is measured now, and how many of all measurements are done."""

    what: str
    done: int
    total: int


# Memory


def bandwidth(threads: int) -> float:
    """Bytes per second that so many threads read together."""
    size = max(_LEAST_BYTES, 2 * _largest_cache()) * 2
    data = np.ones(size, dtype=np.uint8)
    search = ctypes.CDLL(None).memchr
    search.restype, search.argtypes = (
        ctypes.c_void_p,
        (ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t),
    )
    part = size // threads

    def read(number: int) -> None:
        search(data.ctypes.data + number * part, 0, part)

    best = float("inf")
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(6):
            began = time.perf_counter()
            list(pool.map(read, range(threads)))
            best = min(best, time.perf_counter() - began)
    return part * threads / best


def _largest_cache() -> int:
    """Bytes of the largest cache Linux tells of; 0 where it tells of none."""
    sizes = [0]
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = path.read_text().strip()
        unit = {"K": 1 << 10, "M": 1 << 20}.get(text[-1:], 1)
        if text.rstrip("KM").isdigit():
            sizes.append(int(text.rstrip("KM")) * unit)
    return max(sizes)


def _weights_bytes() -> int:
    return min(_MOST_BYTES, max(_LEAST_BYTES, 4 * _largest_cache()))


def warm_up(bench: Bench) -> None:
    """Keep all cores busy for a while."""
    timed = bench.open(wide(TensorType.Q8_0, 2), CacheConfig())
    end = time.monotonic() + _WARMING_SECONDS
    while time.monotonic() < end:
        timed.steps(_PROMPT, 0, 1)
    timed.context.close()
    bench.clock.wall = bench.clock.cpu = 0.0


# Fixed costs


def fixed(bench: Bench) -> tuple[float, float]:
    """Seconds of a step of one token, and what a layer adds."""
    times = {}
    for layers in (_FEW_LAYERS, _MANY_LAYERS):
        timed = bench.open(bare(layers), CacheConfig())
        times[layers] = timed.step(1, 0, 40)
        timed.context.close()
    layer = (times[_MANY_LAYERS] - times[_FEW_LAYERS]) / (_MANY_LAYERS - _FEW_LAYERS)
    layer = max(0.0, layer)
    return max(0.0, times[_FEW_LAYERS] - _FEW_LAYERS * layer), layer


def logit() -> float:
    """Seconds to find the largest of many logits, for each."""
    row = np.random.default_rng(0).normal(size=1 << 17).astype(np.float32)
    best = float("inf")
    for _ in range(20):
        began = time.perf_counter()
        row.copy().argmax()
        best = min(best, time.perf_counter() - began)
    return best / len(row)


# Attention


def attention(bench: Bench, flash: bool, cache: CacheType, head_dim: int) -> AttentionCost:
    """From what a step takes longer behind many tokens than at the beginning."""
    shape = Shape(TensorType.F32, 2, 64, 64, 8, 2, head_dim)
    timed = bench.open(shape, CacheConfig(key_type=cache, value_type=cache, flash_attention=flash))
    early_token = timed.step(1, 0, 40)
    early_chunk = timed.step(CHUNK, 0, 3)
    timed.fill(_DEPTH)
    late_chunk = timed.step(CHUNK, _DEPTH - CHUNK, 3)
    late_token = timed.step(1, _DEPTH - 1, 40)
    timed.context.close()
    looks = shape.layers * shape.heads
    return AttentionCost(
        flash=flash,
        cache=cache,
        head_dim=head_dim,
        decode=max(0.0, late_token - early_token) / (looks * (_DEPTH - _CELLS)),
        prefill=max(0.0, late_chunk - early_chunk) / (looks * CHUNK * (_DEPTH - CHUNK)),
    )


# Formats


@dataclass(frozen=True)
class Known:
    """What is measured by the time formats are: to be taken off."""

    step: float
    layer: float
    attention: AttentionCost


def wide(kind: TensorType, layers: int) -> Shape:
    """Some 1,300 elements a row."""
    return Shape(kind, layers, 1024, 4096, 16, 4, 64, context=512)


def narrow(kind: TensorType, layers: int) -> Shape:
    """Some 370 elements a row: nearly four times the rows, for as many elements."""
    return Shape(kind, layers, 256, 8192, 4, 1, 64, context=512)


@dataclass(frozen=True)
class Steps:
    """Seconds that the matrices of a model take in a step: of one token, of `FEW`, and for each
    token of a prompt."""

    shape: Shape
    one: float
    few: float
    many: float


def of_matrices(
    bench: Bench, form: Callable[[TensorType, int], Shape], kind: TensorType, known: Known
) -> Steps:
    """Of a model larger than the caches, without what is not its matrices' doing."""
    layers = max(2, -(-_weights_bytes() // form(kind, 1).bytes))
    shape = form(kind, layers)
    timed = bench.open(shape, CacheConfig())
    timed.steps(1, 0, 1)  # maps what is not yet mapped
    early, few = timed.step(1, 0, 7), timed.step(FEW, 0, 3)
    many = timed.step(_PROMPT, 0, 3)
    one = (early + timed.step(1, 0, 7)) / 2
    timed.context.close()
    other = known.step + layers * known.layer
    looks = layers * shape.heads * _CELLS

    def rest(seconds: float, tokens: int, look: float) -> float:
        """Company on the machine may have come with what is taken off."""
        return max(seconds - other - tokens * looks * look, seconds / 10)

    decoding = known.attention.decode
    alone = rest(one, 1, decoding)
    # A token in company never costs more than alone.
    return Steps(
        shape=shape,
        one=alone,
        few=min(rest(few, FEW, decoding), FEW * alone),
        many=min(rest(many, _PROMPT, known.attention.prefill) / _PROMPT, alone),
    )


def type_cost(broad: Steps, thin: Steps) -> TypeCost:
    """Of one format, from models of many elements a row and of few."""

    def split(long: float, short: float) -> tuple[float, float]:
        return elements_and_rows(
            (broad.shape.elements, broad.shape.rows, long),
            (thin.shape.elements, thin.shape.rows, short),
        )

    one, row_one = split(broad.one, thin.one)
    few, row_few = split(broad.few, thin.few)
    many, row_many = split(broad.many, thin.many)
    return TypeCost(broad.shape.kind.name, one, few, many, row_one, row_few, row_many)


def elements_and_rows(
    long: tuple[int, int, float], short: tuple[int, int, float]
) -> tuple[float, float]:
    """What an element and what a row costs, from two models: elements, rows, seconds.

    Both models are met exactly, unless one of the costs would be negative: then a row costs
    nothing, or at most half of what the long rows took.
    """
    (elements, rows, seconds), (others, other_rows, other_seconds) = long, short
    row = (other_seconds * elements - seconds * others) / (other_rows * elements - rows * others)
    row = min(max(0.0, row), seconds / 2 / rows)
    return (seconds - rows * row) / elements, row


# All of it


def calibrate(
    threads: int,
    kernels: Kernels,
    tell: Callable[[Doing], None],
    *,
    types: Iterable[TensorType] = TYPES,
    looks: Iterable[tuple[bool, CacheType, int]] = LOOKS,
) -> Calibration:
    """Measure everything. The caller fills in for which computer and build."""
    began = time.monotonic()
    formats, caches = tuple(types), tuple(looks)
    total, done = 3 + len(caches) + len(formats), 0

    def doing(what: str) -> None:
        nonlocal done
        tell(Doing(what, done, total))
        done += 1

    with tempfile.TemporaryDirectory(prefix="freehold-calibration-") as folder:
        bench = Bench(Path(folder), threads, kernels)
        doing("the processor at work")
        warm_up(bench)
        doing("memory")
        read = bandwidth(threads)
        doing("steps")
        step, layer = fixed(bench)
        attentions = []
        for flash, cache, head_dim in caches:
            doing(f"attention with heads of {head_dim}, {cache.value} cache")
            attentions.append(attention(bench, flash, cache, head_dim))
        known = Known(step, layer, attentions[0])
        costs, fastest_read, fastest_product = [], read, 0.0
        for kind in formats:
            doing(f"weights of type {kind.name}")
            broad = of_matrices(bench, wide, kind, known)
            costs.append(type_cost(broad, of_matrices(bench, narrow, kind, known)))
            fastest_read = max(fastest_read, broad.shape.bytes / broad.one)
            fastest_product = max(fastest_product, 2 * broad.shape.elements / broad.many)
    return Calibration(
        computer="",
        build="",
        measured_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        seconds=time.monotonic() - began,
        threads=threads,
        # Weights that were read faster than the plain reading prove more to be possible.
        bandwidth=fastest_read,
        matrix_rate=fastest_product,
        step=step,
        layer=layer,
        logit=logit(),
        types=tuple(costs),
        attention=tuple(attentions),
        share=bench.clock.share(Clock(), threads),
    )


def main(threads: str, kernels: str) -> None:
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(message)s")
    leave_no_core()
    start_native()

    def tell(doing: Doing) -> None:
        print(msgspec.json.encode(doing).decode(), flush=True)

    found = calibrate(int(threads), Kernels(kernels), tell)
    print(msgspec.json.encode(found).decode(), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
