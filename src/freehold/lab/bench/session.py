"""One measurement from its first question to its last: learn, warm up, then stage by stage.

learning ──► warming up ──► measuring stage 1 … n, repeat 1 … m ──► complete
    │             │                    │
    │             │                    ├── stop is set ──────────► interrupted
    ▼             ▼                    └── no connections left ──► server gone
 an error: nothing was measured yet    what was measured is kept in either case
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Protocol

from freehold.domain.errors import ServerMisbehaved, ServerUnreachable
from freehold.lab.bench.answer import Answer, Refusal, ask
from freehold.lab.bench.dialect import Dialect, negotiate
from freehold.lab.bench.endpoint import Endpoint
from freehold.lab.bench.load import Asked, Tally, closed_loop, open_loop
from freehold.lab.bench.records import Outcome, Record, record
from freehold.lab.bench.report import Ending, Run, StageResult
from freehold.lab.bench.summary import middles, summarise
from freehold.lab.bench.texts import Vocabulary, learn
from freehold.lab.bench.watch import watching
from freehold.lab.bench.workload import Kind, Stage, Workload, arrivals

_NOT_NOW = (429, 503)
_SHORT = 8


class Progress(Protocol):
    """Who shows how far it is."""

    def phase(self, text: str) -> None:
        """Something begins that is not measured."""

    def stage(self, title: str, requests: int) -> None:
        """A stage of at most so many requests begins."""

    def request(self, record: Record) -> None:
        """A request has ended."""


@dataclass
class Session:
    """``keep`` is called after every stage: what was measured until then may be saved."""

    endpoint: Endpoint
    model: str
    workload: Workload
    progress: Progress
    keep: Callable[[], None] = lambda: None
    dialect: Dialect = field(default_factory=Dialect)
    vocabulary: Vocabulary | None = None
    ending: Ending = Ending.INTERRUPTED
    _runs: dict[Stage, list[Run]] = field(default_factory=dict)

    @property
    def stages(self) -> tuple[StageResult, ...]:
        return tuple(
            StageResult(stage, tuple(runs), middles([run.summary for run in runs]))
            for stage, runs in self._runs.items()
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Measure until done, or ``stop`` is set, or the server is gone; `ending` says which.

        Raises `ServerUnreachable`, `ServerMisbehaved` or `InvalidSetting` before anything is
        measured.
        """
        if not await _unless(stop, self._prepare()):
            return
        for repeat in range(1, self.workload.repeats + 1):
            for stage in self.workload.stages:
                again = f", repeat {repeat} of {self.workload.repeats}"
                title = stage.title + (again if self.workload.repeats > 1 else "")
                self.progress.stage(title, stage.requests)
                tally = await self._measure(stage, repeat, stop)
                self.keep()
                if stop.is_set():
                    return
                if tally.gone:
                    self.ending = Ending.SERVER_GONE
                    return
        self.ending = Ending.COMPLETE

    async def _prepare(self) -> None:
        self.progress.phase("Learning how the server counts tokens")
        self.dialect = await negotiate(lambda dialect: self._try(dialect, "Hello", _SHORT))
        self.vocabulary = await learn(self._count, self.workload.prompt)
        for number in range(self.workload.warm_up):
            self.progress.phase(f"Warming up, {number + 1} of {self.workload.warm_up} (discarded)")
            await self._short_ask(self._prompt(f"warm-up {number}"), self.workload.answer)

    async def _try(
        self, dialect: Dialect, prompt: str, tokens: int, answer: Answer | None = None
    ) -> Refusal | None:
        body = dialect.body(self.model, prompt, tokens)
        return await ask(self.endpoint, body, answer or Answer(), self.workload.silence)

    async def _short_ask(self, prompt: str, tokens: int) -> Answer:
        answer = Answer()
        refusal = await self._try(self.dialect, prompt, tokens, answer)
        if refusal is not None:
            raise ServerMisbehaved(f"The server refuses the first request with {refusal}")
        return answer

    async def _count(self, text: str) -> int | None:
        return (await self._short_ask(text, 1)).prompt_tokens

    def _prompt(self, seed: str) -> str:
        assert self.vocabulary is not None
        asked = self.workload
        return self.vocabulary.prompt(asked.prompt, asked.shared, str(asked.seed), seed)

    async def _measure(self, stage: Stage, repeat: int, stop: asyncio.Event) -> Tally:
        seed = f"{stage.kind} {stage.level:g} {repeat}"
        numbers = range(stage.requests)
        bodies = [
            self.dialect.body(self.model, self._prompt(f"{seed} {number}"), self.workload.answer)
            for number in numbers
        ]
        began = time.perf_counter()
        until = None if self.workload.seconds is None else began + self.workload.seconds
        tally = Tally(self.progress.request, until)

        async def asking(number: int, due: float | None) -> Asked:
            return await self._ask(number, bodies[number], tally, began, due)

        load: Coroutine[Any, Any, None]
        if stage.kind is Kind.USERS:
            load = closed_loop(int(stage.level), numbers, asking, tally)
        else:
            moments = arrivals(stage.level, stage.requests, f"{self.workload.seed} {seed}")
            load = open_loop(moments, numbers, asking, tally)
        async with watching() as watch:
            await _unless(stop, load)
            client = watch.client
        if tally.records:
            summary = summarise(tally.records, self.workload.limits)
            run = Run(summary, tally.most_in_flight, client, tuple(tally.records))
            self._runs.setdefault(stage, []).append(run)
        return tally

    async def _ask(
        self, number: int, body: bytes, tally: Tally, began: float, due: float | None
    ) -> Asked:
        """One request; whatever becomes of it, it is recorded."""
        wanted, silence = self.workload.answer, self.workload.silence
        loop = asyncio.get_running_loop()
        outcome, error, reached = Outcome.CANCELLED, None, True
        refusal: Refusal | None = None

        def on_chunk() -> None:
            limit.reschedule(loop.time() + silence)
            if len(answer.chunks) > 2 * wanted + 64:
                raise ServerMisbehaved(f"The server goes on beyond the {wanted} tokens asked for.")

        answer = Answer(on_chunk)
        tally.begin()
        try:
            # Bytes without text, as servers send to say that they live, do not count.
            async with asyncio.timeout(silence) as limit:
                refusal = await ask(self.endpoint, body, answer, silence)
            outcome = Outcome.COMPLETED
            if refusal is not None:
                outcome = Outcome.REFUSED if refusal.status in _NOT_NOW else Outcome.FAILED
                error = f"The server answered with {refusal}"
        except TimeoutError:
            outcome, error = Outcome.FAILED, f"No text came for {silence:g} seconds."
        except (ServerMisbehaved, ServerUnreachable) as failure:
            outcome, error = Outcome.FAILED, failure.message
            reached = not isinstance(failure, ServerUnreachable)
        finally:
            kept = record(
                number,
                outcome,
                answer,
                began=began,
                now=time.perf_counter(),
                wanted=wanted,
                due=due,
                status=refusal.status if refusal else None,
                error=error,
            )
            tally.end(kept, reached)
        return Asked(kept, reached, refusal.retry_after if refusal else None)


async def _unless(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> bool:
    """Do ``work``, unless ``stop`` is set first: then it is cancelled. Whether it was done."""
    doing = asyncio.create_task(work)
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({doing, stopping}, return_when=asyncio.FIRST_COMPLETED)
        done = doing.done()
        if not done:
            doing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await doing
        return done
    finally:
        stopping.cancel()
        doing.cancel()
