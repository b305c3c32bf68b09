"""The one place that knows every concrete class and how they fit together."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from freehold.domain.engine import CacheConfig, CacheLayout, CacheType, Kernels
from freehold.domain.errors import DigestMismatch
from freehold.domain.settings import Settings
from freehold.engines.base import Engine, EngineConfig
from freehold.engines.llamacpp.client import LlamaCppEngine
from freehold.runtime import native
from freehold.runtime.chat import Chat
from freehold.runtime.gate import Gate
from freehold.runtime.lifecycle import Supervisor
from freehold.runtime.manager import MakeSupervisor, Manager
from freehold.text.client import TextService
from freehold.trust.dossier import Dossiers
from freehold.trust.lock import Lock
from freehold.trust.verdict import Use
from freehold.weights.library import Library, LocalModel

MakeEngine = Callable[[EngineConfig], Engine]


@dataclass(frozen=True)
class Runtime:
    """Everything that runs, ready to use."""

    settings: Settings
    library: Library
    dossiers: Dossiers
    manager: Manager
    text: TextService
    chat: Chat


def usable_cores() -> int:
    """Cores this process may run on (containers and affinity respected)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cache(settings: Settings) -> CacheConfig:
    kind = CacheType(settings.cache_type)
    return CacheConfig(
        layout=CacheLayout(settings.cache_layout),
        key_type=kind,
        value_type=kind,
        flash_attention=settings.flash_attention,
        cells=settings.cells,
        host_bytes=settings.prefix_memory * 1024 * 1024,
    )


def _supervisors(
    library: Library,
    settings: Settings,
    notice: Callable[[str], None],
    make_engine: MakeEngine | None,
) -> MakeSupervisor:
    """What makes the supervisor of a model that is to be loaded."""

    async def make(model: LocalModel) -> Supervisor:
        kernels = Kernels.FAST
        if make_engine is None:
            verdict = await native.check(settings.home / "state", notice=notice)
            kernels = verdict.kernels
        config = EngineConfig(
            model=model.name,
            paths=tuple(str(path) for path in model.paths),
            context=settings.context,
            parallel=settings.parallel,
            threads=settings.threads or usable_cores(),
            kernels=kernels,
            cache=_cache(settings),
            latency=settings.latency / 1000,
            drafts=settings.speculate,
        )
        build = make_engine or LlamaCppEngine

        async def verify() -> None:
            again = await asyncio.to_thread(library.local, model.reference)
            if again.digest != model.digest:
                raise DigestMismatch(
                    f"The file of {model.name}",
                    expected=model.digest,
                    actual=again.digest,
                    hint="It was replaced while the model was loaded; start the server again.",
                )

        return Supervisor(model.name, lambda: build(config), verify=verify)

    return make


@contextlib.asynccontextmanager
async def open_runtime(
    settings: Settings,
    *,
    notice: Callable[[str], None],
    served_paths: tuple[Path, ...] = (),
    use: Use = Use.RUN,
    locks: tuple[Lock, ...] = (),
    make_engine: MakeEngine | None = None,
) -> AsyncIterator[Runtime]:
    """Build the runtime; on leaving, every child process is gone.

    ``notice`` is told, at most once each, what a person should know. ``use`` is what models
    are loaded for; with ``locks`` no others are loaded. ``make_engine`` replaces llama.cpp
    (tests, other engines).
    """
    library = await asyncio.to_thread(Library.open, settings)
    dossiers = await asyncio.to_thread(Dossiers.open, library)
    text = TextService()
    manager = Manager(
        library,
        _supervisors(library, settings, notice, make_engine),
        lambda: psutil.virtual_memory().available,
        served_paths,
        settings.aliases,
        Gate(dossiers, use, notice, locks).admit,
    )
    try:
        yield Runtime(
            settings=settings,
            library=library,
            dossiers=dossiers,
            manager=manager,
            text=text,
            chat=Chat(manager, text, default_max_tokens=settings.max_tokens),
        )
    finally:
        await manager.close()
        await text.close()
