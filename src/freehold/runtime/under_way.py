"""The requests that wait for a model or are being answered, for whoever may look or end them.

Numbers, names and times; never what was asked or said. Used from one event loop.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from freehold.domain.answers import AnswerUsage
from freehold.runtime.access.caller import Caller
from freehold.runtime.logs import Dialect, current_request
from freehold.runtime.observing import Reading
from freehold.runtime.stopping import Stop


@dataclass(eq=False)
class Asked:
    """One request. ``id`` is ours, ``request`` the log's, which a client may have chosen.

    ``model`` is canonical, ``began`` by the clock of `UnderWay`; ``readings`` are its answers,
    those that are over too.
    """

    id: str
    request: str | None
    dialect: Dialect
    model: str
    caller: Caller
    began: float
    stop: Stop
    running: bool = False
    readings: list[Reading] = field(default_factory=list)

    @property
    def usage(self) -> AnswerUsage:
        """What has been read and written so far, of all its answers."""
        used = [reading.usage for reading in self.readings]
        return AnswerUsage(
            prompt_tokens=sum(each.prompt_tokens for each in used),
            cached_tokens=sum(each.cached_tokens for each in used),
            completion_tokens=sum(each.completion_tokens for each in used),
        )


class UnderWay:
    """All of them. ``clock`` in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._asked: dict[str, Asked] = {}

    def all(self) -> tuple[Asked, ...]:
        """The oldest first."""
        return tuple(self._asked.values())

    def find(self, identity: str) -> Asked | None:
        return self._asked.get(identity)

    @contextlib.contextmanager
    def counted(self, model: str, caller: Caller) -> Iterator[Asked]:
        """One more, as long as this lasts. What belongs to no HTTP request cannot be ended."""
        record = current_request()
        asked = Asked(
            id=uuid.uuid4().hex,
            request=None if record is None else record.id,
            dialect="freehold" if record is None else record.dialect,
            model=model,
            caller=caller,
            began=self.clock(),
            stop=Stop() if record is None else record.stop,
        )
        self._asked[asked.id] = asked
        try:
            yield asked
        finally:
            del self._asked[asked.id]
