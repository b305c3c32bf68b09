"""Which replica of an upstream gets a request: a state machine without a clock and without I/O.

               nobody there, or three failures in a row
     HEALTHY ────────────────────────────────────────────▶ EJECTED ◀──────────────┐
        ▲                                                     │  for 1 s, then 2, │
        │                                 a check finds it well│  4 … 60 at most  │ it fails again
        │ an answer begins                                    ▼                   │
        └───────────────────────────────────────────── ON_PROBATION ──────────────┘
                                                    one request at a time

A request goes home: to the replica that a rendezvous hash of the beginning of its conversation
names, which has that beginning in its cache if anyone has. But a home whose outstanding tokens
exceed the least of all by more than `SLACK` is too busy, and the least busy one gets it instead.
When a replica leaves or comes back, only the conversations at home there move.

Times are seconds by any clock that does not run backwards, and the caller's.
"""

from __future__ import annotations

import enum
import hashlib
import itertools
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

# Tokens. To read a prefix of that length anew costs about what waiting behind as many tokens does;
# less would move conversations away from their caches for nothing.
SLACK = 8192
FAILURES = 3
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0


class Health(enum.StrEnum):
    HEALTHY = "healthy"
    EJECTED = "ejected"
    ON_PROBATION = "on probation"


class Sign(enum.Enum):
    """What a request or a check says about a replica."""

    WELL = enum.auto()
    ILL = enum.auto()  # it was there, and did not do as it should
    GONE = enum.auto()  # nobody was there


@dataclass(frozen=True)
class Standing:
    """One replica at a moment, for observers. ``tokens`` are outstanding in ``requests``;
    ``ejections`` are counted since the start.
    """

    url: str
    health: Health
    requests: int
    tokens: int
    ejections: int


@dataclass(frozen=True)
class Ticket:
    """A request at a replica, until it is told how that ended. ``url`` is where to ask."""

    number: int
    replica: int
    url: str
    tokens: int


@dataclass
class _Replica:
    """``pause`` is how long the next ejection lasts at least, ``until`` when this one may end."""

    url: str
    health: Health = Health.HEALTHY
    failures: int = 0
    pause: float = FIRST_PAUSE
    until: float = 0.0
    ejections: int = 0
    outstanding: dict[int, int] = field(default_factory=dict)

    @property
    def tokens(self) -> int:
        return sum(self.outstanding.values())

    @property
    def takes(self) -> bool:
        if self.health is Health.ON_PROBATION:
            return not self.outstanding
        return self.health is Health.HEALTHY


class Replicas:
    """All replicas of one upstream, by number from 0."""

    def __init__(self, urls: Sequence[str]) -> None:
        self._replicas = [_Replica(url) for url in urls]
        self._numbers = itertools.count()

    def standings(self) -> tuple[Standing, ...]:
        return tuple(
            Standing(each.url, each.health, len(each.outstanding), each.tokens, each.ejections)
            for each in self._replicas
        )

    # Requests

    def choose(
        self, beginning: bytes, tokens: int, tried: AbstractSet[int] = frozenset()
    ) -> Ticket | None:
        """Who gets a request of so many ``tokens``, which is outstanding there from now on.

        ``beginning`` is that of its conversation. None: nobody who was not ``tried`` takes one.
        """
        takers = [
            number
            for number, each in enumerate(self._replicas)
            if each.takes and number not in tried
        ]
        if not takers:
            return None
        at_home = max(takers, key=lambda number: self._score(beginning, number))
        idlest = min(takers, key=lambda number: self._replicas[number].tokens)
        busy = self._replicas[at_home].tokens - self._replicas[idlest].tokens > SLACK
        chosen = idlest if busy else at_home
        ticket = Ticket(next(self._numbers), chosen, self._replicas[chosen].url, tokens)
        self._replicas[chosen].outstanding[ticket.number] = tokens
        return ticket

    def _score(self, beginning: bytes, number: int) -> bytes:
        """Rendezvous hashing: the highest score is home."""
        url = self._replicas[number].url.encode()
        return hashlib.blake2b(beginning + b"\0" + url, digest_size=16).digest()

    def begun(self, ticket: Ticket) -> bool:
        """Its first token has come. Whether the replica's health is another one now."""
        replica = self._replicas[ticket.replica]
        if replica.health is not Health.ON_PROBATION:
            return False
        replica.health = Health.HEALTHY
        return True

    def answered(self, ticket: Ticket) -> bool:
        """It ended as it should, or with a refusal that a sound server gives. Whether the replica's
        health is another one now.
        """
        changed = self.begun(ticket)
        replica = self._left(ticket)
        replica.failures = 0
        if replica.health is Health.HEALTHY:
            replica.pause = FIRST_PAUSE
        return changed

    def abandoned(self, ticket: Ticket) -> None:
        """Whoever asked has left, or the replica has no room: that is no fault of it."""
        self._left(ticket)

    def failed(self, ticket: Ticket, now: float, sign: Sign) -> bool:
        """The replica's fault. Whether its health is another one now."""
        return self._blame(self._left(ticket), now, sign)

    def _left(self, ticket: Ticket) -> _Replica:
        replica = self._replicas[ticket.replica]
        del replica.outstanding[ticket.number]
        return replica

    # Checks

    def to_check(self, now: float) -> tuple[tuple[int, str], ...]:
        """Whom to ask how they are: all but those whose ejection is not over yet."""
        return tuple(
            (number, each.url)
            for number, each in enumerate(self._replicas)
            if each.health is not Health.EJECTED or now >= each.until
        )

    def checked(self, number: int, now: float, sign: Sign) -> bool:
        """What a check has shown. Whether the replica's health is another one now."""
        replica = self._replicas[number]
        if sign is not Sign.WELL:
            return self._blame(replica, now, sign)
        if replica.health is Health.HEALTHY and not replica.outstanding:
            replica.failures = 0  # late checks of a week are not failures in a row
        if replica.health is not Health.EJECTED or now < replica.until:
            return False
        replica.health = Health.ON_PROBATION
        replica.failures = 0
        return True

    def next_check(self, now: float, usual: float) -> float:
        """Seconds until the next one, ``usual`` at most."""
        pauses = [each.until - now for each in self._replicas if each.health is Health.EJECTED]
        return max(min([usual, *pauses]), 0.0)

    def until_readmission(self, now: float) -> float:
        """Seconds until somebody may take requests again; 0 where somebody does."""
        waits = (
            max(each.until - now, 0.0) if each.health is Health.EJECTED else 0.0
            for each in self._replicas
        )
        return min(waits)

    def _blame(self, replica: _Replica, now: float, sign: Sign) -> bool:
        """A busy replica may be late with a check: as long as answers end well it stays."""
        replica.failures += 1
        if replica.health is Health.EJECTED:
            if now >= replica.until:
                self._pause(replica, now)
            return False
        on_probation = replica.health is Health.ON_PROBATION
        if sign is not Sign.GONE and replica.failures < FAILURES and not on_probation:
            return False
        replica.health = Health.EJECTED
        replica.ejections += 1
        self._pause(replica, now)
        return True

    def _pause(self, replica: _Replica, now: float) -> None:
        replica.until = now + replica.pause
        replica.pause = min(2 * replica.pause, LONGEST_PAUSE)
