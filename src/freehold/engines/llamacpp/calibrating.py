"""Measures what predictions of speed need, on models made up for it, in a process of its own.

Run as ``python -P -m freehold.engines.llamacpp.calibrating THREADS fast|plain``. It prints a line
of JSON for everything it begins (`Doing`), and a `Calibration` last. Times are in yardsticks
(`bench_steps`) until the end, those of prompts (``many``, ``prefill``) in the one that reads many
tokens, all others in the one that reads one; each is the middle one of a few, because what is
predicted is the usual speed, not the best.

    fixed costs    a model of almost no weights, with few and with many layers
    attention      a model of almost no weights: a token at the beginning and behind 2,048 others,
                   and the four chunks of 512 up to there
    formats        for each two models larger than the caches, of long rows and of short ones: one
                   token, eight, and a prompt

What is needed most is measured first; where `LIMIT_SECONDS` are over, the rest is left out.
"""

from __future__ import annotations

import ctypes
import datetime
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

import msgspec
import numpy as np

from freehold.domain.engine import CacheConfig, CacheType, Kernels
from freehold.engines.llamacpp.bench_steps import (
    CHUNK,
    Bench,
    Clock,
    Units,
    Yardsticks,
    open_made_up,
)
from freehold.engines.llamacpp.made_up import Shape, bare
from freehold.machine.calibration import FEW, MANY, AttentionCost, Calibration, TypeCost
from freehold.process.inside import leave_no_core
from freehold.text.vocabulary import start_native
from freehold.weights.gguf_types import TensorType

# Flash attention, the type of the cache, and the size of the heads.
Look = tuple[bool, CacheType, int]

# What most files need, in the cache they have unless somebody says otherwise; and what some do.
FIRST: Final[tuple[Look | TensorType, ...]] = (
    *((False, CacheType.F16, dim) for dim in (64, 128, 256)),
    *(TensorType.Q4_K, TensorType.Q6_K, TensorType.Q8_0, TensorType.Q5_0, TensorType.Q4_0),
)
LATER: Final[tuple[Look | TensorType, ...]] = (
    *((True, CacheType.F16, dim) for dim in (64, 128, 256)),
    *(TensorType.BF16, TensorType.F16, TensorType.Q5_K, TensorType.IQ4_NL, TensorType.F32),
    *((True, cache, dim) for cache in (CacheType.Q8_0, CacheType.BF16) for dim in (64, 128)),
)
# Behind these nothing more is begun.
LIMIT_SECONDS: Final = 26.0

# Bytes of weights that no cache holds, whatever the processor says of its own.
_LEAST_BYTES, _MOST_BYTES = 48 << 20, 256 << 20
_DEPTH = 2048
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
    return min(_MOST_BYTES, max(_LEAST_BYTES, 2 * _largest_cache()))


def open_yardsticks(folder: Path, threads: int, kernels: Kernels, clock: Clock) -> Yardsticks:
    """46 million weights in Q8_0. ``folder`` is only written to while it is opened."""
    same = wide(TensorType.Q8_0, 3)
    return Yardsticks.of(open_made_up(folder, same, threads, kernels, CacheConfig()), clock)


def warm_up(yardsticks: Yardsticks) -> None:
    """Keep all cores busy for a while, of which nothing counts."""
    end = time.monotonic() + _WARMING_SECONDS
    both = (yardsticks.one, yardsticks.many)
    while time.monotonic() < end:
        for each in both:
            each.lay(1)
    for each in both:
        each.seconds.clear()
    clock = yardsticks.one.clock  # of both
    clock.wall = clock.cpu = 0.0


# Fixed costs


