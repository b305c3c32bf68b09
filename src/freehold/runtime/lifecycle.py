"""Keeping one model alive: start, crash, restart, retry, give up.

               load                         crash
    COLD ────────────▶ LOADING ──ok──▶ READY ────▶ DOWN
                          │                          │ next request, after a pause
                          │ LoadFailed               ▼
                          └──────▶ (the caller's)  LOADING
    any ──close──▶ CLOSED   (a load or restart under way is given up)

Requests that come while the model is down wait for the restart until their
deadline. One that was in flight in a crash and had emitted nothing is tried once
more; if it was in flight in the crash before as well, it is taken for the cause, fails, and
is refused from then on. One that had emitted something ends with the error.
"""

from __future__ import annotations

import asyncio
import collections
import hashlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import msgspec

from freehold.domain.chat import EmbedRequest, GenerateRequest
from freehold.domain.errors import DeadlineExceeded, EngineCrashed, LoadFailed, PoisonRequest
from freehold.domain.events import Event, Finished, TextDelta
from freehold.engines.base import Capabilities, Engine, Progressive, Staged
from freehold.machine.profile import Profile

log = logging.getLogger(__name__)

MakeEngine = Callable[[], Engine]
Sleep = Callable[[float], Awaitable[None]]
# Raises if the model's files are no longer those that were loaded first.
Verify = Callable[[], Awaitable[None]]


async def _nothing_to_verify() -> None:
    """For engines that load no files."""


# Pause before the n-th restart in a row; an answer that finishes resets the count.
PAUSES = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
POISON_REMEMBERED = 256


