"""Whose turn it is: start-time fair queuing between callers, first come first served within one.

    arrive ──▶ WAITING ──its turn──▶ RUNNING ──▶ leave
                  └────gives up────────────────────▶

Pure: tickets go in, and whoever may run now comes out. One of these stands before each model.

A ticket wants some *places*, the sequences its request will run. Its tag is the virtual time at
which it would begin if every caller had its share to itself: when its caller's last ticket would
end, or now, whichever is later. The lowest tag runs next. A ticket that comes while its caller has
nothing waiting begins at the virtual time of the moment, so nobody saves up turns by being away.
While two callers both always wait, the turns they have had, each divided by its weight, differ by
less than one ticket of each (Goyal, Vin, Cheng, *Start-time Fair Queuing*, 1996, theorem 1).

The next ticket waits until its places are free and nobody overtakes it meanwhile, so a large one
does not starve. It holds at most as many places as there are.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from fractions import Fraction


@dataclass(frozen=True)
class Ticket:
    """``number`` is unique and grows. ``places`` and ``weight`` are at least 1."""

    number: int
    caller: str
    places: int = 1
    weight: int = 1


@dataclass(frozen=True, order=True)
class _Waiting:
    tag: Fraction
    number: int
    ticket: Ticket = field(compare=False)


class Turns:
    """``places`` is how many may be held at once, ``most_waiting`` how many tickets may wait."""

    def __init__(self, places: int, most_waiting: int) -> None:
        self.places = places
        self.most_waiting = most_waiting
        self._queue: list[_Waiting] = []
        self._waiting: set[int] = set()
        self._running: dict[int, int] = {}
        self._now = Fraction(0)
        self._ends: dict[str, Fraction] = {}

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def held(self) -> int:
        """Places."""
        return sum(self._running.values())

    def full_for(self, places: int) -> bool:
        """One more, which wants so many places, would have to wait, and may not."""
        free = not self._waiting and self.held + min(places, self.places) <= self.places
        return not free and self.waiting >= self.most_waiting

    def arrive(self, ticket: Ticket) -> tuple[Ticket, ...]:
        """Join the queue. Whoever may run now comes back, perhaps this one. Not to be called while
        it is full for it.
        """
        tag = max(self._now, self._ends.get(ticket.caller, self._now))
        self._ends[ticket.caller] = tag + Fraction(ticket.places, ticket.weight)
        heapq.heappush(self._queue, _Waiting(tag, ticket.number, ticket))
        self._waiting.add(ticket.number)
        return self._advance()

    def leave(self, ticket: Ticket) -> tuple[Ticket, ...]:
        """It has ended, or waits no longer. Whoever may run now comes back."""
        self._running.pop(ticket.number, None)
        self._waiting.discard(ticket.number)  # what is left of it in the queue is passed over
        return self._advance()

    def resize(self, places: int) -> tuple[Ticket, ...]:
        """From now on there are so many. Whoever may run now comes back."""
        self.places = places
        return self._advance()

    def _advance(self) -> tuple[Ticket, ...]:
        released: list[Ticket] = []
        while self._queue:
            first = self._queue[0]
            if first.number in self._waiting:
                places = min(first.ticket.places, self.places)
                if self.held + places > self.places:
                    break
                self._waiting.discard(first.number)
                self._running[first.number] = places
                self._now = max(self._now, first.tag)
                released.append(first.ticket)
            heapq.heappop(self._queue)
        self._forget()
        return tuple(released)

    def _forget(self) -> None:
        """What callers had, once it makes no difference any more."""
        if not self._waiting and not self._running:
            self._ends.clear()
        elif len(self._ends) > 2 * len(self._waiting) + 64:
            self._ends = {name: end for name, end in self._ends.items() if end > self._now}
