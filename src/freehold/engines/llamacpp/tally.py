"""What an engine has been doing, in counts and seconds."""

from __future__ import annotations

from freehold.engines.llamacpp.messages import Inspected
from freehold.engines.llamacpp.scheduler import Scheduler, Step


class Tally:
    """Counted by the loop, reported on request."""

    def __init__(self) -> None:
        self._steps = 0
        self._rows = self._prompt_tokens = 0
        self._drafted = self._accepted = 0

    def step(self, step: Step) -> None:
        self._steps += 1
        self._rows += step.rows
        self._prompt_tokens += step.prompt_tokens

    def drafted(self, count: int, accepted: int) -> None:
        self._drafted += count
        self._accepted += accepted

    def report(self, scheduler: Scheduler, decode_seconds: float) -> Inspected:
        return Inspected(
            steps=self._steps,
            decode_seconds=decode_seconds,
            decoded_rows=self._rows,
            prompt_tokens=self._prompt_tokens,
            drafted_tokens=self._drafted,
            accepted_tokens=self._accepted,
            preemptions=scheduler.preemptions,
            running=len(scheduler.running),
            waiting=len(scheduler.waiting),
            held_tokens=sum(stream.length for stream in scheduler.streams),
            shelved_bytes=scheduler.shelf.size,
        )
