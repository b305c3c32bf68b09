"""The queue before a model: who is let through, who is told to come back, and that all is freed."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from freehold.domain.answers import AnswerUsage
from freehold.domain.errors import (
    DeadlineExceeded,
    FreeholdError,
    KeyNotValid,
    QueueFull,
    TokenRateExceeded,
    TooManyAtOnce,
)
from freehold.engines.base import Capabilities
from freehold.runtime.access import keys
from freehold.runtime.access.caller import OWNER, Caller, Terms, calling
from freehold.runtime.access.key_file import KeyFile
from freehold.runtime.access.keyring import Keyring
from freehold.runtime.admission import Admission, Admitted, look_ahead
from tests.support.running import run

ENVIRONMENT = Caller("environment", "environment")


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Stage:
    """An admission, and those let through: each holds its place until it is sent home."""

    admission: Admission
    clock: Clock
    inside: list[str] = field(default_factory=list)
    most_inside: int = 0
    tasks: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    homes: dict[str, asyncio.Event] = field(default_factory=dict)

    def come(
        self,
        name: str,
        caller: Caller = OWNER,
        *,
        model: str = "m",
        places: int = 1,
        deadline: float | None = None,
        then: Callable[[Admitted], None] = lambda _: None,
    ) -> None:
        self.homes[name] = asyncio.Event()

        async def request() -> None:
            turn = self.admission.turn(model, places=places, deadline=deadline)
            async with turn as admitted:
                self.inside.append(name)
                self.most_inside = max(self.most_inside, len(self.inside))
                then(admitted)
                try:
                    await self.homes[name].wait()
                finally:
                    self.inside.remove(name)

        with calling(caller):
            self.tasks[name] = asyncio.create_task(request())

    async def go(self, name: str) -> None:
        self.homes[name].set()
        await self.tasks[name]
        await settled()

    async def leave(self, name: str) -> None:
        """Its client is gone."""
        self.tasks[name].cancel()
        with contextlib.suppress(asyncio.CancelledError, FreeholdError):
            await self.tasks[name]
        await settled()


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def stage(home: Path, *, parallel: int = 2, most_waiting: int = 3) -> AsyncIterator[Stage]:
    clock = Clock()
    async with Keyring(home, "secret").kept() as ring:
        admission = Admission(ring, parallel=parallel, most_waiting=most_waiting, clock=clock)
        found = Stage(admission, clock)
        yield found
        for name in found.tasks:
            await found.leave(name)
        assert not admission._under_way
        assert all(not q.waiting and not q.running for q in admission.queues())


def test_as_many_as_run_and_a_few_are_let_through_in_their_order(tmp_path: Path) -> None:
    async def story() -> None:
        async with stage(tmp_path, parallel=4) as here:
            for number in range(8):
                here.come(str(number))
            await settled()
            assert here.inside == ["0", "1", "2", "3", "4"]  # and one looks ahead
            await here.go("2")
            assert here.inside == ["0", "1", "3", "4", "5"]

    run(story())
    assert [look_ahead(n) for n in (1, 4, 8, 16)] == [1, 1, 2, 4]


def test_a_full_queue_says_when_to_come_back_by_what_was_measured(tmp_path: Path) -> None:
    async def story() -> None:
        async with stage(tmp_path, most_waiting=1) as here:
            here.come("first", then=lambda admitted: admitted.runs_on(LOADED))
            await settled()
            here.clock.now = 90.0
            await here.go("first")
            for name in ("a", "b", "c", "waits"):
                here.come(name)
            await settled()
            assert here.inside == ["a", "b", "c"]
            here.come("too many")
            with pytest.raises(QueueFull, match="1 requests wait") as refused:
                await here.tasks["too many"]
            assert refused.value.retry_after == 30  # each takes 90 s, and three run
            await here.leave("waits")
            here.come("now")
            await settled()
            assert not here.tasks["now"].done()

    run(story())


LOADED = Capabilities(frozenset(), context=64, parallel=2)


def test_a_client_that_leaves_makes_room_at_once(tmp_path: Path) -> None:
    async def story() -> None:
        async with stage(tmp_path, parallel=1) as here:
            for name in "abcde":
                here.come(name)
            await settled()
            (queue,) = here.admission.queues()
            assert (queue.running, queue.waiting) == (2, 3)
            await here.leave("d")
            await here.leave("a")
            assert here.inside == ["b", "c"]
            (queue,) = here.admission.queues()
            assert (queue.running, queue.waiting) == (2, 1)

    run(story())


def test_who_waits_too_long_is_told_why(tmp_path: Path) -> None:
    async def story() -> None:
        async with stage(tmp_path, parallel=1) as here:
            now = asyncio.get_running_loop().time()
            for name in "ab":
                here.come(name)
            here.come("late", deadline=now + 0.05)
            with pytest.raises(DeadlineExceeded, match="2 were being answered and 1 waiting"):
                await here.tasks["late"]
            assert here.inside == ["a", "b"]

    run(story())


def test_a_key_has_so_many_under_way_and_no_more(tmp_path: Path) -> None:
    modest = replace(ENVIRONMENT, terms=Terms(concurrency=2))

    async def story() -> None:
        async with stage(tmp_path, parallel=8) as here:
            here.come("one", modest)
            here.come("two", modest, model="another")
            here.come("three", modest)
            here.come("anybody else's")
            with pytest.raises(TooManyAtOnce, match="2 requests under way") as refused:
                await here.tasks["three"]
            assert refused.value.retry_after >= 1
            await here.go("one")
            here.come("four", modest)
            await settled()
            assert sorted(here.inside) == ["anybody else's", "four", "two"]

    run(story())


def test_a_key_that_has_used_its_tokens_is_told_how_long_to_wait(tmp_path: Path) -> None:
    rated = replace(ENVIRONMENT, terms=Terms(rate=60))

    async def story() -> None:
        async with stage(tmp_path) as here:
            used = AnswerUsage(prompt_tokens=40, cached_tokens=30, completion_tokens=50)
            here.come("one", rated, then=lambda admitted: admitted.took(used))
            await settled()
            here.come("two", rated)
            with pytest.raises(TokenRateExceeded, match="60 tokens a minute") as refused:
                await here.tasks["two"]
            assert refused.value.retry_after == 31  # a token a second, 30 owed
            here.clock.now = 31.0
            here.come("three", rated)
            await settled()
            assert "three" in here.inside

    run(story())


def test_a_key_revoked_while_its_request_waits_is_not_served(tmp_path: Path) -> None:
    async def story() -> None:
        issued = keys.issue("ann", Terms(), now=time.time())
        with contextlib.closing(KeyFile.open(tmp_path)) as file:
            file.add(issued.key)
            async with stage(tmp_path, parallel=1) as here:
                here.come("a")
                here.come("b")
                here.come("hers", issued.key.caller)
                await settled()
                file.revoke("ann", time.time())
                await here.go("a")
                with pytest.raises(KeyNotValid, match="while its request waited"):
                    await here.tasks["hers"]

    run(story())


def test_nothing_is_kept_of_models_nobody_ever_loaded(tmp_path: Path) -> None:
    async def story() -> None:
        async with stage(tmp_path) as here:
            for number in range(50):
                here.come(str(number), model=f"made up {number}")
                await settled()
                await here.go(str(number))
            assert here.admission.queues() == ()
            greedy = replace(ENVIRONMENT, terms=Terms(concurrency=1))
            here.come("one", greedy, model="real")
            here.come("two", greedy, model="never seen")
            with pytest.raises(TooManyAtOnce):
                await here.tasks["two"]
            assert [queue.model for queue in here.admission.queues()] == ["real"]

    run(story())


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["come", "go", "leave"]), st.integers(0, 30), st.integers(1, 4)),
        max_size=60,
    )
)
def test_whatever_happens_no_more_run_than_may_and_everybody_is_accounted_for(
    steps: list[tuple[str, int, int]],
) -> None:
    async def story() -> None:
        async with stage(Path("/nonexistent"), parallel=3, most_waiting=5) as here:
            for number, (what, which, places) in enumerate(steps):
                alive = [name for name, task in here.tasks.items() if not task.done()]
                if what == "come":
                    here.come(str(number), places=places)
                elif alive and what == "leave":
                    await here.leave(alive[which % len(alive)])
                elif here.inside:
                    await here.go(here.inside[which % len(here.inside)])
                await settled()
                queues = here.admission.queues()
                assert sum(queue.running for queue in queues) == len(here.inside) <= 4
                for task in here.tasks.values():
                    if task.done() and not task.cancelled() and task.exception() is not None:
                        assert isinstance(task.exception(), QueueFull)

    run(story())
