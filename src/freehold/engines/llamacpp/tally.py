"""What an engine has been doing, in counts and seconds."""

from __future__ import annotations

import enum

from freehold.engines.llamacpp.messages import Inspected, Share
from freehold.engines.llamacpp.scheduler import Scheduler, Step


class _Kind(enum.Enum):
    ANSWERING = "rows of answers"
    MIXED = "both"
    READING = "prompts"


class Tally:
    """Counted by the loop, reported on request."""

    def __init__(self) -> None:
        self._shares = dict.fromkeys(_Kind, Share())
        self._drafted = self._accepted = 0

    def step(self, step: Step, seconds: float) -> None:
        kind = _kind(step)
        so_far = self._shares[kind]
        self._shares[kind] = Share(
            steps=so_far.steps + 1,
            seconds=so_far.seconds + seconds,
            rows=so_far.rows + step.rows,
            tokens=so_far.tokens + step.prompt_tokens,
        )

    def drafted(self, count: int, accepted: int) -> None:
        self._drafted += count
        self._accepted += accepted

    def report(self, scheduler: Scheduler, decode_seconds: float) -> Inspected:
        return Inspected(
            decode_seconds=decode_seconds,
            answering=self._shares[_Kind.ANSWERING],
            mixed=self._shares[_Kind.MIXED],
            reading=self._shares[_Kind.READING],
            drafted_tokens=self._drafted,
            accepted_tokens=self._accepted,
            preemptions=scheduler.preemptions,
            running=len(scheduler.running),
            waiting=len(scheduler.waiting),
            held_tokens=sum(stream.length for stream in scheduler.streams),
            shelved_bytes=scheduler.shelf.size,
        )


def _kind(step: Step) -> _Kind:
    if not step.prompt_tokens:
        return _Kind.ANSWERING
    return _Kind.MIXED if step.rows else _Kind.READING
