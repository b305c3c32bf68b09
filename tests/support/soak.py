"""Random load on one engine: arrivals, cancellations, lengths, grammars, seeds, scopes.

Every step is followed by a comparison of what the scheduler believes with what llama.cpp holds.
``python -m tests.support.soak MINUTES`` goes on for so long, half of it with each cache layout, and
looks at the memory as well.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from freehold.domain.chat import GenerateRequest
from freehold.domain.engine import CacheConfig, CacheLayout
from freehold.domain.sampling import Constraint, Grammar, Sampling
from freehold.engines.llamacpp.messages import Cancel
from freehold.engines.llamacpp.sequence import Phase
from tests.support.engine import Answer, Stage, config, staged
from tests.support.tiny_model import write_tiny_llama

GRAMMARS = (
    Constraint(Grammar.REGEX, "[a-c]{3,9}"),
    Constraint(Grammar.JSON_SCHEMA, '{"type": "object", "properties": {"a": {"type": "integer"}}}'),
    Constraint(Grammar.LARK, 'start: "yes" | "no" " " start'),
)


@dataclass
class Outcome:
    """What became of the requests of a soak."""

    finished: int = 0
    cancelled: int = 0
    failed: int = 0
    steps: int = 0
    preemptions: int = 0


def soak(
    model: Path, layout: CacheLayout, *, seed: int, go_on: Callable[[int], bool], at_once: int = 24
) -> Outcome:
    """Load an engine as long as ``go_on(steps)``, then let it finish and look for what is left."""
    cache = CacheConfig(layout=layout, cells=1200, host_bytes=4_000_000)
    with staged(model, config(parallel=6, cache=cache)) as stage:
        crowd = _Crowd(stage, random.Random(seed), at_once)
        while go_on(stage.steps):
            crowd.act()
            stage.turn()
            check(stage)
        crowd.leave_them_to_finish()
        stage.loop.cache.forget(tuple(range(stage.context.streams)))
        assert all(stage.context.held(stream) == 0 for stream in range(stage.context.streams))
        counts = stage.inspect()
        assert (counts.running, counts.waiting, counts.held_tokens) == (0, 0, 0)
        outcome = crowd.outcome
        outcome.steps, outcome.preemptions = counts.steps, counts.preemptions
        return outcome


class _Crowd:
    """Those who ask and leave."""

    def __init__(self, stage: Stage, dice: random.Random, at_once: int) -> None:
        self._stage = stage
        self._dice = dice
        self._at_once = at_once
        self._number = 0
        self._stems = [self._tokens(dice.choice((20, 60, 150))) for _ in range(6)]
        self.outcome = Outcome()

    def act(self) -> None:
        """Some arrive, some leave, some have their answer."""
        answers, dice = self._stage.answers, self._dice
        while len(answers) < self._at_once and dice.random() < 0.3:
            self._stage.ask(self._request())
        if answers and dice.random() < 0.04:
            leaving = dice.choice(tuple(answers))
            self._stage.inbox.put(Cancel(leaving))
            if not answers[leaving].over:
                self._stage.gone.add(leaving)
                self.outcome.cancelled += 1
                del answers[leaving]
        self._count()

    def _count(self) -> None:
        for name, answer in tuple(self._stage.answers.items()):
            if answer.over:
                _check_answer(answer)
                self.outcome.finished += answer.failed is None
                self.outcome.failed += answer.failed is not None
                del self._stage.answers[name]

    def leave_them_to_finish(self) -> None:
        for _ in range(20_000):
            if not self._stage.answers:
                break
            self._stage.turn()
            check(self._stage)
            self._count()
        assert not self._stage.answers, "streams that do not end"
        self._stage.turn()

    def _tokens(self, count: int) -> tuple[int, ...]:
        return tuple(self._dice.randrange(256) for _ in range(count))

    def _request(self) -> GenerateRequest:
        dice = self._dice
        self._number += 1
        stem = dice.choice(self._stems)[: dice.randrange(1, 150)]
        return GenerateRequest(
            f"{self._number}",
            (stem + self._tokens(dice.randrange(1, 60)) * dice.choice((1, 1, 1, 4)))[:400],
            dice.choice((1, 5, 20, 80)),
            Sampling(
                temperature=dice.choice((0.0, 0.0, 0.8)),
                top_k=dice.choice((0, 40)),
                repetition_penalty=dice.choice((1.0, 1.1)),
                seed=dice.choice((None, 3)),
                stop=dice.choice(((), ("a",))),
            ),
            cache_scope=dice.choice("AAB"),
            constraint=dice.choice((None, None, None, *GRAMMARS)),
            top_logprobs=dice.choice((None, None, 2)),
            prompt_logprobs=dice.choice((None, None, None, None, 1)),
        )


def _check_answer(answer: Answer) -> None:
    if answer.failed is None:
        assert answer.reason is not None
        assert answer.processed is not None
        assert answer.usage is not None
        assert answer.usage.completion_tokens == len(answer.tokens)


def check(stage: Stage) -> None:
    """What the scheduler believes is what the context holds, and its own rules are kept."""
    scheduler, context = stage.loop.scheduler, stage.context
    for stream in scheduler.streams:
        assert context.held(stream.index) == stream.length, f"stream {stream.index}"
        if stream.owner is not None:
            assert stream.owner.stream == stream.index
            assert stream.owner.committed == stream.length
    assert len({sequence.stream for sequence in scheduler.running}) == len(scheduler.running)
    assert len(scheduler.running) <= scheduler.limits.parallel
    for sequence in scheduler.running:
        assert sequence.committed < len(sequence.tokens)
        if sequence.phase is Phase.DECODE:
            assert sequence.remaining == 1
    assert not set(map(id, scheduler.running)) & set(map(id, scheduler.waiting))
    assert scheduler.shelf.size <= scheduler.shelf.capacity
    assert {item.number for item in scheduler.shelf} == set(stage.loop.cache.blobs)


# What Python and malloc may still take after the first tenth, in bytes.
GROWTH = 64 * 1024 * 1024


def main(minutes: float) -> None:
    """Soak both layouts; raises `AssertionError` for whatever is wrong."""
    with tempfile.TemporaryDirectory() as folder:
        model = write_tiny_llama(Path(folder) / "tiny.gguf")
        for layout in CacheLayout:
            clock = _Clock(minutes * 30)
            outcome = soak(model, layout, seed=int(time.time()), go_on=clock.go_on)
            grown = _resident() - clock.settled_size
            print(f"{layout}: {outcome}; memory grew by {grown / 2**20:.1f} MiB", flush=True)
            assert outcome.failed == 0
            assert grown < GROWTH


class _Clock:
    """Says when to stop, and how large the process was after a tenth of the time."""

    def __init__(self, seconds: float) -> None:
        self._began, self._seconds = time.monotonic(), seconds
        self.settled_size = 0

    def go_on(self, _: int) -> bool:
        passed = time.monotonic() - self._began
        if passed > self._seconds / 10 and not self.settled_size:
            self.settled_size = _resident()
        return passed < self._seconds


def _resident() -> int:
    return int(psutil.Process().memory_info().rss)


if __name__ == "__main__":
    main(float(sys.argv[1]))
