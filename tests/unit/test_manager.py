"""The manager over scripted engines: what `residency` decides is what happens to models."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from freehold.domain.errors import (
    DeadlineExceeded,
    LicenceRefused,
    LoadFailed,
    Unavailable,
    UnknownModel,
)
from freehold.domain.settings import Settings
from freehold.engines.scripted import Script, ScriptedEngine
from freehold.machine.computer import Memory
from freehold.runtime.lifecycle import Supervisor
from freehold.runtime.manager import Manager, Rules
from freehold.runtime.residency_words import Phase, Turn, Why
from freehold.runtime.room import Process, Room
from freehold.weights.library import Library, LocalModel
from tests.support.models import write_model
from tests.support.running import run, until


class House:
    """A manager of two served files, each of which takes ``SIZE``, and every engine it has made."""

    SIZE = 60

    def __init__(
        self, folder: Path, script: Script | None = None, *, budget: int = 100, stay: float = 1e9
    ) -> None:
        self.path = write_model(folder / "tiny.gguf")
        self.other = write_model(folder / "other.gguf", seed="other")
        self.engines: list[ScriptedEngine] = []
        self.script = script or Script()
        self.refused: list[str] = []
        library = Library.open(Settings(home=folder / "home"))
        self.room = Room(
            state=folder / "home" / "state",
            budget=budget,
            memory=lambda: Memory(1000, 1000),
            estimate=lambda _: self.SIZE,
        )
        self.manager = Manager(
            library,
            self._make,
            self.room,
            served=(self.path, self.other),
            admit=self._admit,
            rules=Rules(keep_alive=stay, turn=Turn(requests=2, seconds=0.2, idle=0.0)),
        )

    def _admit(self, model: LocalModel) -> None:
        if model.name in self.refused:
            raise LicenceRefused("Not this one.")

    async def _make(self, model: LocalModel) -> Supervisor:
        def engine() -> ScriptedEngine:
            self.engines.append(ScriptedEngine(lambda _: self.script))
            return self.engines[-1]

        return Supervisor(model.name, engine)

    def names(self) -> list[str]:
        return [lease.model.name for lease in self.manager.loaded()]

    def begin(self, name: str, *, deadline: float | None = None) -> asyncio.Task[None]:
        """Ask for a model and give it back at once."""

        async def ask() -> None:
            async with self.manager.lease(name, deadline=deadline):
                pass

        return asyncio.create_task(ask())


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


def test_memory_is_looked_at_now_and_then_and_once_more_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = iter(range(70, 100))
    looked: list[int] = []

    def process(pid: int) -> Process:
        looked.append(next(sizes))
        return Process(looked[-1], looked[-1])

    monkeypatch.setattr(ScriptedEngine, "pid", 1)
    monkeypatch.setattr("freehold.runtime.manager.process", process)

    async def scenario() -> None:
        house = House(tmp_path)
        for _ in range(5):
            async with house.manager.lease("tiny"):
                pass
        assert looked == [70]  # when it was loaded
        model = house.manager.loaded()[0].model
        assert await house.manager.unload("tiny")
        assert looked == [70, 71]
        assert house.room.needed(model) == 71
        monkeypatch.setattr("freehold.runtime.manager._LOOK_SECONDS", 0.0)
        for _ in range(3):
            async with house.manager.lease("tiny"):
                pass
        assert len(looked) == 2 + 1 + 3
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


# Several


def test_loads_of_one_model_coalesce(tmp_path: Path) -> None:
    async def scenario() -> None:
        house = House(tmp_path)
        await asyncio.gather(*(house.begin("tiny") for _ in range(20)))
        assert len(house.engines) == 1
        await house.manager.close()

    run(scenario())


def test_one_makes_room_for_the_other(tmp_path: Path) -> None:
    async def scenario() -> None:
        house = House(tmp_path)
        await house.begin("tiny")
        await house.begin("other")
        assert house.names() == ["other"]
        assert house.engines[0].closed
        assert house.manager.unloads == {Why.ROOM: 1}
        await house.manager.close()
        assert house.engines[1].closed

    run(scenario())


def test_both_stay_where_there_is_room(tmp_path: Path) -> None:
    async def scenario() -> None:
        house = House(tmp_path, budget=120)
        await house.begin("tiny")
        await house.begin("other")
        assert house.names() == ["tiny", "other"]
        await house.manager.close()

    run(scenario())


def test_what_is_in_use_stays_and_the_other_has_its_turn(tmp_path: Path) -> None:
    async def scenario() -> None:
        house = House(tmp_path)
        async with house.manager.lease("tiny"):
            other = house.begin("other")
            await until(lambda: house.manager.standing("other") is not None)
            crowd = [house.begin("tiny") for _ in range(4)]
            await asyncio.wait(crowd, return_when=asyncio.FIRST_COMPLETED)
            assert not other.done()
        await asyncio.gather(other, *crowd)
        assert [engine.closed for engine in house.engines] == [True, True, False]
        assert house.names() == ["tiny"]
        await house.manager.close()

    run(scenario())


def test_a_wait_that_is_too_long_ends_with_the_reason(tmp_path: Path) -> None:
    async def scenario() -> None:
        house = House(tmp_path)
        async with house.manager.lease("tiny"):
            soon = asyncio.get_running_loop().time() + 0.05
            with pytest.raises(DeadlineExceeded, match="other had no room beside tiny"):
                await house.begin("other", deadline=soon)
            assert house.manager.standing("other") is None
        await house.manager.close()

    run(scenario())


def test_what_cannot_fit_is_refused_at_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        house = House(tmp_path, budget=59)
        with pytest.raises(LoadFailed, match="needs about"):
            await house.begin("tiny")
        assert house.engines == []
        await house.manager.close()

    run(scenario())


def test_what_may_not_be_loaded_takes_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        house = House(tmp_path)
        house.refused = ["tiny"]
        asked = [house.begin("tiny") for _ in range(3)]
        outcomes = await asyncio.gather(*asked, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [LicenceRefused] * 3
        assert house.manager.standings() == ()
        await house.manager.close()

    run(scenario())


def test_a_load_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    async def scenario() -> None:
        house = House(tmp_path, Script(load_error="No."))
        outcomes = await asyncio.gather(
            *(house.begin("tiny") for _ in range(3)), return_exceptions=True
        )
        assert [str(outcome) for outcome in outcomes] == ["No."] * 3
        assert house.manager.standings() == ()
        assert house.engines[0].closed
        house.script = Script()
        await house.begin("tiny")
        await house.manager.close()

    run(scenario())


# Time


def test_an_unused_model_leaves_when_its_time_is_over(tmp_path: Path) -> None:
    async def scenario() -> None:
        house = House(tmp_path, stay=0.02)
        await house.begin("tiny")
        await until(lambda: house.manager.standings() == ())
        assert house.engines[0].closed
        assert house.manager.unloads == {Why.TIME: 1}

    run(scenario())


def test_pinned_models_stay_until_they_are_told_to_leave(tmp_path: Path) -> None:
    async def scenario() -> None:
        house = House(tmp_path)
        await house.manager.load("tiny", pin=True, keep_alive=0)
        assert house.names() == ["tiny"]
        assert not await house.manager.unload("tiny")
        with pytest.raises(LoadFailed, match="pinned"):
            await house.begin("other")
        assert await house.manager.dismiss("tiny") is None
        assert house.engines[0].closed
        await house.begin("other")
        await house.manager.close()

    run(scenario())


def test_told_to_leave_while_in_use_it_leaves_afterwards(tmp_path: Path) -> None:
    async def scenario() -> None:
        house = House(tmp_path)
        async with house.manager.lease("tiny"):
            left = await house.manager.dismiss("tiny")
            assert left is not None
            assert left.resident.users == 1
        await until(lambda: house.manager.standings() == ())
        assert house.engines[0].closed

    run(scenario())


# Loads that are given up


def test_a_load_nobody_waits_for_ends_when_its_room_is_needed(tmp_path: Path) -> None:
    async def scenario() -> None:
        house = House(tmp_path, Script(load_seconds=60))
        left = house.begin("tiny")
        await until(lambda: bool(house.engines))
        left.cancel()
        await asyncio.wait({left})
        (standing,) = house.manager.standings()
        assert standing.resident.phase is Phase.LOADING
        house.script = Script()
        await house.begin("other")
        assert house.engines[0].closed
        assert house.names() == ["other"]
        await house.manager.close()

    run(scenario())


def test_a_load_nobody_waits_for_can_be_told_to_stop(tmp_path: Path) -> None:
    async def scenario() -> None:
        house = House(tmp_path, Script(load_seconds=60))
        left = house.begin("tiny")
        await until(lambda: bool(house.engines))
        left.cancel()
        await asyncio.wait({left})
        assert await house.manager.unload("tiny")
        assert house.engines[0].closed
        assert house.manager.standings() == ()

    run(scenario())


def test_closing_during_a_load_refuses_who_waits_and_frees_all(tmp_path: Path) -> None:
    async def scenario() -> None:
        house = House(tmp_path, Script(load_seconds=60))
        waiting = house.begin("tiny")
        await until(lambda: bool(house.engines))
        await house.manager.close()
        with pytest.raises(Unavailable, match="stopping"):
            await waiting
        with pytest.raises(Unavailable, match="stopping"):
            await house.begin("tiny")
        assert house.engines[0].closed
        assert house.manager.standings() == ()

    run(scenario())


def test_closing_while_in_use_frees_all(tmp_path: Path) -> None:
    async def scenario() -> None:
        house = House(tmp_path)
        async with house.manager.lease("tiny"):
            await house.manager.close()
            assert house.engines[0].closed
        assert house.manager.standings() == ()

    run(scenario())
