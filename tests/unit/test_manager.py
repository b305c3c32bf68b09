"""Unloading: what nobody uses leaves at once, what somebody uses stays."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from freehold.domain.errors import UnknownModel
from freehold.domain.settings import Settings
from freehold.engines.scripted import Script, ScriptedEngine
from freehold.runtime.lifecycle import Supervisor
from freehold.runtime.manager import Manager
from freehold.weights.library import Library, LocalModel
from tests.support.models import write_model
from tests.support.running import run


class House:
    """A manager of one served file, and every engine it has made."""

    def __init__(self, folder: Path, script: Script | None = None) -> None:
        self.path = write_model(folder / "tiny.gguf")
        self.engines: list[ScriptedEngine] = []
        self._script = script or Script()
        library = Library.open(Settings(home=folder / "home"))
        self.manager = Manager(library, self._make, lambda: 1 << 40, (self.path,))

    async def _make(self, model: LocalModel) -> Supervisor:
        def engine() -> ScriptedEngine:
            self.engines.append(ScriptedEngine(lambda _: self._script))
            return self.engines[-1]

        return Supervisor(model.name, engine)


def test_an_idle_model_is_unloaded_and_loaded_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        house = House(tmp_path)
        async with house.manager.lease("tiny"):
            pass
        assert [lease.model.name for lease in house.manager.loaded()] == ["tiny"]
        assert await house.manager.unload(str(house.path))
        assert house.manager.loaded() == ()
        assert house.engines[0].closed
        async with house.manager.lease("tiny"):
            assert len(house.engines) == 2
        await house.manager.close()

    run(scenario())


def test_what_is_not_loaded_is_unloaded_already(tmp_path: Path) -> None:
    async def scenario() -> None:
        manager = House(tmp_path).manager
        assert await manager.unload("tiny")
        with pytest.raises(UnknownModel):
            await manager.unload("absent")

    run(scenario())


def test_a_model_in_use_or_being_loaded_stays(tmp_path: Path) -> None:
    async def scenario() -> None:
        house = House(tmp_path, Script(load_seconds=0.05))
        lease = house.manager.lease("tiny")
        entering = asyncio.ensure_future(lease.__aenter__())
        await asyncio.sleep(0)
        assert not await house.manager.unload("tiny")
        await entering
        assert not await house.manager.unload("tiny")
        assert not house.engines[0].closed
        await lease.__aexit__(None, None, None)
        assert await house.manager.unload("tiny")

    run(scenario())


def test_who_asked_may_leave_the_model_leaves_all_the_same(tmp_path: Path) -> None:
    async def scenario() -> None:
        house = House(tmp_path)
        async with house.manager.lease("tiny"):
            pass
        unloading = asyncio.ensure_future(house.manager.unload("tiny"))
        await asyncio.sleep(0)
        unloading.cancel()
        assert house.manager.loaded() == ()
        await house.manager.close()
        assert house.engines[0].closed

    run(scenario())
