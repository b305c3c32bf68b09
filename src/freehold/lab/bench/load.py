"""The two ways load comes: users who wait for their answers, and arrivals that wait for nobody."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from freehold.lab.bench.records import Outcome, Record

# A server that takes no connection so many times in a row is gone.
_GONE_AFTER = 3
_WAIT_UNTOLD = 1.0
_WAIT_AT_MOST = 30.0


@dataclass(frozen=True)
class Asked:
    """A finished request. ``reached`` False: there was no connection to the server."""

    record: Record
    reached: bool = True
    retry_after: float | None = None


# The request of a number; the second argument is when it was due, by `time.perf_counter`.
Ask = Callable[[int, float | None], Awaitable[Asked]]


@dataclass
class Tally:
    """One run of a stage as it goes on. ``until``: nothing is sent after this moment."""

    see: Callable[[Record], None]
    until: float | None = None
    records: list[Record] = field(default_factory=list)
    in_flight: int = 0
    most_in_flight: int = 0
    unreached: int = 0

    @property
    def gone(self) -> bool:
        """Whether the server cannot be reached any more."""
        return self.unreached >= _GONE_AFTER

    @property
    def over(self) -> bool:
        return self.gone or (self.until is not None and time.perf_counter() >= self.until)

    def begin(self) -> None:
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)

    def end(self, record: Record, reached: bool) -> None:
        self.in_flight -= 1
        self.unreached = 0 if reached else self.unreached + 1
        self.records.append(record)
        self.see(record)


async def closed_loop(users: int, numbers: Sequence[int], ask: Ask, tally: Tally) -> None:
    """Each user sends its next request when its last has ended; never more than ``users``.

    A refused one is counted, not sent again; its user waits as long as the server says.
    """
    queue = iter(numbers)

    async def user() -> None:
        for number in queue:
            if tally.over:
                return
            asked = await ask(number, None)
            if asked.record.outcome is Outcome.REFUSED:
                wait = _WAIT_UNTOLD if asked.retry_after is None else asked.retry_after
                await asyncio.sleep(min(wait, _WAIT_AT_MOST))

    async with asyncio.TaskGroup() as group:
        for _ in range(min(users, len(numbers))):
            group.create_task(user())


async def open_loop(
    moments: Sequence[float], numbers: Sequence[int], ask: Ask, tally: Tally
) -> None:
    """Send each request when it is due, whatever has become of those before it."""
    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for moment, number in zip(moments, numbers, strict=True):
            due = began + moment
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            if tally.over:
                return
            group.create_task(_hold(ask(number, due)))


async def _hold(asking: Awaitable[Asked]) -> None:
    await asking
