"""The one place that knows every concrete class and how they fit together."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path

from freehold.domain.engine import Kernels
from freehold.domain.errors import DigestMismatch, InvalidReference
from freehold.domain.setting_table import SETTINGS
from freehold.domain.settings import Settings
from freehold.engines.base import Engine, EngineConfig
from freehold.engines.llamacpp.client import LlamaCppEngine
from freehold.engines.vllm.door import Door
from freehold.machine.probe import memory, usable_cores
from freehold.runtime import native, profiles
from freehold.runtime.access.keyring import Keyring
from freehold.runtime.admission import Admission
from freehold.runtime.cache_settings import cache_config
from freehold.runtime.chat import Chat, vocabulary_source
from freehold.runtime.conversations import Conversations
from freehold.runtime.gate import Gate
from freehold.runtime.kept_answers import KeptAnswers
from freehold.runtime.lifecycle import Supervisor
from freehold.runtime.manager import MakeSupervisor, Manager, Rules
from freehold.runtime.needs import needed, setup
from freehold.runtime.observing import Meters
from freehold.runtime.profiles import Choice, Holding
from freehold.runtime.room import Room
from freehold.runtime.searches import Searches
from freehold.runtime.upstreams import Upstreams
from freehold.runtime.vllm import Vllm
from freehold.text.client import TextService
from freehold.trust.dossier import Dossiers
from freehold.trust.lock import Lock
from freehold.trust.verdict import Use
from freehold.weights.library import Library, LocalModel, is_safetensors

MakeEngine = Callable[[EngineConfig], Engine]


@dataclass
class Runtime:
    """Everything that runs, ready to use. ``settings`` change only by `take`."""

    settings: Settings
    library: Library
    dossiers: Dossiers
    manager: Manager
    text: TextService
    chat: Chat
    keyring: Keyring
    admission: Admission
    conversations: Conversations
    kept_answers: KeptAnswers
    searches: Searches
    holding: Holding
    meters: Meters

    def take(self, settings: Settings) -> None:
        """From here on use these, as far as a running server can: see `Setting.live`. The others
        stay what they were.
        """
        live = {each.name: getattr(settings, each.name) for each in SETTINGS if each.live}
        self.settings = replace(self.settings, **live, origins=settings.origins)
        self.chat.default_max_tokens = self.settings.max_tokens
        self.manager.known.aliases = self.settings.aliases


def _room(settings: Settings, vllm: Vllm) -> Room:
    budget = settings.memory_budget

    def estimate(model: LocalModel) -> int:
        if vllm.runs(model):
            return vllm.needed(model)
        return needed(model, engine_config(settings, model, Kernels.FAST))

    return Room(
        state=settings.home / "state",
        budget=None if budget is None else budget * 1024 * 1024,
        memory=memory,
        estimate=estimate,
        setup=setup(settings),
    )


def engine_config(settings: Settings, model: LocalModel, kernels: Kernels) -> EngineConfig:
    """How a model is loaded that has no profile."""
    return EngineConfig(
        model=model.name,
        paths=tuple(str(path) for path in model.paths),
        context=settings.context,
        parallel=settings.parallel,
        threads=settings.threads or usable_cores(),
        kernels=kernels,
        cache=cache_config(settings),
        latency=settings.latency / 1000,
        drafts=settings.speculate,
    )


def _supervisors(
    library: Library,
    settings: Settings,
    notice: Callable[[str], None],
    make_engine: MakeEngine | None,
    meters: Meters,
    locks: tuple[Lock, ...],
    vllm: Vllm,
) -> MakeSupervisor:
    """What makes the supervisor of a model that is to be loaded."""

    async def make(model: LocalModel) -> Supervisor:
        if vllm.runs(model):
            return await _by_vllm(vllm, model, meters)
        require_gguf(model)
        kernels = Kernels.FAST
        if make_engine is None:
            verdict = await native.check(settings.home / "state", notice=notice)
            kernels = verdict.kernels
        choice = Choice(engine_config(settings, model, kernels))
        if make_engine is None:
            choice = await asyncio.to_thread(
                profiles.choose, library, model, choice.config, settings, locks
            )
            if choice.remark is not None:
                notice(choice.remark)
        config, made = choice.config, choice.made
        build = make_engine or LlamaCppEngine

        async def verify() -> None:
            if made is not None:
                await asyncio.to_thread(library.store.verify, made)
            again = await asyncio.to_thread(library.local, model.reference)
            if again.digest != model.digest:
                raise DigestMismatch(
                    f"The file of {model.name}",
                    expected=model.digest,
                    actual=again.digest,
                    hint="It was replaced while the model was loaded; start the server again.",
                )

        tally = meters.model(model.name)
        tally.loads += 1

        def counted() -> Engine:
            tally.engines += 1
            return build(config)

        return Supervisor(model.name, counted, verify=verify, profile=choice.profile)

    return make


def require_gguf(model: LocalModel, hint: str | None = None) -> None:
    """Raise `InvalidReference` for what vLLM alone runs; ``hint`` says what to do instead."""
    if model.manifest is not None and is_safetensors(model.manifest):
        raise InvalidReference(
            f"{model.name} is in safetensors, which llama.cpp does not read.",
            hint=hint
            or f"Have vLLM run it: --vllm {model.reference} (or vllm = in freehold.toml).",
        )


async def _by_vllm(vllm: Vllm, model: LocalModel, meters: Meters) -> Supervisor:
    tally = meters.model(model.name)
    tally.loads += 1
    build = await vllm.builder(model, vocabulary_source(model))

    def counted() -> Engine:
        tally.engines += 1
        return build()

    return Supervisor(model.name, counted)


@contextlib.asynccontextmanager
async def open_runtime(
    settings: Settings,
    *,
    notice: Callable[[str], None],
    served_paths: tuple[Path, ...] = (),
    use: Use = Use.RUN,
    locks: tuple[Lock, ...] = (),
    make_engine: MakeEngine | None = None,
    sealed: bool = False,
    door: Door | None = None,
) -> AsyncIterator[Runtime]:
    """Build the runtime; on leaving, every child process is gone.

    ``notice`` is told, at most once each, what a person should know. ``use`` is what models
    are loaded for; with ``locks`` no others are loaded. ``make_engine`` replaces llama.cpp
    (tests, other engines). ``sealed``: this process can make no connection any more. ``door``: to
    vLLM then; it is closed in the end.
    """
    library = await asyncio.to_thread(Library.open, settings)
    dossiers = await asyncio.to_thread(Dossiers.open, library)
    text = TextService()
    vllm = await asyncio.to_thread(Vllm.of, library, text, settings, door, notice)
    meters = Meters()
    manager = Manager(
        library,
        _supervisors(library, settings, notice, make_engine, meters, locks, vllm),
        _room(settings, vllm),
        served=served_paths,
        aliases=settings.aliases,
        admit=Gate(dossiers, use, notice, locks).admit,
        rules=Rules(keep_alive=settings.keep_alive),
        upstreams=Upstreams(settings.upstreams, offline=settings.offline, sealed=sealed),
    )
    keyring = Keyring(settings.home, settings.api_key)
    admission = Admission(keyring, parallel=settings.parallel, most_waiting=settings.queue)
    chat = Chat(manager, text, admission, default_max_tokens=settings.max_tokens, meters=meters)
    kept = settings.home / "state" / "conversations.sqlite" if settings.conversations else None
    conversations = Conversations(kept)
    kept_answers = KeptAnswers(chat, conversations)
    searches = Searches(settings, manager)
    try:
        async with keyring.kept():
            yield Runtime(
                settings=settings,
                library=library,
                dossiers=dossiers,
                manager=manager,
                text=text,
                chat=chat,
                keyring=keyring,
                admission=admission,
                conversations=conversations,
                kept_answers=kept_answers,
                searches=searches,
                holding=Holding(library, settings, locks),
                meters=meters,
            )
    finally:
        await searches.close()
        await kept_answers.close()
        await manager.upstreams.close()
        await manager.close()
        await text.close()
        if door is not None:
            await asyncio.to_thread(door.close)
