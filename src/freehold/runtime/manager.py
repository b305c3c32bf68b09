"""The models of one process: leased by name, loaded once, unloaded when room is needed.

    async with manager.lease("qwen2.5-coder:0.5b") as lease:
        ... lease.supervisor.generate(...)

What is loaded for whom, who waits and who leaves is decided in `residency`; this tells it what
happens and does what it decides. Used from one event loop. Nobody may ask for a second lease while
holding one: it could be behind a model that waits for the first to end.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import itertools
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from freehold.domain.errors import FreeholdError, LoadFailed, Unavailable
from freehold.engines.base import begun_before
from freehold.runtime.access.caller import may_see
from freehold.runtime.lifecycle import Supervisor
from freehold.runtime.names import Described, Names
from freehold.runtime.residency import Residency
from freehold.runtime.residency_words import (
    Asked,
    CancelLoad,
    Closed,
    Dismissed,
    Effect,
    Event,
    Failed,
    Gone,
    Grant,
    Left,
    Load,
    Loaded,
    Measured,
    Phase,
    Pinned,
    Refuse,
    Resident,
    Ticked,
    Turn,
    Unload,
    Why,
)
from freehold.runtime.room import Room, process
from freehold.runtime.upstreams import Upstreams
from freehold.weights.library import Library, LocalModel

log = logging.getLogger(__name__)

# What a model takes is looked at after an answer, if it was not within so long.
_LOOK_SECONDS = 10.0

MakeSupervisor = Callable[[LocalModel], Awaitable[Supervisor]]
Admit = Callable[[LocalModel], None]


@dataclass(frozen=True)
class Lease:
    """A loaded model, kept loaded while the lease is held."""

    model: LocalModel
    supervisor: Supervisor


@dataclass(frozen=True)
class Standing:
    """One model in memory, on its way there or in the queue, for observers.

    Times are the event loop's. ``expected`` is what it was loaded or is to be loaded for, in bytes,
    ``measured`` the most its process has taken, ``progress`` of its load from 0 to 1, ``stage``
    what is being done for that: None where nobody knows.
    """

    resident: Resident
    lease: Lease | None
    expected: int
    measured: int | None
    progress: float | None
    stage: str | None


@dataclass(frozen=True)
class Rules:
    """How long models stay: seconds unused, and while another waits for their room."""

    keep_alive: float = math.inf
    turn: Turn = field(default_factory=Turn)


@dataclass
class _Home:
    """Where a model is in memory: ``task`` loads it, and later unloads it. ``measured``: the most
    that it was seen to take; ``looked_at``: when it was looked at last.
    """

    task: asyncio.Task[None] | None = None
    supervisor: Supervisor | None = None
    lease: Lease | None = None
    measured: int | None = None
    looked_at: float = -math.inf


class Manager:
    """``served`` are files that may be leased by name. ``upstreams`` are asked, not leased.

    ``admit`` raises for a model that may not be loaded; it is called in another thread.
    """

    def __init__(
        self,
        library: Library,
        make: MakeSupervisor,
        room: Room,
        *,
        served: tuple[Path, ...] = (),
        aliases: Mapping[str, str] | None = None,
        admit: Admit | None = None,
        rules: Rules | None = None,
        upstreams: Upstreams | None = None,
    ) -> None:
        rules = rules or Rules()
        self.upstreams = upstreams or Upstreams({})
        self.known = Names(library, served, aliases or {}, self.upstreams.known)
        self.unloads: collections.Counter[Why] = collections.Counter()
        self._library = library
        self._make = make
        self._room = room
        self._admit = admit
        self._residency = Residency(keep_alive=rules.keep_alive, turn=rules.turn)
        self._homes: dict[str, _Home] = {}
        self._opening: dict[str, asyncio.Task[tuple[LocalModel, int]]] = {}
        self._waiting: dict[int, asyncio.Future[Lease]] = {}
        self._tickets = itertools.count()
        self._keys: dict[int, str] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._budget = 0
        self._alarm: asyncio.TimerHandle | None = None
        self._closed = False

    # Names

    def names(self) -> tuple[str, ...]:
        """Of every model that can be leased now: the store's, the files served, the aliases."""
        return self.known.all()

    def canonical(self, name: str) -> str:
        """As `Names.canonical`."""
        return self.known.canonical(name)

    def describe(self, name: str) -> Described:
        """As `Names.describe`; and whether it is loaded."""
        described = self.known.describe(name)
        return replace(described, loaded=self._lease_of(self.canonical(name)) is not None)

    def sole(self) -> str:
        """The only model that is loaded, or else the only one here. Raises `InvalidRequest`."""
        return self.known.sole(self.loaded_names())

    async def local(self, name: str) -> LocalModel:
        """Its files and their header, whether it is loaded or not. Raises `NotFound` or
        `RefusedFile`, and `InvalidRequest` for an upstream."""
        key = self.known.local(name)
        if (lease := self._lease_of(key)) is not None:
            return lease.model
        return await asyncio.to_thread(self._library.local, key)

    # What there is

    def loaded_names(self) -> frozenset[str]:
        return frozenset(key for key in self._homes if self._seen(key) is not None)

    def loaded(self) -> tuple[Lease, ...]:
        """Every model in memory that the caller may see, for observers: these are not held."""
        leases = map(self._seen, self._homes)
        return tuple(lease for lease in leases if lease is not None)

    def _seen(self, key: str) -> Lease | None:
        lease = self._lease_of(key)
        return lease if lease is not None and may_see(lease.model.name) else None

    def ready(self, name: str) -> bool:
        """Whether a request need not wait for a load. Raises as `canonical`."""
        key = self.canonical(name)
        return key in self.upstreams.known or self._lease_of(key) is not None

    def standings(self) -> tuple[Standing, ...]:
        """All that is in memory, comes, goes or waits and that the caller may see, in the order of
        the first request.
        """
        found = self._residency.residents(asyncio.get_running_loop().time())
        return tuple(self._standing(each) for each in found if may_see(each.name))

    def standing(self, name: str) -> Standing | None:
        """None: neither in memory nor asked for. Raises as `canonical`."""
        now = asyncio.get_running_loop().time()
        found = self._residency.resident(self.canonical(name), now)
        return None if found is None else self._standing(found)

    def _standing(self, resident: Resident) -> Standing:
        home = self._homes.get(resident.key, _Home())
        loading = resident.phase is Phase.LOADING and home.supervisor is not None
        return Standing(
            resident,
            home.lease,
            resident.needed,
            home.measured,
            home.supervisor.progress if loading and home.supervisor else None,
            home.supervisor.stage if loading and home.supervisor else None,
        )

    def _lease_of(self, key: str) -> Lease | None:
        home = self._homes.get(key)
        return home.lease if home is not None else None

    def budget(self) -> int:
        """Bytes that all models may take together at this moment."""
        return self._room.allowed(self._workers())

    # Leases

    @contextlib.asynccontextmanager
    async def lease(
        self, name: str, *, keep_alive: float | None = None, deadline: float | None = None
    ) -> AsyncIterator[Lease]:
        """Load if needed and hold.

        ``keep_alive``: seconds the model stays unused from then on; None leaves that as it is.
        ``deadline`` is in the event loop's time. Raises `NotFound`, `RefusedFile`, `EngineError`,
        `DeadlineExceeded`, `InvalidRequest` for an upstream, and `Unavailable` once this is closed.
        """
        key = self.known.local(name)
        ticket = next(self._tickets)
        try:
            name, needed = await self._counted(key, deadline)
            yield await self._enter(Asked(ticket, key, name, needed, deadline, keep_alive))
        finally:
            self._leave(ticket)

    async def _counted(self, key: str, deadline: float | None) -> tuple[str, int]:
        """A model's name and the bytes it needs, as far as `residency` does not know them."""
        if key in self._residency:
            return key, 0
        async with begun_before(deadline):
            model, needed = await self._opened(key)
        return model.name, needed

    async def _enter(self, asked: Asked) -> Lease:
        if self._closed:
            raise Unavailable("The server is stopping.", hint="Ask again when it is back.")
        waiting: asyncio.Future[Lease] = asyncio.get_running_loop().create_future()
        self._waiting[asked.ticket] = waiting
        self._keys[asked.ticket] = asked.key
        self._tell(asked)
        return await waiting

    def _leave(self, ticket: int) -> None:
        waiting = self._waiting.pop(ticket, None)
        if waiting is not None and waiting.done() and not waiting.cancelled():
            waiting.exception()  # whoever was refused may have left at the same moment
        key = self._keys.pop(ticket, None)
        if key is None:
            return
        home = self._homes.get(key)
        # Looking at all processes of an engine takes milliseconds, in which nobody is answered.
        if home is not None and time.monotonic() - home.looked_at >= _LOOK_SECONDS:
            self._measure(key)
        self._tell(Left(ticket))

    async def _opened(self, key: str) -> tuple[LocalModel, int]:
        """A model that may be loaded, and the bytes it needs. All who ask at once share it."""
        opening = self._opening.get(key)
        if opening is None:
            opening = asyncio.create_task(asyncio.to_thread(self._open, key), name=f"open {key}")
            self._opening[key] = opening
            opening.add_done_callback(lambda done: self._opened_now(key, done))
        return await asyncio.shield(opening)

    def _opened_now(self, key: str, done: asyncio.Task[tuple[LocalModel, int]]) -> None:
        del self._opening[key]
        if not done.cancelled():
            done.exception()  # whoever asked may have left

    def _open(self, key: str) -> tuple[LocalModel, int]:
        model = self._admitted(key)
        return model, self._room.needed(model)

    def _admitted(self, key: str) -> LocalModel:
        model = self._library.local(key)
        if self._admit is not None:
            self._admit(model)
        return model

    # Staying and leaving

    async def load(
        self,
        name: str,
        *,
        pin: bool = False,
        keep_alive: float | None = None,
        deadline: float | None = None,
    ) -> Lease:
        """Load if needed, and pin if asked; the lease is not held. Raises as `lease`."""
        async with self.lease(name, keep_alive=keep_alive, deadline=deadline) as lease:
            if pin:
                self.pin(name)
            return lease

    def pin(self, name: str) -> None:
        """It never leaves unless it is told to, from when it is loaded. Raises as `lease`."""
        self._tell(Pinned(self.known.local(name), pinned=True))

    def unpin(self, name: str) -> None:
        """From now on it may leave again. Raises as `canonical`."""
        self._tell(Pinned(self.known.local(name), pinned=False))

    async def dismiss(self, name: str) -> Standing | None:
        """Unload as soon as nobody uses it, pinned or not. What is left of it: None, it is gone.

        Raises as `canonical`, and `InvalidRequest` for an upstream.
        """
        key = self.known.local(name)
        self._tell(Dismissed(key))
        await self._gone(key)
        return self.standing(name)

    async def unload(self, name: str) -> bool:
        """Unload a model unless somebody uses it or it is pinned; whether it is unloaded now.

        Raises as `canonical`.
        """
        standing = self.standing(name)
        if standing is None:
            return self.canonical(name) not in self._opening  # else somebody has just asked
        resident = standing.resident
        if resident.users or resident.waiting or resident.pinned:
            return False
        return await self.dismiss(name) is None

    async def _gone(self, key: str) -> None:
        """Wait for what leaves now. Whoever waits here may be cancelled: it leaves all the same."""
        home = self._homes.get(key)
        leaving = self._residency.resident(key, 0.0)
        if home is None or home.task is None or leaving is None:
            return
        if leaving.phase is Phase.LEAVING:
            await asyncio.wait({home.task})

    async def close(self) -> None:
        """Unload everything, whether in use or not. Whoever waits is refused."""
        self._closed = True
        self._tell(Closed())
        while running := [*self._tasks, *self._opening.values()]:
            await asyncio.wait(running)
        if self._alarm is not None:
            self._alarm.cancel()

    # What `residency` is told, and what it decides

    def _tell(self, event: Event) -> None:
        now = asyncio.get_running_loop().time()
        unknown = isinstance(event, Asked) and event.key not in self._residency
        if unknown or self._residency.contended:  # nothing else depends on it
            self._budget = self._room.allowed(self._workers())
        for effect in self._residency.handle(event, now, self._budget):
            self._perform(effect)
        self._set_alarm(now)

    def _workers(self) -> list[int]:
        pids = (self._pid(home) for home in self._homes.values())
        return [pid for pid in pids if pid is not None]

    def _set_alarm(self, now: float) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = None
        wake = self._residency.wake(now)
        if wake is not None:
            self._alarm = asyncio.get_running_loop().call_at(wake, self._tell, Ticked())

    def _perform(self, effect: Effect) -> None:
        match effect:
            case Grant(ticket):
                lease = self._homes[self._keys[ticket]].lease
                assert lease is not None
                _settle(self._waiting[ticket], lease)
            case Refuse(ticket, error):
                del self._keys[ticket]
                _settle(self._waiting[ticket], error)
            case Load(key):
                self._homes[key] = _Home()
                self._homes[key].task = self._begin(self._load(key), f"load {key}")
            case CancelLoad(key):
                task = self._homes[key].task
                assert task is not None
                task.cancel()
            case Unload(key, why):
                log.info("%s is unloaded: %s", key, why)
                self.unloads[why] += 1
                home = self._homes[key]
                self._grew(home)  # what it took last is what it is remembered for
                lease, home.lease = home.lease, None
                assert lease is not None
                home.task = self._begin(self._unload(key, lease), f"unload {key}")

    def _begin(self, work: Coroutine[None, None, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _load(self, key: str) -> None:
        """The task of one load; however it ends, `residency` is told."""
        event: Event = Loaded(key)
        try:
            await self._loaded(key)
        except asyncio.CancelledError:
            event = Gone(key)
        except FreeholdError as error:
            event = Failed(key, error)
        except Exception as error:
            log.exception("a load ended in a defect")
            event = Failed(key, LoadFailed(f"The model could not be loaded: {error}."))
        if not isinstance(event, Loaded):
            del self._homes[key]
        self._tell(event)
        self._measure(key)

    async def _loaded(self, key: str) -> None:
        home = self._homes[key]
        # Once more: what was opened may have waited long for its turn.
        model = await asyncio.to_thread(self._admitted, key)
        supervisor = home.supervisor = await self._make(model)
        try:
            await supervisor.start()
        except BaseException:
            await supervisor.close()
            raise
        home.lease = Lease(model, supervisor)

    async def _unload(self, key: str, lease: Lease) -> None:
        measured = self._homes[key].measured
        try:
            if measured is not None:
                await asyncio.to_thread(self._room.remember, lease.model, measured)
            await lease.supervisor.close()
        except Exception:
            log.exception("%s did not end as it should", key)
        del self._homes[key]
        self._tell(Gone(key))

    def _measure(self, key: str) -> None:
        home = self._homes.get(key)
        if home is not None and home.lease is not None and self._grew(home):
            assert home.measured is not None
            self._tell(Measured(key, home.measured))

    def _grew(self, home: _Home) -> bool:
        """Look at what it takes; whether that is more than was seen before."""
        pid = self._pid(home)
        if pid is None:
            return False
        taken, home.looked_at = process(pid), time.monotonic()
        if taken is None or taken.resident <= (home.measured or 0):
            return False
        home.measured = taken.resident
        return True

    def _pid(self, home: _Home) -> int | None:
        engine = home.supervisor.engine if home.supervisor is not None else None
        return engine.pid if engine is not None else None


def _settle(waiting: asyncio.Future[Lease], outcome: Lease | FreeholdError) -> None:
    if waiting.done():  # whoever waited has just left, and will say so
        return
    if isinstance(outcome, Lease):
        waiting.set_result(outcome)
    else:
        waiting.set_exception(outcome)
