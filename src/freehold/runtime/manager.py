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
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from freehold.domain.errors import FreeholdError, InvalidRequest, LoadFailed, UnknownModel
from freehold.runtime.lifecycle import Supervisor
from freehold.weights.library import Library, LocalModel
from freehold.weights.reference import PathReference, parse
from freehold.weights.registry import Manifest

log = logging.getLogger(__name__)

MakeSupervisor = Callable[[LocalModel], Awaitable[Supervisor]]
AvailableMemory = Callable[[], int]
Admit = Callable[[LocalModel], None]


@dataclass(frozen=True)
class Lease:
    """A loaded model, kept loaded while the lease is held."""

    model: LocalModel
    supervisor: Supervisor


@dataclass(frozen=True)
class Described:
    """One model as a listing shows it: in the store, with a manifest, or a served file.

    ``aliases`` are other names of it; ``alias_of`` is the model that ``name`` is an alias of.
    """

    name: str
    loaded: bool
    aliases: tuple[str, ...] = ()
    manifest: Manifest | None = None
    path: Path | None = None
    alias_of: str | None = None


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
    """The models of one process. ``served_paths`` are files that may be leased by name.

    ``admit`` raises for a model that may not be loaded; it is called in another thread.
    """

    def __init__(
        self,
        library: Library,
        make: MakeSupervisor,
        available_memory: AvailableMemory,
        served_paths: tuple[Path, ...] = (),
        aliases: Mapping[str, str] | None = None,
        admit: Admit | None = None,
    ) -> None:
        self._library = library
        self._admit = admit
        self._make = make
        self._available = available_memory
        self._served = served_paths
        self._aliases = dict(aliases or {})
        self._entries: dict[str, _Entry] = {}
        self._room = asyncio.Lock()
        self._uses = 0
        self._closing: set[asyncio.Future[None]] = set()

    # Names

    def names(self) -> tuple[str, ...]:
        """Of every model that can be leased now: the store's, the files served, the aliases."""
        stored = [manifest.reference for manifest in self._library.registry.all()]
        served = [path.stem for path in self._served]
        return tuple(dict.fromkeys([*stored, *served, *self._known_aliases()]))

    def _known_aliases(self) -> list[str]:
        """Those whose model is here."""
        known = []
        for alias in self._aliases:
            with contextlib.suppress(FreeholdError):
                self.describe(alias)
                known.append(alias)
        return known

    def describe(self, name: str) -> Described:
        """What is known of a model without opening its files. Raises as `canonical` does,
        and `ModelNotPulled` for one whose weights are not here.
        """
        if name in self._aliases:
            described = self.describe(self._aliases[name])
            return replace(described, name=name, aliases=(), alias_of=described.name)
        key = self.canonical(name)
        entry = self._entries.get(key)
        loaded = entry is not None and entry.loaded is not None
        for path in self._served:
            if key == str(path):
                return Described(path.stem, loaded, (str(path), *self._names_of(key)), path=path)
        manifest = self._library.registry.get(key)
        return Described(manifest.reference, loaded, self._names_of(key), manifest)

    def _names_of(self, key: str) -> tuple[str, ...]:
        """The aliases of a model, as far as its name can be read."""
        found = []
        for alias in self._aliases:
            with contextlib.suppress(FreeholdError):
                if self.canonical(alias) == key:
                    found.append(alias)
        return tuple(found)

    def loaded_names(self) -> frozenset[str]:
        return frozenset(name for name, entry in self._entries.items() if entry.loaded)

    def loaded(self) -> tuple[Lease, ...]:
        """Every model in memory, for observers: these are not held."""
        return tuple(lease for entry in self._entries.values() if (lease := entry.loaded))

    def canonical(self, name: str) -> str:
        """What to load for a client's ``name``: a reference, or the path of a served file.

        Raises `UnknownModel` or `InvalidReference`. A path nobody named at the
        start is not opened for a client. An alias goes before everything else.
        """
        name = self._aliases.get(name, name)
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

    async def local(self, name: str) -> LocalModel:
        """Its files and their header, whether it is loaded or not. Raises `NotFound` or
        `RefusedFile`."""
        key = self.canonical(name)
        entry = self._entries.get(key)
        if entry is not None and (lease := entry.loaded) is not None:
            return lease.model
        return await asyncio.to_thread(self._library.local, key)

    def sole(self) -> str:
        """The only model that is loaded, or else the only one here. Raises `InvalidRequest`."""
        loaded = sorted(self.loaded_names())
        here = [name for name in self.names() if name not in self._aliases]
        for names in (loaded, here):
            if len(names) == 1:
                return names[0]
        raise InvalidRequest(
            "There are several models; say which is meant."
            if here
            else "There is no model here yet.",
            field="model",
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

    def _admitted(self, key: str) -> LocalModel:
        model = self._library.local(key)
        if self._admit is not None:
            self._admit(model)
        return model

    async def _load(self, key: str) -> Lease:
        model = await asyncio.to_thread(self._admitted, key)
        async with self._room:
            if self._closing:
                await asyncio.wait(self._closing)
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

    async def unload(self, name: str) -> bool:
        """Unload a model unless somebody uses it; whether it is unloaded now.

        Raises as `canonical`.
        """
        key = self.canonical(name)
        entry = self._entries.get(key)
        if entry is None:
            return True
        if entry.users or (lease := entry.loaded) is None:
            return False
        del self._entries[key]
        closing = asyncio.ensure_future(lease.supervisor.close())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)
        await asyncio.shield(closing)  # whoever asked may leave
        return True

    async def close(self) -> None:
        """Unload everything, whether in use or not."""
        await asyncio.gather(*self._closing, return_exceptions=True)
        entries, self._entries = list(self._entries.values()), {}
        for entry in entries:
            if not entry.loading.done():
                entry.loading.cancel()
                with contextlib.suppress(asyncio.CancelledError, FreeholdError):
                    await entry.loading
            elif (lease := entry.loaded) is not None:
                await lease.supervisor.close()
