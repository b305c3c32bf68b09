"""Which models are loaded: leased by name, loaded once, unloaded when room is needed.

    async with manager.lease("qwen2.5-coder:0.5b") as lease:
        ... lease.supervisor.generate(...)

Loads of one model coalesce. Before a load the memory the system has available is
compared with what the model needs; models nobody is using leave first, least
recently used first. A model in use never leaves. Used from one event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from freehold.domain.errors import FreeholdError, LoadFailed, UnknownModel
from freehold.runtime.lifecycle import Supervisor
from freehold.weights.library import Library, LocalModel
from freehold.weights.reference import PathReference, parse
from freehold.weights.registry import Manifest

log = logging.getLogger(__name__)

MakeSupervisor = Callable[[LocalModel], Awaitable[Supervisor]]
AvailableMemory = Callable[[], int]


@dataclass(frozen=True)
class Lease:
    """A loaded model, kept loaded while the lease is held."""

    model: LocalModel
    supervisor: Supervisor


@dataclass(frozen=True)
class Described:
    """One model as a listing shows it. A served file has no manifest."""

    name: str
    loaded: bool
    aliases: tuple[str, ...] = ()
    manifest: Manifest | None = None


@dataclass
class _Entry:
    loading: asyncio.Task[Lease]
    users: int = 0
    last_used: int = 0

    @property
    def loaded(self) -> Lease | None:
        done = self.loading.done() and not self.loading.cancelled()
        return self.loading.result() if done and self.loading.exception() is None else None


class Manager:
    """The models of one process. ``served_paths`` are files that may be leased by name."""

    def __init__(
        self,
        library: Library,
        make: MakeSupervisor,
        available_memory: AvailableMemory,
        served_paths: tuple[Path, ...] = (),
    ) -> None:
        self._library = library
        self._make = make
        self._available = available_memory
        self._served = served_paths
        self._entries: dict[str, _Entry] = {}
        self._room = asyncio.Lock()
        self._uses = 0

    # Names

    def names(self) -> tuple[str, ...]:
        """Ids of every model that can be leased now: the store's, and the files served."""
        stored = [manifest.reference for manifest in self._library.registry.all()]
        return tuple(dict.fromkeys([*stored, *(path.stem for path in self._served)]))

    def describe(self, name: str) -> Described:
        """What is known of a model without opening its files. Raises as `canonical` does,
        and `ModelNotPulled` for one whose weights are not here.
        """
        key = self.canonical(name)
        entry = self._entries.get(key)
        loaded = entry is not None and entry.loaded is not None
        for path in self._served:
            if key == str(path):
                return Described(path.stem, loaded, (str(path),))
        manifest = self._library.registry.get(key)
        return Described(manifest.reference, loaded, (), manifest)

    def loaded_names(self) -> frozenset[str]:
        return frozenset(name for name, entry in self._entries.items() if entry.loaded)

    def canonical(self, name: str) -> str:
        """What to load for a client's ``name``: a reference, or the path of a served file.

        Raises `UnknownModel` or `InvalidReference`. A path nobody named at the
        start is not opened for a client.
        """
        for path in self._served:
            if name in (path.stem, str(path)):
                return str(path)
        reference = parse(name)
        if isinstance(reference, PathReference):
            for path in self._served:
                if path.absolute() == reference.path.absolute():
                    return str(path)
            raise self._unserved(name)
        return str(self._library.reference(name))

    def _unserved(self, name: str) -> FreeholdError:
        return UnknownModel(
            name,
            hint="A file is served only if it is named when the server starts: "
            f"freehold serve {name}",
        )

    # Leases

    @contextlib.asynccontextmanager
    async def lease(self, name: str) -> AsyncIterator[Lease]:
        """Load if needed and hold. Raises `NotFound`, `RefusedFile` or `EngineError`."""
        key = self.canonical(name)
        entry = self._entries.get(key)
        if entry is None:
            loading = asyncio.create_task(self._load(key), name=f"load {key}")
            entry = self._entries[key] = _Entry(loading)
            loading.add_done_callback(lambda done: self._forget_if_failed(key, done))
        entry.users += 1
        self._uses += 1
        entry.last_used = self._uses
        try:
            # Shielded: others may wait for the same load.
            yield await asyncio.shield(entry.loading)
        finally:
            entry.users -= 1

    def _forget_if_failed(self, key: str, done: asyncio.Task[Lease]) -> None:
        entry = self._entries.get(key)
        failed = done.cancelled() or done.exception() is not None
        if failed and entry is not None and entry.loading is done:
            del self._entries[key]

    async def _load(self, key: str) -> Lease:
        model = await asyncio.to_thread(self._library.local, key)
        async with self._room:
            await self._make_room(model)
            supervisor = await self._make(model)
            try:
                await supervisor.start()
            except BaseException:
                await supervisor.close()
                raise
        return Lease(model, supervisor)

    async def _make_room(self, model: LocalModel) -> None:
        needed = model.size
        while needed > self._available():
            idle = [
                (entry.last_used, key, lease)
                for key, entry in self._entries.items()
                if entry.users == 0 and (lease := entry.loaded) is not None
            ]
            if not idle:
                raise LoadFailed(
                    f"{model.name} needs about {needed / 1e9:.1f} GB of memory and "
                    f"{self._available() / 1e9:.1f} GB are available.",
                    hint="Close other programs, or choose a smaller model or quantisation.",
                )
            _, key, lease = min(idle, key=lambda item: item[0])
            log.info("%s is unloaded to make room for %s", key, model.name)
            del self._entries[key]
            await lease.supervisor.close()

    async def close(self) -> None:
        """Unload everything, whether in use or not."""
        entries, self._entries = list(self._entries.values()), {}
        for entry in entries:
            if not entry.loading.done():
                entry.loading.cancel()
                with contextlib.suppress(asyncio.CancelledError, FreeholdError):
                    await entry.loading
            elif (lease := entry.loaded) is not None:
                await lease.supervisor.close()
