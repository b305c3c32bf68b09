"""What engines and processes say of themselves when somebody asks, within a bound."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import psutil

from freehold.domain.errors import FreeholdError
from freehold.engines.llamacpp.messages import Inspected
from freehold.engines.vllm.figures import VllmFigures
from freehold.runtime.lifecycle import Supervisor

# A worker answers between two steps; a step that reads a prompt may take half a second and more.
PATIENCE_SECONDS = 2.0


@runtime_checkable
class Inspectable(Protocol):
    """An engine that tells what it has been doing."""

    async def inspect(self) -> Inspected | VllmFigures: ...


@dataclass(frozen=True)
class EngineFigures:
    """One model's engine. ``inspected`` None: it does not tell, or did not in time.

    ``resident`` are the bytes of its process in memory, mapped weights among them.
    """

    model: str
    engine: str
    sequences: int
    context: int
    inspected: Inspected | VllmFigures | None
    resident: int | None


async def figures_of(
    supervisors: Iterable[Supervisor], patience: float = PATIENCE_SECONDS
) -> tuple[EngineFigures, ...]:
    """All are asked at once; together they take ``patience`` seconds at most."""
    return tuple(await asyncio.gather(*(_figures(each, patience) for each in supervisors)))


async def _figures(supervisor: Supervisor, patience: float) -> EngineFigures:
    engine, can = supervisor.engine, supervisor.capabilities
    inspected: Inspected | VllmFigures | None = None
    asked: object = engine
    if isinstance(asked, Inspectable):
        # It may be busy, or have just died.
        with contextlib.suppress(TimeoutError, FreeholdError):
            async with asyncio.timeout(patience):
                inspected = await asked.inspect()
    return EngineFigures(
        model=supervisor.name,
        engine=type(engine).__name__.removesuffix("Engine").lower(),
        sequences=can.parallel,
        context=can.context,
        inspected=inspected,
        resident=resident_bytes(engine.pid if engine is not None else None),
    )


def resident_bytes(pid: int | None) -> int | None:
    """What a process holds in memory; None: there is none."""
    if pid is None:
        return None
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return None


def own_resident_bytes() -> int:
    return resident_bytes(os.getpid()) or 0
