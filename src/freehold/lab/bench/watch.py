"""What the client itself costs: it may share the server's cores, and be late where it is busy."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import msgspec

from freehold.lab.bench.statistics import percentile

_TICK = 0.05


class Client(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``cores``: processor time of this process by the time that went by. ``late_ms``: how late
    its event loop came back from short sleeps (99th percentile), which is how wrong a moment may
    be."""

    cores: float
    late_ms: float


class Watch:
    """Looks at this process while `watching`."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._busy = time.process_time()
        self._late: list[float] = []

    async def tick(self) -> None:
        while True:
            due = time.perf_counter() + _TICK
            await asyncio.sleep(_TICK)
            self._late.append(time.perf_counter() - due)

    @property
    def client(self) -> Client:
        seconds = max(time.perf_counter() - self._began, 1e-6)
        late = percentile(self._late, 99) or 0.0
        return Client(
            cores=round((time.process_time() - self._busy) / seconds, 4),
            late_ms=round(max(0.0, late) * 1000, 3),
        )


@contextlib.asynccontextmanager
async def watching() -> AsyncIterator[Watch]:
    """A watch that ticks while this is entered."""
    watch = Watch()
    ticking = asyncio.create_task(watch.tick(), name="watch")
    try:
        yield watch
    finally:
        ticking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await ticking
