"""The crash rules, over an engine that does what it is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from freehold.domain.chat import GenerateRequest
from freehold.domain.errors import (
    DeadlineExceeded,
    EngineCrashed,
    FreeholdError,
    LoadFailed,
    PoisonRequest,
)
from freehold.domain.events import Event, Finished, PromptProcessed, TextDelta
from freehold.engines.scripted import Script, ScriptedEngine
from freehold.runtime.lifecycle import PAUSES, POISON_REMEMBERED, Supervisor
from tests.support.running import collect, run

CRASH = Script(crash_after=0)
CRASH_LATE = Script(crash_after=2)
FINE = Script()


class House:
    """A supervisor and all that can be seen of it. ``scripts`` maps a request id to what each
    try of it meets; without an entry it meets `FINE`.
    """

    def __init__(self, **scripts: list[Script]) -> None:
        self.scripts = scripts
        self.engines: list[ScriptedEngine] = []
        self.pauses: list[float] = []
        self.loading: list[Script] = []
        self.door = asyncio.Event()  # closed: a restart pauses until it is opened
        self.door.set()
        self.supervisor = Supervisor("tiny", self._make, sleep=self._sleep)

    def _make(self) -> ScriptedEngine:
        self.engines.append(ScriptedEngine(self._script))
        return self.engines[-1]

    def _script(self, request: GenerateRequest | None) -> Script:
        if request is None:
            return self.loading.pop(0) if self.loading else FINE
        waiting = self.scripts.get(request.request_id)
        return waiting.pop(0) if waiting else FINE

    async def _sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        await self.door.wait()

    def ask(self, name: str, *, deadline: float | None = None) -> AsyncGenerator[Event, None]:
        """Requests of one name are the same but for their deadline."""
        prompt = tuple(name.encode())
        return self.supervisor.generate(GenerateRequest(name, prompt, 50, deadline=deadline))

    async def text(self, name: str) -> str:
        events = await collect(self.ask(name))
        return "".join(event.text for event in events if isinstance(event, TextDelta))

    async def error(self, name: str) -> FreeholdError:
        with pytest.raises(FreeholdError) as caught:
            await collect(self.ask(name))
        return caught.value

    @property
    def tries(self) -> list[list[str]]:
        """The requests each engine has seen."""
        return [[request.request_id for request in engine.seen] for engine in self.engines]


async def settled() -> None:
    """Let everything that can happen now happen."""
    for _ in range(20):
        await asyncio.sleep(0)


def test_a_request_that_had_said_nothing_is_tried_once_more() -> None:
    async def scenario() -> None:
        house = House(A=[CRASH])
        assert await house.text("A") == "All is well."
        assert house.tries == [["A"], ["A"]]
        assert house.engines[0].closed

    run(scenario())


def test_a_request_that_had_begun_ends_with_the_error() -> None:
    async def scenario() -> None:
        house = House(A=[CRASH_LATE])
        stream = house.ask("A")
        heard = [await anext(stream) for _ in range(3)]
        with pytest.raises(EngineCrashed):
            await anext(stream)
        assert [event.text for event in heard if isinstance(event, TextDelta)] == ["All ", "is "]
        assert house.tries == [["A"]]
        assert await house.text("B") == "All is well."

    run(scenario())


def test_in_flight_in_two_crashes_is_poison_and_stays_so() -> None:
    async def scenario() -> None:
        house = House(A=[CRASH, CRASH])
        error = await house.error("A")
        assert isinstance(error, PoisonRequest)
        assert "two crashes" in error.message
        again = await house.error("A")
        assert isinstance(again, PoisonRequest)
        assert house.tries == [["A"], ["A"]]
        assert await house.text("B") == "All is well."

    run(scenario())


def test_the_same_request_under_another_id_is_poison_too() -> None:
    async def scenario() -> None:
        house = House(A=[CRASH, CRASH])
        await house.error("A")
        same = GenerateRequest("other id", (ord("A"),), 50, cache_scope="theirs", deadline=1e9)
        with pytest.raises(PoisonRequest):
            await collect(house.supervisor.generate(same))
        different = GenerateRequest("A", (ord("A"),), 49)
        await collect(house.supervisor.generate(different))

    run(scenario())


def test_poison_is_forgotten_in_the_end() -> None:
    async def scenario() -> None:
        house = House(**{str(number): [CRASH, CRASH] for number in range(POISON_REMEMBERED + 1)})
        for number in range(POISON_REMEMBERED + 1):
            assert isinstance(await house.error(str(number)), PoisonRequest)
        assert await house.text("0") == "All is well."
        assert isinstance(await house.error("1"), PoisonRequest)

    run(scenario())


def test_a_bystander_of_one_crash_succeeds() -> None:
    async def scenario() -> None:
        slow = Script(first_token_seconds=10)
        house = House(bad=[CRASH, CRASH], good=[slow])
        house.door.clear()
        bad = asyncio.create_task(house.error("bad"))
        await settled()
        good = asyncio.create_task(house.text("good"))
        house.door.set()
        assert isinstance(await bad, PoisonRequest)
        assert await good == "All is well."
        assert [sorted(tries) for tries in house.tries] == [["bad"], ["bad", "good"], ["good"]]

    run(scenario())


def test_a_bystander_of_one_crash_that_had_begun_may_be_asked_again() -> None:
    async def scenario() -> None:
        long = Script(pieces=("word ",) * 10_000, token_seconds=0.001)
        house = House(good=[long], bad=[CRASH])
        stream = house.ask("good")
        assert isinstance(await anext(stream), PromptProcessed)
        assert isinstance(await anext(stream), TextDelta)
        assert await house.text("bad") == "All is well."
        with pytest.raises(EngineCrashed):
            await collect(stream)
        assert await house.text("good") == "All is well."

    run(scenario())


def test_a_request_that_was_answered_is_no_suspect_of_a_later_crash() -> None:
    async def scenario() -> None:
        house = House(A=[CRASH, FINE, CRASH, FINE])
        assert await house.text("A") == "All is well."
        assert await house.text("A") == "All is well."
        assert [len(tries) for tries in house.tries] == [1, 2, 1]

    run(scenario())


def test_a_death_while_idle_taints_nobody() -> None:
    async def scenario() -> None:
        house = House(A=[CRASH])
        await house.supervisor.start()
        house.engines[0].crash()
        assert await house.text("A") == "All is well."
        assert house.tries == [[], ["A"], ["A"]]

    run(scenario())


def test_one_crash_is_counted_once_for_all_in_it() -> None:
    async def scenario() -> None:
        slow = Script(first_token_seconds=10)
        house = House(A=[slow], B=[slow])
        tasks = [asyncio.create_task(house.text(name)) for name in "AB"]
        await settled()
        house.engines[0].crash()
        assert await asyncio.gather(*tasks) == ["All is well.", "All is well."]
        assert len(house.engines) == 2
        assert house.pauses == [PAUSES[0]]

    run(scenario())


# Waiting for the restart


async def down(house: House) -> None:
    """Leave the house with a dead engine and a restart that does not come to an end."""
    await house.supervisor.start()
    house.engines[0].crash()
    house.door.clear()


def test_new_requests_wait_for_the_restart() -> None:
    async def scenario() -> None:
        house = House()
        await down(house)
        waiting = [asyncio.create_task(house.text(name)) for name in "AB"]
        await settled()
        assert not any(task.done() for task in waiting)
        house.door.set()
        assert await asyncio.gather(*waiting) == ["All is well."] * 2
        assert len(house.engines) == 2

    run(scenario())


def test_until_their_deadline() -> None:
    async def scenario() -> None:
        house = House()
        await down(house)
        soon = asyncio.get_running_loop().time() + 0.02
        with pytest.raises(DeadlineExceeded) as caught:
            await collect(house.ask("A", deadline=soon))
        assert caught.value.hint is not None
        house.door.set()
        # The restart went on without the one who left.
        assert await house.text("B") == "All is well."
        assert house.tries == [[], ["B"]]
        assert house.pauses == [PAUSES[0]]

    run(scenario())


def test_a_deadline_that_was_kept_does_not_matter_later() -> None:
    async def scenario() -> None:
        house = House()
        await down(house)
        house.door.set()
        soon = asyncio.get_running_loop().time() + 20
        events = await collect(house.ask("A", deadline=soon))
        assert isinstance(events[-1], Finished)

    run(scenario())


def test_what_the_model_can_do_is_known_during_the_restart() -> None:
    async def scenario() -> None:
        house = House()
        await down(house)
        before = house.supervisor.capabilities
        waiting = asyncio.create_task(house.text("A"))
        await settled()
        assert house.pauses
        assert house.supervisor.capabilities == before
        house.door.set()
        await waiting

    run(scenario())


# Pauses


def test_the_pauses_grow_and_an_answer_ends_the_series() -> None:
    async def scenario() -> None:
        rounds = len(PAUSES) + 1
        house = House(**{f"R{number}": [CRASH_LATE] for number in range(rounds)})
        for number in range(rounds):
            assert isinstance(await house.error(f"R{number}"), EngineCrashed)
        assert await house.text("fine") == "All is well."
        assert house.pauses == [*PAUSES, PAUSES[-1]]
        house.engines[-1].crash()
        await house.text("again")
        assert house.pauses[-1] == PAUSES[0]

    run(scenario())


def test_a_restart_that_fails_is_the_callers_error_and_tried_again_by_the_next() -> None:
    async def scenario() -> None:
        house = House()
        await house.supervisor.start()
        house.engines[0].crash()
        house.loading = [Script(load_error="The file is gone.")]
        error = await house.error("A")
        assert isinstance(error, LoadFailed)
        assert error.message == "The file is gone."
        assert house.engines[1].closed
        assert await house.text("A") == "All is well."

    run(scenario())


def test_a_first_load_that_fails() -> None:
    async def scenario() -> None:
        house = House()
        house.loading = [Script(load_error="No.")]
        with pytest.raises(LoadFailed, match=r"^No\.$"):
            await house.supervisor.start()
        with pytest.raises(LoadFailed, match="not loaded"):
            _ = house.supervisor.capabilities
        await house.supervisor.start()
        assert await house.text("A") == "All is well."

    run(scenario())


# Leaving


def test_a_caller_who_leaves_early_is_cancelled_in_the_engine() -> None:
    async def scenario() -> None:
        house = House(A=[Script(token_seconds=10)])
        stream = house.ask("A")
        await anext(stream)
        await stream.aclose()
        assert house.engines[0].cancelled == ["A"]

    run(scenario())


def test_a_caller_who_is_cancelled_is_cancelled_in_the_engine() -> None:
    async def scenario() -> None:
        house = House(A=[Script(first_token_seconds=10)])
        asking = asyncio.create_task(house.text("A"))
        await settled()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert house.engines[0].cancelled == ["A"]

    run(scenario())


def test_after_closing_nothing_is_started_again() -> None:
    async def scenario() -> None:
        house = House(A=[Script(first_token_seconds=10)])
        asking = asyncio.create_task(house.error("A"))
        await settled()
        await house.supervisor.close()
        assert "unloaded" in (await asking).message
        assert "unloaded" in (await house.error("B")).message
        assert len(house.engines) == 1
        await house.supervisor.close()

    run(scenario())


@pytest.mark.parametrize("number", [1, 5])
def test_first_requests_share_one_load(number: int) -> None:
    async def scenario() -> None:
        house = House()
        answers = await asyncio.gather(*(house.text(str(name)) for name in range(number)))
        assert set(answers) == {"All is well."}
        assert len(house.engines) == 1
        assert house.pauses == []

    run(scenario())
