"""Timing candidates: children that are kept while there is memory for several, results kept in
the journal."""

from __future__ import annotations

import dataclasses
import logging
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from freehold.domain.engine import Kernels
from freehold.domain.errors import EngineError
from freehold.engines.base import EngineConfig
from freehold.engines.llamacpp.tuning_client import Measurer
from freehold.engines.llamacpp.tuning_messages import Time
from freehold.lab.tune.budget import Workload
from freehold.lab.tune.grid import Candidate
from freehold.lab.tune.journal import Journal, Timing
from freehold.machine.probe import memory
from freehold.machine.profile import EngineSettings, Speeds
from freehold.runtime.profiles import merged

log = logging.getLogger(__name__)

# Tokens of context beyond what is read and decoded.
_SPARE = 16
# What models kept loaded leave of the memory that is available.
_MEMORY_LEFT = 0.4


def settings_of(config: EngineConfig) -> EngineSettings:
    return EngineSettings(
        cache=config.cache,
        threads=config.threads,
        micro_batch=config.micro_batch,
        repack=config.kernels is Kernels.FAST,
        affinity=config.affinity,
    )


def configured(
    base: EngineConfig, candidate: Candidate, path: Path | None, *, context: int, sequences: int
) -> EngineConfig:
    """``path`` None: the weights as they are."""
    settings = candidate.settings
    return dataclasses.replace(
        base,
        paths=base.paths if path is None else (str(path),),
        context=context,
        parallel=sequences,
        threads=settings.threads,
        micro_batch=settings.micro_batch,
        kernels=Kernels.FAST if settings.repack else Kernels.PLAIN,
        affinity=settings.affinity,
        cache=dataclasses.replace(merged(base.cache, settings.cache), cells=None),
    )


@dataclass
class Timer:
    """Use as a context: on leaving every child is gone. ``paths`` are of weights made here."""

    base: EngineConfig
    journal: Journal
    size: int
    paths: Mapping[str, Path]
    _open: OrderedDict[tuple[Candidate, int], Measurer] = field(default_factory=OrderedDict)

    async def __aenter__(self) -> Timer:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        while self._open:
            _, measurer = self._open.popitem()
            await measurer.close()

    async def speeds(
        self, candidate: Candidate, workload: Workload, number: int = 0, *, keep: bool = False
    ) -> Timing:
        """Measured now, or by a search that was stopped. ``keep``: it is measured again soon."""
        known = self.journal.timing(candidate, number, workload.depth)
        if known is not None:
            return known
        try:
            measurer = await self._measurer(candidate, workload)
            told = await measurer.time(Time(workload.depth, workload.users, workload.steps))
            speeds = Speeds(told.prefill, told.empty, told.deep, told.many)
            entry = Timing(candidate, number, workload.depth, speeds)
        except EngineError as error:
            log.info("a candidate cannot be run: %s", error)
            entry = Timing(candidate, number, workload.depth, None, error.message)
        if not keep or entry.speeds is None:
            await self.close()
        self.journal.add(entry)
        return entry

    async def _measurer(self, candidate: Candidate, workload: Workload) -> Measurer:
        key = (candidate, workload.depth)
        if key not in self._open:
            while self._open and memory().available * (1 - _MEMORY_LEFT) < self.size:
                _, oldest = self._open.popitem(last=False)
                await oldest.close()
            path = None if candidate.quantisation is None else self.paths[candidate.quantisation]
            context = workload.depth + workload.steps + _SPARE
            self._open[key] = await Measurer.open(
                configured(self.base, candidate, path, context=context, sequences=workload.users)
            )
        self._open.move_to_end(key)
        return self._open[key]
