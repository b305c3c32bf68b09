"""How a server stops: what runs may finish within a bound, and is then ended with an error.

SERVING ──begin(seconds)──▶ DRAINING ──seconds──▶ whatever still runs raises `ServerStopping`
                               │
                               └──all is answered──▶ the server ends
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from freehold.domain.errors import ServerStopping


class Draining:
    """Used from one event loop."""

    def __init__(self) -> None:
        self._running: set[asyncio.Timeout] = set()
        self._ends: float | None = None

    @property
    def begun(self) -> bool:
        return self._ends is not None

    def begin(self, seconds: float) -> None:
        """What runs now, and what still comes on open connections, has so long."""
        self._ends = asyncio.get_running_loop().time() + seconds
        for timeout in self._running:
            if not timeout.expired():
                timeout.reschedule(self._ends)

    @contextlib.asynccontextmanager
    async def bounded(self) -> AsyncIterator[None]:
        """What runs inside ends with the drain at the latest. Raises `ServerStopping` then."""
        timeout = asyncio.timeout_at(self._ends)
        try:
            async with timeout:
                self._running.add(timeout)
                try:
                    yield
                finally:
                    self._running.discard(timeout)
        except TimeoutError:
            if not timeout.expired():
                raise
            raise ServerStopping(
                "The server is stopping, and this answer was not over in time.",
                hint="Repeat the request when it is back.",
            ) from None
