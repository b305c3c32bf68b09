"""What is counted while answers are given, for operators: numbers and names of models, no text.

Counting is a few additions on the event loop; how it is told (`api.metrics`) costs nothing until
somebody asks.
"""

from __future__ import annotations

import collections
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from freehold.domain.answers import AnswerUsage
from freehold.domain.events import PromptRead

# Upper bounds of the buckets, in seconds. A wait for a first token may hold the loading of a model;
# between tokens lie 5 ms (a small model on a GPU) and seconds (a large prompt is read meanwhile).
WAITS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 60.0, 120.0, 300.0, 600.0)
GAPS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0)


class Histogram:
    """How many values lay at or below each bound, and one count for what lay above all."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float, times: int = 1) -> None:
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times


class Reading(Protocol):
    """An answer that is being read. ``first_token``: seconds from its request's arrival;
    ``reading``: how far its prompt has been read, until then; None where that is not known.
    """

    @property
    def usage(self) -> AnswerUsage: ...

    @property
    def reading(self) -> PromptRead | None: ...

    @property
    def first_token(self) -> float | None: ...


class Written(Reading, Protocol):
    """What there is of an answer. ``tokens`` are its ids, none where another server keeps them;
    ``writing`` the seconds from the first to the latest.
    """

    @property
    def tokens(self) -> Sequence[int]: ...

    @property
    def writing(self) -> float: ...


@dataclass(frozen=True)
class Counts:
    """``first_tokens`` answers have said something, ``first_token_seconds`` after they were asked,
    all together.
    """

    answers: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    first_tokens: int
    first_token_seconds: float


@dataclass
class ModelTally:
    """One model, since the server began.

    ``answers`` by how they ended: an end of `EndReason`, ``cancelled``, or the code of an error.
    ``prefix_hits`` are answers some of whose prompt was in the cache. ``engines`` counts every
    start of an engine, ``loads`` those that were the first of a load. ``reading`` are the answers
    that are not over: the other counts know nothing of them.
    """

    answers: collections.Counter[str] = field(default_factory=collections.Counter)
    first_token: Histogram = field(default_factory=lambda: Histogram(WAITS))
    between_tokens: Histogram = field(default_factory=lambda: Histogram(GAPS))
    queued: Histogram = field(default_factory=lambda: Histogram(WAITS))
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    prefix_hits: int = 0
    loads: int = 0
    engines: int = 0
    reading: set[Reading] = field(default_factory=set)

    def so_far(self) -> Counts:
        """With the answers that are being written."""
        used = [reading.usage for reading in self.reading]
        begun = [r.first_token for r in self.reading if r.first_token is not None]
        return Counts(
            answers=self.answers.total(),
            prompt_tokens=self.prompt_tokens + sum(each.prompt_tokens for each in used),
            cached_tokens=self.cached_tokens + sum(each.cached_tokens for each in used),
            completion_tokens=self.completion_tokens + sum(each.completion_tokens for each in used),
            first_tokens=sum(self.first_token.counts) + len(begun),
            first_token_seconds=self.first_token.total + sum(begun),
        )

    @property
    def restarts(self) -> int:
        return self.engines - self.loads


class Meters:
    """Everything that is counted. ``requests`` by dialect and HTTP status."""

    def __init__(self) -> None:
        self.models: dict[str, ModelTally] = {}
        self.requests: collections.Counter[tuple[str, int]] = collections.Counter()
        self.in_flight = 0

    def model(self, name: str) -> ModelTally:
        """The tally of a model that is loaded: never ask with a name from a request."""
        return self.models.setdefault(name, ModelTally())


class Pace:
    """Gaps between tokens, from when frames came: a frame's tokens share the time since the last.

    The first frame brings the first token, and is no gap.
    """

    __slots__ = ("_last", "_told")

    def __init__(self, told: Histogram) -> None:
        self._told = told
        self._last: float | None = None

    def hear(self, tokens: int, now: float) -> None:
        if not tokens:
            return
        if self._last is not None:
            self._told.add((now - self._last) / tokens, tokens)
        self._last = now