class Supervisor:
    """One model's engine, through any number of crashes. Used from one event loop.

    ``profile``: the measured settings it runs with.
    """

    def __init__(
        self,
        name: str,
        make: MakeEngine,
        *,
        verify: Verify = _nothing_to_verify,
        profile: Profile | None = None,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self.name = name
        self.profile = profile
        self._verify = verify
        self._make = make
        self._sleep = sleep
        self._engine: Engine | None = None
        self._restarting: asyncio.Task[Engine] | None = None
        self._newest: Engine | None = None
        self._closed = False
        self._crashes = 0
        self._mourned: Engine | None = None
        self._in_flight: collections.Counter[str] = collections.Counter()
        self._last_crash: frozenset[str] = frozenset()
        self._crash_before: frozenset[str] = frozenset()
        self._poison: collections.OrderedDict[str, None] = collections.OrderedDict()

    async def start(self) -> None:
        """Load for the first time. Raises `LoadFailed` or `EngineCrashed`."""
        await self._ready()

    @property
    def capabilities(self) -> Capabilities:
        """Valid after `start`."""
        if self._engine is None:
            raise LoadFailed(f"{self.name} is not loaded.", values={"model": self.name})
        return self._engine.capabilities

    @property
    def engine(self) -> Engine | None:
        """The engine of the moment, for observers."""
        return self._engine

    @property
    def progress(self) -> float | None:
        """How much of the model has been loaded, from 0 to 1, where the engine tells."""
        newest = self._newest
        return newest.progress if isinstance(newest, Progressive) else None

    @property
    def stage(self) -> str | None:
        """What the engine that starts is doing, where it tells."""
        newest = self._newest
        return newest.stage if isinstance(newest, Staged) else None

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Event, None]:
        """As `Engine.generate`, across one crash if nothing had been emitted."""
        fingerprint = _fingerprint(request)
        while True:
            self._refuse_poison(fingerprint)
            engine = await self._ready_before(request.deadline)
            emitted = False
            self._in_flight[fingerprint] += 1
            try:
                events = engine.generate(request)
                try:
                    async for event in events:
                        emitted = emitted or isinstance(event, TextDelta)
                        if isinstance(event, Finished):
                            self._acquit(fingerprint)
                        yield event
                finally:
                    await events.aclose()
                return
            except EngineCrashed:
                self._mourn(engine)
                if emitted:
                    raise
                self._require_another_try(fingerprint)
            finally:
                self._land(fingerprint)

    async def embed(self, request: EmbedRequest) -> tuple[tuple[float, ...], ...]:
        """As `Engine.embed`, across one crash."""
        fingerprint = _digest([request.inputs])
        while True:
            self._refuse_poison(fingerprint)
            engine = await self._ready_before(request.deadline)
            self._in_flight[fingerprint] += 1
            try:
                vectors = await engine.embed(request)
            except EngineCrashed:
                self._mourn(engine)
                self._require_another_try(fingerprint)
            else:
                self._acquit(fingerprint)
                return vectors
            finally:
                self._land(fingerprint)

    async def close(self) -> None:
        self._closed = True
        if self._restarting is not None:
            self._restarting.cancel()
            await asyncio.wait({self._restarting})
        if self._engine is not None:
            await self._engine.close()

    # Crashes

    def _mourn(self, engine: Engine) -> None:
        """Note a crash once, with all that was in flight when it happened."""
        if engine is self._mourned:
            return
        self._mourned = engine
        self._crashes += 1
        self._crash_before, self._last_crash = self._last_crash, frozenset(self._in_flight)

    def _land(self, fingerprint: str) -> None:
        """A request is no longer in flight."""
        self._in_flight[fingerprint] -= 1
        if not self._in_flight[fingerprint]:
            del self._in_flight[fingerprint]

    def _require_another_try(self, fingerprint: str) -> None:
        """After a crash; raises `PoisonRequest` for one that was in flight in two."""
        if fingerprint in self._crash_before:
            self._remember_poison(fingerprint)
            raise self._poisoned() from None
        log.info("a request is tried once more after the crash of %s", self.name)

    def _acquit(self, fingerprint: str) -> None:
        """A request that was answered was not the cause of any crash."""
        self._crashes = 0
        self._last_crash -= {fingerprint}
        self._crash_before -= {fingerprint}

    def _refuse_poison(self, fingerprint: str) -> None:
        if fingerprint in self._poison:
            raise self._poisoned()

    def _remember_poison(self, fingerprint: str) -> None:
        self._poison[fingerprint] = None
        while len(self._poison) > POISON_REMEMBERED:
            self._poison.popitem(last=False)

    def _poisoned(self) -> PoisonRequest:
        return PoisonRequest(
            f"This request was in flight in two crashes of {self.name} and is not tried again.",
            hint="Change the request; if it is harmless, report it with the server's log.",
            values={"model": self.name},
        )

    # Restarts

    async def _ready_before(self, deadline: float | None) -> Engine:
        try:
            async with asyncio.timeout_at(deadline):
                return await self._ready()
        except TimeoutError:
            raise DeadlineExceeded(
                f"{self.name} was not ready before the request's deadline.",
                hint="Repeat the request later.",
                values={"model": self.name},
            ) from None

    async def _ready(self) -> Engine:
        if self._closed:
            raise self._unloaded()
        if self._engine is not None and self._engine.failure is None:
            return self._engine
        if self._restarting is None or self._restarting.done():
            self._restarting = asyncio.create_task(self._restart(), name=f"start {self.name}")
            self._restarting.add_done_callback(_retrieve)
        # A request that gives up waiting must not take the restart down with it.
        return await asyncio.shield(self._restarting)

    def _unloaded(self) -> EngineCrashed:
        return EngineCrashed(f"{self.name} has been unloaded.", values={"model": self.name})

    async def _restart(self) -> Engine:
        try:
            # The dead engine stays until another is there: it still says what the model can do.
            if self._engine is not None:
                await self._engine.close()
                await self._verify()
                await self._sleep(PAUSES[min(max(self._crashes, 1), len(PAUSES)) - 1])
            self._engine = await self._loaded()
        except asyncio.CancelledError:  # by `close`: whoever waits has to hear of it
            raise self._unloaded() from None
        return self._engine

    async def _loaded(self) -> Engine:
        engine = self._newest = self._make()
        try:
            await engine.load()
        except EngineCrashed:
            self._crashes += 1
            await engine.close()
            raise  # the next request tries again
        except BaseException:
            await engine.close()
            raise
        return engine


def _retrieve(restart: asyncio.Task[Engine]) -> None:
    """Look at the outcome, so that asyncio does not report one nobody waited for."""
    if not restart.cancelled():
        restart.exception()


def _fingerprint(request: GenerateRequest) -> str:
    """What makes two requests the same to the engine: everything but ids and deadlines."""
    return _digest(
        [
            request.prompt,
            request.max_tokens,
            request.sampling,
            request.adapters,
            request.constraint,
        ]
    )


def _digest(parts: list[Any]) -> str:
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()
