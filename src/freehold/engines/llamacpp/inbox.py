"""What the gateway has said and the loop has not heard yet.

The receiver thread puts, the loop's thread gets. Cancellations can be seen before they are
taken, so that a long step for nobody can be given up in its middle.
"""

from __future__ import annotations

import queue
from collections.abc import Collection
from dataclasses import dataclass

from freehold.engines.llamacpp.messages import Cancel, Failure, FromGateway
from freehold.text.constraint import Matcher


@dataclass(frozen=True, eq=False)
class Compiled:
    """A request's constraint is ready, or cannot be had."""

    request_id: str
    outcome: Matcher | Failure


class Closed:
    """Nothing more will come."""


Item = FromGateway | Compiled | Closed


class Inbox:
    """Commands in their order."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Item] = queue.SimpleQueue()
        self._cancelled: set[str] = set()

    def put(self, item: Item) -> None:
        if isinstance(item, Cancel):
            self._cancelled.add(item.request_id)
        self._queue.put(item)

    def get(self, *, wait: bool) -> Item | None:
        """The next item; None if there is none and the caller does not want to wait."""
        try:
            item = self._queue.get(block=wait)
        except queue.Empty:
            return None
        if isinstance(item, Cancel):
            self._cancelled.discard(item.request_id)
        return item

    def all_cancelled(self, request_ids: Collection[str]) -> bool:
        """Whether each of these has been cancelled, though the loop has not got to it."""
        return self._cancelled.issuperset(request_ids)
