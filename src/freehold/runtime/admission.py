"""Who may ask a model now: the queue before each model, and what each caller may have at once.

    request ──▶ its caller's limits ──429──▶        too many under way, or too many tokens a minute
                     │ within them
                     ▼
               the model's queue ──429──▶           full
                     │      └──503──▶               its turn did not come before the deadline
                     ▼ its turn (`fairness`)
               lease, render, generate … ──▶ leave: the next one's turn

Only so many are let through as the engine runs at once, and a few more, so that the next prompt is
ready when a sequence ends; in the engine's own queue it is first come first served. A request is
admitted once, before the model is leased, however many answers or prompts it has. Used from one
event loop.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import itertools
import math
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from freehold.domain.answers import AnswerUsage
from freehold.domain.errors import (
    DeadlineExceeded,
    KeyNotValid,
    QueueFull,
    TokenRateExceeded,
    TooManyAtOnce,
)
from freehold.engines.base import Capabilities
from freehold.runtime.access.caller import Caller, current_caller
from freehold.runtime.access.keyring import Keyring
from freehold.runtime.access.rate import Bucket
from freehold.runtime.fairness import Ticket, Turns
from freehold.runtime.observing import Reading
from freehold.runtime.under_way import Asked, UnderWay

# A client that comes back sooner finds nothing new, one told to wait longer has given up.
_SOONEST, _LATEST = 1, 600
_UNMEASURED_SECONDS = 5.0
_MEMORY = 0.9  # of the past in an average: about ten requests


def look_ahead(parallel: int) -> int:
    """Requests let through beyond those that run: a quarter, so that rendering the next prompt
    costs no sequence its time, and at least one.
    """
    return max(1, parallel // 4)


@dataclass
class _Door:
    """Before one model. ``called`` says to each ticket that its turn has come. ``loaded``: it has
    been, so there is such a model; ``seconds`` is how long a request held its places lately.
    """

    turns: Turns
    called: dict[int, asyncio.Future[None]] = field(default_factory=dict)
    loaded: bool = False
    seconds: float | None = None

    def let_in(self, tickets: tuple[Ticket, ...]) -> None:
        for ticket in tickets:
            if not self.called[ticket.number].done():  # not cancelled
                self.called[ticket.number].set_result(None)

    def over(self, seconds: float) -> None:
        before = seconds if self.seconds is None else self.seconds
        self.seconds = _MEMORY * before + (1 - _MEMORY) * seconds

    def until_a_place_is_free(self) -> int:
        """Seconds, by what requests took lately."""
        seconds = _UNMEASURED_SECONDS if self.seconds is None else self.seconds
        return _whole(seconds / max(1, self.turns.running))


@dataclass(frozen=True)
class Queue:
    """What stands before one model, for observers."""

    model: str
    waiting: int
    running: int
    places: int


class Admitted:
    """A request whose turn has come, until its context ends."""

    def __init__(self, admission: Admission, door: _Door, asked: Asked) -> None:
        self._admission = admission
        self._door = door
        self._asked = asked

    def runs_on(self, capabilities: Capabilities) -> None:
        """What the model can run at once is known only when it is loaded."""
        parallel = capabilities.parallel
        self.finds(parallel + look_ahead(parallel))

    def finds(self, places: int) -> None:
        """There is such a model, and so many sequences are let through to it."""
        self._door.loaded = True
        self._door.let_in(self._door.turns.resize(places))

    def reads(self, reading: Reading) -> None:
        """One of its answers begins."""
        self._asked.readings.append(reading)

    def took(self, used: AnswerUsage) -> None:
        """Tokens, once they are counted."""
        self._admission.charge(self._asked.caller, used)


class Admission:
    """``parallel`` is what a model runs at once as long as it has not said so itself;
    ``most_waiting`` how many requests may wait for each. ``requests`` are those there are.
    """

    def __init__(
        self,
        keyring: Keyring,
        *,
        parallel: int,
        most_waiting: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._keyring = keyring
        self._parallel = parallel
        self._most_waiting = most_waiting
        self._clock = clock
        self._doors: dict[str, _Door] = {}
        self._under_way: collections.Counter[str] = collections.Counter()
        self._buckets: dict[str, Bucket] = {}
        self._numbers = itertools.count()
        self.requests = UnderWay(clock)

    def queues(self) -> tuple[Queue, ...]:
        return tuple(
            Queue(model, door.turns.waiting, door.turns.running, door.turns.places)
            for model, door in self._doors.items()
        )

    @contextlib.asynccontextmanager
    async def turn(
        self, model: str, *, places: int = 1, deadline: float | None = None
    ) -> AsyncIterator[Admitted]:
        """Wait for the turn of a request of the current caller.

        ``model`` is canonical, ``places`` the sequences it will run, ``deadline`` in the event
        loop's time. Raises `TooManyAtOnce`, `TokenRateExceeded`, `QueueFull`, `DeadlineExceeded`,
        and `KeyNotValid` for a key that was revoked while its request waited.
        """
        caller = current_caller()
        door = self._doors.setdefault(model, self._new_door())
        ticket = Ticket(next(self._numbers), caller.id, places, caller.terms.weight)
        try:
            self._require_within(caller, door)
            self._require_room(door, places)
            with self.requests.counted(model, caller) as asked:
                async with self._counted(door, ticket, deadline):
                    if not await self._keyring.holds(caller):
                        raise KeyNotValid(
                            "The key was revoked, or expired, while its request waited."
                        )
                    self._keyring.spend(caller, requests=1)
                    asked.running = True
                    yield Admitted(self, door, asked)
        finally:
            if not door.called and not door.loaded:  # perhaps there is no such model
                self._doors.pop(model, None)

    @contextlib.asynccontextmanager
    async def _counted(
        self, door: _Door, ticket: Ticket, deadline: float | None
    ) -> AsyncIterator[None]:
        """From the queue to the end of the request."""
        self._under_way[ticket.caller] += 1
        try:
            await self._wait(door, ticket, deadline)
            began = self._clock()
            try:
                yield
            finally:
                door.over(self._clock() - began)
        finally:
            del door.called[ticket.number]
            door.let_in(door.turns.leave(ticket))
            self._under_way[ticket.caller] -= 1
            if not self._under_way[ticket.caller]:
                del self._under_way[ticket.caller]

    def charge(self, caller: Caller, used: AnswerUsage) -> None:
        """Tokens a caller has used."""
        self._keyring.spend(
            caller,
            prompt_tokens=used.prompt_tokens,
            cached_tokens=used.cached_tokens,
            completion_tokens=used.completion_tokens,
        )
        bucket = self._bucket(caller)
        if bucket is not None:
            bucket.take(used.prompt_tokens + used.completion_tokens, self._clock())

    def _new_door(self) -> _Door:
        return _Door(Turns(self._parallel + look_ahead(self._parallel), self._most_waiting))

    def _require_within(self, caller: Caller, door: _Door) -> None:
        most = caller.terms.concurrency
        if most is not None and self._under_way[caller.id] >= most:
            raise TooManyAtOnce(
                f"The key {caller.name} may have {most} request{'s' * (most > 1)} under way "
                "at once, and has.",
                retry_after=door.until_a_place_is_free(),
                values={"key": caller.name, "most": most},
            )
        bucket = self._bucket(caller)
        seconds = bucket.wait(self._clock()) if bucket is not None else 0.0
        if seconds > 0:
            raise TokenRateExceeded(
                f"The key {caller.name} has used its {caller.terms.rate} tokens a minute.",
                retry_after=_whole(seconds),
                values={"key": caller.name, "most": caller.terms.rate},
            )

    def _require_room(self, door: _Door, places: int) -> None:
        if door.turns.full_for(places):
            raise QueueFull(
                f"{door.turns.waiting} requests wait for this model already.",
                retry_after=door.until_a_place_is_free(),
                values={"waiting": door.turns.waiting},
            )

    def _bucket(self, caller: Caller) -> Bucket | None:
        rate, now = caller.terms.rate, self._clock()
        if rate is None:
            return None
        bucket = self._buckets.setdefault(caller.id, Bucket.full(rate, now))
        if bucket.rate != rate:
            bucket.change(rate, now)
        return bucket

    async def _wait(self, door: _Door, ticket: Ticket, deadline: float | None) -> None:
        mine = door.called[ticket.number] = asyncio.get_running_loop().create_future()
        door.let_in(door.turns.arrive(ticket))
        try:
            async with asyncio.timeout_at(deadline):
                await mine
        except TimeoutError:
            raise DeadlineExceeded(
                "The request's turn did not come before its deadline: "
                f"{door.turns.running} were being answered and {door.turns.waiting} waiting.",
                hint="Repeat the request later.",
                values={"running": door.turns.running, "waiting": door.turns.waiting},
            ) from None


def _whole(seconds: float) -> int:
    return min(_LATEST, max(_SOONEST, math.ceil(seconds)))
