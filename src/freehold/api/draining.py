"""How a server stops: what runs may finish within a bound, and is then ended with an error. One
request alone is ended in the same way.

SERVING ──begin(seconds)──▶ DRAINING ──seconds──▶ whatever still runs raises `ServerStopping`
                               │
                               └──all is answered──▶ the server ends

any time ──the request's `Stop`──▶ it raises `RequestStopped`
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from freehold.domain.errors import RequestStopped, ServerStopping
from freehold.runtime.logs import current_request
from freehold.runtime.stopping import Stop


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
        """What runs inside ends with the drain at the latest, and where the request is stopped.
        Raises `ServerStopping` and `RequestStopped` then.
        """
        timeout = asyncio.timeout_at(self._ends)
        record = current_request()
        stop = Stop() if record is None else record.stop
        try:
            async with timeout:
                self._running.add(timeout)
                try:
                    with stop.ending(lambda: _expire(timeout)):
                        yield
                finally:
                    self._running.discard(timeout)
        except TimeoutError:
            if not timeout.expired():
                raise
            if stop.asked:
                raise RequestStopped.from_outside() from None
            raise ServerStopping(
                "The server is stopping, and this answer was not over in time.",
                hint="Repeat the request when it is back.",
            ) from None


def _expire(timeout: asyncio.Timeout) -> None:
    if not timeout.expired():
        timeout.reschedule(asyncio.get_running_loop().time())
