"""A worker without a model: the real wire, the real sender, and tokens at a set rate.

Run by `LlamaCppEngine` in place of the real one, for what a gateway costs. Sequences that run get a
token each in every step; more requests wait, first come, first served.
"""

from __future__ import annotations

import collections
import sys
import threading
import time
from dataclasses import dataclass

from freehold.domain.chat import GenerateRequest
from freehold.domain.events import Finished, FinishReason, PromptProcessed, Timings, Usage
from freehold.engines.llamacpp.messages import (
    Cancel,
    FromGateway,
    Generate,
    Inspect,
    Inspected,
    Load,
    Loaded,
    Ready,
    SequenceDelta,
    Share,
)
from freehold.engines.llamacpp.outbox import Outbox
from freehold.engines.llamacpp.worker import send_from
from freehold.process.frames import Channel
from freehold.process.inside import leave_now, settle_in

MODULE = "tests.support.scripted_worker"
TOKENS_PER_SECOND = 1000.0


@dataclass
class _Sequence:
    request: GenerateRequest
    arrived: float
    began: float = 0.0
    said: int = 0


class Voices:
    """All requests of this worker. Its lock is held by the receiver and the clock in turn."""

    def __init__(self, parallel: int, outbox: Outbox) -> None:
        self.lock = threading.Lock()
        self._parallel = parallel
        self._outbox = outbox
        self._waiting: collections.deque[_Sequence] = collections.deque()
        self._running: dict[str, _Sequence] = {}
        self._steps = 0

    def ask(self, request: GenerateRequest) -> None:
        self._waiting.append(_Sequence(request, time.monotonic()))

    def cancel(self, request_id: str) -> None:
        self._running.pop(request_id, None)
        kept = (one for one in self._waiting if one.request.request_id != request_id)
        self._waiting = collections.deque(kept)

    def step(self) -> int:
        """One token of everybody who runs; how many that were."""
        while self._waiting and len(self._running) < self._parallel:
            sequence = self._waiting.popleft()
            sequence.began = time.monotonic()
            self._running[sequence.request.request_id] = sequence
        deltas = [self._say(sequence) for sequence in list(self._running.values())]
        self._steps += 1
        self._outbox.post(deltas)
        return len(deltas)

    def _say(self, sequence: _Sequence) -> SequenceDelta:
        request, now = sequence.request, time.monotonic()
        prompt = len(request.prompt)
        sequence.said += 1
        over = sequence.said >= request.max_tokens
        if over:
            del self._running[request.request_id]
        return SequenceDelta(
            request_id=request.request_id,
            processed=PromptProcessed(prompt, 0) if sequence.said == 1 else None,
            text=f" word{sequence.said}",
            tokens=(sequence.said,),
            finished=Finished(
                FinishReason.LENGTH,
                Usage(prompt, 0, sequence.said),
                Timings(sequence.began - sequence.arrived, 0.0, now - sequence.began),
                seed=0,
            )
            if over
            else None,
        )

    def inspect(self) -> Inspected:
        return Inspected(
            decode_seconds=0.0,
            answering=Share(steps=self._steps),
            mixed=Share(),
            reading=Share(),
            drafted_tokens=0,
            accepted_tokens=0,
            preemptions=0,
            running=len(self._running),
            waiting=len(self._waiting),
            held_tokens=0,
            shelved_bytes=0,
        )


def receive(channel: Channel[FromGateway], voices: Voices, outbox: Outbox) -> None:
    while (message := channel.receive()) is not None:
        with voices.lock:
            match message:
                case Generate(request):
                    voices.ask(request)
                case Cancel(request_id):
                    voices.cancel(request_id)
                case Inspect():
                    outbox.answer(voices.inspect())
    leave_now(0)


def main() -> None:
    channel: Channel[FromGateway] = Channel(settle_in(sys.argv[1]), FromGateway)
    channel.send(Ready())
    first = channel.receive()
    if not isinstance(first, Load):
        return
    config = first.config
    channel.send(
        Loaded(context=config.context, description="scripted", generates=True, embeds=False)
    )
    outbox = Outbox()
    voices = Voices(config.parallel, outbox)
    threading.Thread(target=receive, args=(channel, voices, outbox), daemon=True).start()
    threading.Thread(target=send_from, args=(channel, outbox), daemon=True).start()
    due = time.monotonic()
    while True:
        with voices.lock:
            spoken = voices.step()
        due = max(due + max(spoken, 1) / TOKENS_PER_SECOND, time.monotonic() - 1)
        time.sleep(max(0.0, due - time.monotonic()))


if __name__ == "__main__":
    main()