def fixed(bench: Bench) -> tuple[float, float]:
    """A step of one token, and what a layer adds."""
    none = CacheConfig()
    with (
        bench.opened(bare(_FEW_LAYERS), none) as few,
        bench.opened(bare(_MANY_LAYERS), none) as many,
    ):
        # In turns, so that a slow moment meets both.
        turns = [(few.step(1, 0, 9), many.step(1, 0, 9)) for _ in range(5)]
    short, long = (statistics.median(times) for times in zip(*turns, strict=True))
    layer = (long - short) / (_MANY_LAYERS - _FEW_LAYERS)
    layer = max(0.0, layer)
    return max(0.0, short - _FEW_LAYERS * layer), layer


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
    # As many layers as make looking most of the work, whatever the size of the heads.
    shape = Shape(TensorType.F32, max(2, 512 // head_dim), 64, 64, 8, 2, head_dim)
    settings = CacheConfig(key_type=cache, value_type=cache, flash_attention=flash)
    starts = range(0, _DEPTH, CHUNK)
    with bench.opened(shape, settings) as timed:
        early = timed.step(1, 0, 20)
        timed.step(CHUNK, 0, 1)  # what comes first is slower
        chunks = [timed.step(CHUNK, start, 2) for start in starts]
        late = timed.step(1, _DEPTH - 1, 20)
    slope = statistics.linear_regression([start + CHUNK for start in starts], chunks).slope
    looks = shape.layers * shape.heads
    return AttentionCost(
        flash=flash,
        cache=cache,
        head_dim=head_dim,
        decode=max(0.0, late - early) / (looks * (_DEPTH - _CELLS)),
        prefill=max(0.0, slope) / (looks * CHUNK),
    )


# Formats


@dataclass(frozen=True)
class Known:
    """What is measured by the time formats are: to be taken off. ``units``: what the yardsticks
    took up to now."""

    step: float
    layer: float
    attention: AttentionCost
    units: Units


def wide(kind: TensorType, layers: int) -> Shape:
    """Some 1,300 elements a row."""
    return Shape(kind, layers, 1024, 4096, 16, 4, 64, context=512)


def narrow(kind: TensorType, layers: int) -> Shape:
    """Some 370 elements a row: nearly four times the rows, for as many elements."""
    return Shape(kind, layers, 256, 8192, 4, 1, 64, context=512)


@dataclass(frozen=True)
class Steps:
    """What the matrices of a model take of a step: of one token, of `FEW`, and for each of
    `MANY`."""

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
    with bench.opened(shape, CacheConfig()) as timed:
        timed.step(1, 0, 1)  # maps what is not yet mapped
        one, few, many = timed.step(1, 0, 11), timed.step(FEW, 0, 5), timed.step(MANY, 0, 5)
    fixed = known.step + layers * known.layer
    looks = layers * shape.heads * _CELLS
    exchange = known.units.one / known.units.many

    def rest(whole: float, other: float) -> float:
        """Noise may have come with what is taken off."""
        return max(whole - other, whole / 10)

    decoding, reading = known.attention.decode, known.attention.prefill
    alone = rest(one, fixed + looks * decoding)
    # A token in company never costs more than alone.
    return Steps(
        shape=shape,
        one=alone,
        few=min(rest(few, fixed + FEW * looks * decoding), FEW * alone),
        many=min(rest(many, exchange * fixed + MANY * looks * reading) / MANY, exchange * alone),
    )


def type_cost(broad: Steps, thin: Steps, row_many: float) -> TypeCost:
    """Of one format, from models of many elements a row and of few."""

    def split(long: float, short: float) -> tuple[float, float]:
        return elements_and_rows(
            (broad.shape.elements, broad.shape.rows, long),
            (thin.shape.elements, thin.shape.rows, short),
        )

    one, row_one = split(broad.one, thin.one)
    few, row_few = split(broad.few, thin.few)
    many = statistics.fmean(_of_elements(it, row_many) for it in (broad, thin))
    return TypeCost(broad.shape.kind.name, one, few, many, row_one, row_few, row_many)


def row_of_prompt(formats: Sequence[tuple[Steps, Steps]]) -> float:
    """What a row costs for each token of a prompt: the middle one of all formats.

    The sums have the same type by then, whatever the weights were. Told apart format by format,
    noise of a tenth in one of the models would move half of a prompt's cost.
    """
    return statistics.median(
        elements_and_rows(
            (broad.shape.elements, broad.shape.rows, broad.many),
            (thin.shape.elements, thin.shape.rows, thin.many),
        )[1]
        for broad, thin in formats
    )


def _of_elements(steps: Steps, row: float) -> float:
    """What is left for an element when rows are paid for; half of it all at least."""
    rows = min(steps.shape.rows * row, steps.many / 2)
    return (steps.many - rows) / steps.shape.elements


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


@dataclass
class Found:
    """What is measured so far, in yardsticks; ``read`` in bytes per second. ``formats`` are of long
    rows and of short ones."""

    read: float
    step: float
    layer: float
    looks: list[AttentionCost] = field(default_factory=list)
    formats: list[tuple[Steps, Steps]] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def add(self, bench: Bench, subject: Look | TensorType) -> None:
        if isinstance(subject, TensorType):
            known = Known(self.step, self.layer, self.looks[0], bench.yardsticks.usual)
            long = of_matrices(bench, wide, subject, known)
            self.formats.append((long, of_matrices(bench, narrow, subject, known)))
        else:
            self.looks.append(attention(bench, *subject))

    @property
    def enough(self) -> bool:
        """Whether predictions can be made of it at all."""
        return bool(self.looks and self.formats)


def calibrate(
    threads: int,
    kernels: Kernels,
    tell: Callable[[Doing], None],
    *,
    subjects: Sequence[Look | TensorType] = (*FIRST, *LATER),
) -> Calibration:
    """Measure everything; the first of ``subjects`` is a `Look`. The caller fills in for which
    computer and build."""
    began = time.monotonic()
    total = 3 + len(subjects)
    with tempfile.TemporaryDirectory(prefix="freehold-calibration-") as folder:
        clock = Clock()
        yardsticks = open_yardsticks(Path(folder), threads, kernels, clock)
        bench = Bench(Path(folder), threads, kernels, yardsticks)
        tell(Doing("the processor at work", 0, total))
        warm_up(yardsticks)
        tell(Doing("memory", 1, total))
        read = bandwidth(threads)
        tell(Doing("steps", 2, total))
        found = Found(read, *fixed(bench))
        for number, subject in enumerate(subjects, 3):
            if found.enough and time.monotonic() - began > LIMIT_SECONDS:
                found.left_out.append(in_words(subject))
            else:
                tell(Doing(in_words(subject), number, total))
                found.add(bench, subject)
        yardsticks.one.context.close()
    return told(found, yardsticks.usual, threads, clock.share(threads), time.monotonic() - began)


def told(found: Found, units: Units, threads: int, share: float, seconds: float) -> Calibration:
    """In seconds; ``units`` are what the yardsticks took."""
    longs = [long for long, _ in found.formats]
    row = row_of_prompt(found.formats)
    return Calibration(
        computer="",
        build="",
        measured_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        seconds=seconds,
        threads=threads,
        # Weights that were read faster than the plain reading prove more to be possible.
        bandwidth=max(found.read, *(it.shape.bytes / (it.one * units.one) for it in longs)),
        matrix_rate=max(2 * it.shape.elements / (it.many * units.many) for it in longs),
        step=found.step * units.one,
        layer=found.layer * units.one,
        logit=logit(),
        yardstick=units.one,
        reading_yardstick=units.many,
        types=tuple(in_seconds(type_cost(*pair, row), units) for pair in found.formats),
        attention=tuple(in_seconds(look, units) for look in found.looks),
        share=share,
        left_out=tuple(found.left_out),
    )


def in_words(subject: Look | TensorType) -> str:
    if isinstance(subject, TensorType):
        return f"weights of type {subject.name}"
    flash, cache, head_dim = subject
    kind = "flash attention" if flash else "attention"
    return f"{kind} with heads of {head_dim}, {cache.value} cache"


Cost = TypeVar("Cost", TypeCost, AttentionCost)
_OF_PROMPTS = frozenset({"many", "row_many", "prefill"})


def in_seconds(cost: Cost, units: Units) -> Cost:
    """A cost in yardsticks of so many seconds."""
    times = {
        name: it * (units.many if name in _OF_PROMPTS else units.one)
        for name, it in msgspec.structs.asdict(cost).items()
        if isinstance(it, float)
    }
    return msgspec.structs.replace(cost, **times)


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
