"""Steps of models made up for it, timed: what a calibration is built from.

Each time is the middle one of a few, because what is predicted is the usual speed, not the best;
and what was measured in company is measured again, as long as there is patience.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from freehold.domain.engine import CacheConfig, Kernels
from freehold.engines.base import EngineConfig
from freehold.engines.llamacpp.binding import Context, Entry
from freehold.engines.llamacpp.made_up import Shape, write_made_up
from freehold.machine.calibration import QUIET_SHARE

# Tokens that are read at a time.
CHUNK = 512
_ATTEMPTS = 4


@dataclass
class Clock:
    """Seconds that passed in steps, and that this process computed meanwhile, on all cores.
    ``patience``: how many more may be spent on measuring again what was measured in company."""

    wall: float = 0.0
    cpu: float = 0.0
    patience: float = 6.0

    def share(self, since: Clock, threads: int) -> float:
        """Of the cores' time that was ours."""
        return min(1.0, (self.cpu - since.cpu) / max(1e-9, (self.wall - since.wall) * threads))


@dataclass(frozen=True)
class Bench:
    """How everything is run. ``folder`` is for the models."""

    folder: Path
    threads: int
    kernels: Kernels
    clock: Clock = field(default_factory=Clock)

    def open(self, shape: Shape, cache: CacheConfig) -> Timed:
        path = self.folder / "made-up.gguf"
        write_made_up(path, shape)
        config = EngineConfig(
            "made up", (str(path),), shape.context, 1, self.threads, self.kernels, cache
        )
        context = Context(config)
        path.unlink()  # what is mapped stays
        return Timed(context, self.clock, self.threads)


@dataclass(frozen=True)
class Timed:
    """A context whose steps are timed."""

    context: Context
    clock: Clock
    threads: int

    def steps(self, tokens: int, depth: int, times: int) -> list[float]:
        """Seconds for ``tokens`` tokens after ``depth`` others, each time."""
        ids = np.arange(tokens, dtype=np.int32) % 200
        taken = []
        for _ in range(times):
            self.context.truncate(0, depth)
            began, computed = time.perf_counter(), time.process_time()
            self.context.decode([Entry(0, depth, ids, outputs=1)])
            taken.append(time.perf_counter() - began)
            self.clock.wall += taken[-1]
            self.clock.cpu += time.process_time() - computed
        return taken

    def step(self, tokens: int, depth: int, times: int) -> float:
        """The middle one of `steps`, of the quietest of a few attempts."""
        attempts: list[tuple[float, float]] = []
        while True:
            before = dataclasses.replace(self.clock)
            middle = statistics.median(self.steps(tokens, depth, times))
            share = self.clock.share(before, self.threads)
            attempts.append((share, middle))
            if attempts[1:]:
                self.clock.patience -= self.clock.wall - before.wall
            if share >= QUIET_SHARE or len(attempts) == _ATTEMPTS or self.clock.patience <= 0:
                return max(attempts)[1]

    def fill(self, depth: int) -> None:
        for start in range(0, depth, CHUNK):
            self.steps(min(CHUNK, depth - start), start, 1)
