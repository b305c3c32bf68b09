"""What the worker has to say and the gateway has not heard yet.

The loop posts the deltas of a step and goes on; a sender thread takes all that
is pending as one frame. While the socket is full the deltas of each
sequence are merged, so a stalled gateway costs memory only for text, and decoding
never waits for it.
"""

from __future__ import annotations

import collections
import threading
import time
from collections.abc import Callable, Sequence

from freehold.engines.llamacpp.messages import (
    AdapterReply,
    Embedded,
    FromWorker,
    Inspected,
    SequenceDelta,
    Step,
)

# A gateway that has not taken a frame for this long is not coming back for these streams.
STALL_SECONDS = 60.0


class Outbox:
    """Posted to by the loop's thread, taken from by the sender's."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._condition = threading.Condition()
        self._pending: dict[str, SequenceDelta] = {}
        self._oldest: float | None = None
        self._replies: collections.deque[AdapterReply | Embedded | Inspected] = collections.deque()
        self._closed = False

    def post(self, deltas: Sequence[SequenceDelta]) -> None:
        """One step's deltas. The sender is woken once for all of them."""
        if not deltas:
            return
        with self._condition:
            for delta in deltas:
                earlier = self._pending.get(delta.request_id)
                self._pending[delta.request_id] = earlier.then(delta) if earlier else delta
            if self._oldest is None:
                self._oldest = self._clock()
            self._condition.notify()

    def answer(self, reply: AdapterReply | Embedded | Inspected) -> None:
        """What is not about a sequence: sent whole, before the next step's deltas."""
        with self._condition:
            self._replies.append(reply)
            self._condition.notify()

    def take(self) -> FromWorker | None:
        """Wait for something to say; None once the outbox is closed and empty."""
        with self._condition:
            while not (self._pending or self._replies or self._closed):
                self._condition.wait()
            if self._replies:
                return self._replies.popleft()
            if not self._pending:
                return None
            deltas, self._pending = tuple(self._pending.values()), {}
            self._oldest = None
            return Step(deltas)

    @property
    def empty(self) -> bool:
        """Whether all has been taken."""
        with self._condition:
            return not (self._pending or self._replies)

    def stalled(self) -> bool:
        """Whether something has waited longer than `STALL_SECONDS`."""
        with self._condition:
            return self._oldest is not None and self._clock() - self._oldest > STALL_SECONDS

    def close(self) -> None:
        with self._condition:
            self._closed = True
            self._condition.notify()
