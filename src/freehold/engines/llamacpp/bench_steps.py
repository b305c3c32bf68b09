"""Steps of models made up for it, timed: what a calibration is built from.

A computer is faster at one moment than at the next, by a third and more where it shares its
processors with others. So one and the same step, the `Yardstick`'s, is timed between all that is
measured, and what is measured is told in yardsticks: both had the same moment. What a yardstick
usually took, over the whole calibration, makes seconds of them in the end. It also takes the place
of the rest of a model, in that it drives what is measured out of the caches.

There are two, as neighbours on the same processors take memory from us at other moments than
arithmetic: with one alone, which was bound by memory, what a token of a prompt costs came out up to
a fourth too low or too high.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from freehold.domain.engine import CacheConfig, Kernels
from freehold.engines.base import EngineConfig
from freehold.engines.llamacpp.binding import Context, Entry
from freehold.engines.llamacpp.made_up import Shape, write_made_up

# Tokens that are read at a time.
CHUNK = 512
# Tokens that the yardstick of prompts reads: enough to be bound by arithmetic.
READ = 32
# How long the yardstick is laid beside a step, as a share of it, and how often at most.
_BESIDE, _MOST_YARDS = 0.1, 6


@dataclass
class Clock:
    """Seconds that passed in steps, and that this process computed meanwhile, on all cores."""

    wall: float = 0.0
    cpu: float = 0.0

    def share(self, threads: int) -> float:
        """Of the cores' time that was ours."""
        return min(1.0, self.cpu / max(1e-9, self.wall * threads))


@dataclass(frozen=True)
class Yardstick:
    """A step of ``tokens`` tokens, always in the same model. ``seconds``: of every time."""

    context: Context
    clock: Clock
    tokens: int
    seconds: list[float] = field(default_factory=list)

    def lay(self, times: int) -> float:
        """Seconds it takes now: the middle one of so many times."""
        taken = [_step(self.context, self.clock, self.tokens, 0) for _ in range(times)]
        self.seconds.extend(taken)
        return statistics.median(taken)

    @property
    def usual(self) -> float:
        """Seconds, over all that was measured."""
        return statistics.median(self.seconds)


@dataclass(frozen=True)
class Units:
    """Seconds of both yardsticks."""

    one: float
    many: float


@dataclass(frozen=True)
class Yardsticks:
    """``one`` reads a single token, and is bound by memory; ``many`` reads `READ`."""

    one: Yardstick
    many: Yardstick

    @classmethod
    def of(cls, context: Context, clock: Clock) -> Yardsticks:
        return cls(Yardstick(context, clock, 1), Yardstick(context, clock, READ))

    def beside(self, tokens: int) -> Yardstick:
        """The one that is bound as a step of so many tokens is."""
        return self.many if tokens >= READ else self.one

    @property
    def usual(self) -> Units:
        """Over all that was measured."""
        return Units(self.one.usual, self.many.usual)


@dataclass(frozen=True)
class Bench:
    """How everything is run. ``folder`` is for the models."""

    folder: Path
    threads: int
    kernels: Kernels
    yardsticks: Yardsticks

    @contextmanager
    def opened(self, shape: Shape, cache: CacheConfig) -> Iterator[Timed]:
        context = open_made_up(self.folder, shape, self.threads, self.kernels, cache)
        try:
            yield Timed(context, self.yardsticks)
        finally:
            context.close()


def open_made_up(
    folder: Path, shape: Shape, threads: int, kernels: Kernels, cache: CacheConfig
) -> Context:
    path = folder / "made-up.gguf"
    write_made_up(path, shape)
    context = Context(
        EngineConfig("made up", (str(path),), shape.context, 1, threads, kernels, cache)
    )
    path.unlink()  # what is mapped stays
    return context


@dataclass(frozen=True)
class Timed:
    """A context whose steps are measured in yardsticks."""

    context: Context
    yardsticks: Yardsticks

    def step(
        self, tokens: int, depth: int, times: int, yardstick: Yardstick | None = None
    ) -> float:
        """Of ``tokens`` tokens after ``depth`` others: the middle one of so many times, in the
        yardstick that is bound as they are, or the one given."""
        yardstick = yardstick or self.yardsticks.beside(tokens)
        yards = 1
        before = yardstick.lay(yards)
        found = []
        for _ in range(times):
            taken = _step(self.context, yardstick.clock, tokens, depth)
            yards = min(_MOST_YARDS, max(1, round(_BESIDE * taken / before)))
            after = yardstick.lay(yards)
            found.append(2 * taken / (before + after))
            before = after
        return statistics.median(found)


def _step(context: Context, clock: Clock, tokens: int, depth: int) -> float:
    """Seconds of one step; what lay behind ``depth`` is forgotten."""
    ids = np.arange(tokens, dtype=np.int32) % 200
    context.truncate(0, depth)
    began, computed = time.perf_counter(), time.process_time()
    context.decode([Entry(0, depth, ids, outputs=1)])
    taken = time.perf_counter() - began
    clock.wall += taken
    clock.cpu += time.process_time() - computed
    return taken
