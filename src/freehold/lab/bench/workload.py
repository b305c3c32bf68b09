"""What is asked of a server: how much load, in which stages, of which requests. Pure."""

from __future__ import annotations

import enum
import random

import msgspec

from freehold.lab.bench.records import Limits


class Kind(enum.StrEnum):
    """``users``: a closed loop of so many. ``rate``: Poisson arrivals, so many a second."""

    USERS = "users"
    RATE = "rate"


class Stage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One level of load, and how many requests make it up."""

    kind: Kind
    level: float
    requests: int

    @property
    def title(self) -> str:
        if self.kind is Kind.RATE:
            return f"{self.level:g}/s"
        return f"{self.level:g} user{'' if self.level == 1 else 's'}"


class Workload(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Lengths are tokens, times seconds.

    ``requests`` None: three for each user, at least six. ``seconds``: no request is sent later in
    a stage. ``silence``: so long without a byte, and an answer has stalled. ``shared``: tokens that
    all prompts begin with.
    """

    users: tuple[int, ...]
    rates: tuple[float, ...]
    seed: int
    requests: int | None = None
    seconds: float | None = None
    prompt: int = 256
    answer: int = 48
    shared: int = 0
    warm_up: int = 2
    repeats: int = 1
    silence: float = 300.0
    limits: Limits = Limits()

    @property
    def stages(self) -> tuple[Stage, ...]:
        closed = (
            Stage(Kind.USERS, float(users), self.requests or max(6, 3 * users))
            for users in self.users
        )
        open_ = (Stage(Kind.RATE, rate, self.requests or 20) for rate in self.rates)
        return (*closed, *open_)

    @property
    def total(self) -> int:
        """Requests of all stages and repeats."""
        return self.repeats * sum(stage.requests for stage in self.stages)


def arrivals(rate: float, count: int, seed: str) -> tuple[float, ...]:
    """When each of ``count`` requests arrives, in seconds: a Poisson process of ``rate`` a second.

    The gaps between arrivals are independent and exponential, with mean 1 / ``rate``.
    """
    chance = random.Random(seed)  # noqa: S311 - a workload, no secret
    moments = []
    now = 0.0
    for _ in range(count):
        now += chance.expovariate(rate)
        moments.append(now)
    return tuple(moments)
