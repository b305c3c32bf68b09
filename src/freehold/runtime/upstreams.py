"""The upstreams of one process: their engines, and one answer of theirs while it runs."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import replace

from freehold.domain.answers import (
    AnswerUsage,
    Begun,
    ContentDelta,
    Ended,
    Part,
    ReasoningDelta,
    ToolCallBegun,
    ToolCallDelta,
)
from freehold.domain.chat import MessagesRequest
from freehold.domain.errors import FreeholdError, OfflineRefused
from freehold.domain.events import PromptRead
from freehold.domain.upstreams import Upstream
from freehold.engines.base import MessageEngine
from freehold.engines.upstream.engine import UpstreamEngine, UpstreamFigures
from freehold.runtime.accounting import Account, Closing
from freehold.runtime.observing import Pace, Written


class Upstreams:
    """``offline``: those beyond this machine are not asked. ``sealed``: this process can make no
    connection any more, so none is.
    """

    def __init__(
        self, known: Mapping[str, Upstream], *, offline: bool = False, sealed: bool = False
    ) -> None:
        self.known = known
        self._offline = offline
        self._sealed = sealed
        self._engines = {name: UpstreamEngine(upstream) for name, upstream in known.items()}

    def engine(self, name: str) -> UpstreamEngine | None:
        """None: it is no upstream. Raises `OfflineRefused` for one that cannot be asked."""
        upstream = self.known.get(name)
        if upstream is None:
            return None
        if self.barred(upstream):
            raise OfflineRefused(
                f"freehold is offline, and the upstream {name} cannot be used.",
                hint="Leave out --offline (and FREEHOLD_OFFLINE) to allow the network.",
                values={"upstream": name},
            )
        return self._engines[name]

    def barred(self, upstream: Upstream) -> bool:
        return self._sealed or (self._offline and bool(upstream.beyond))

    def start(self) -> None:
        """Check those that can be asked from now on, in the background."""
        for name, upstream in self.known.items():
            if not self.barred(upstream) and not upstream.lacks_key:
                self._engines[name].start()

    def figures(self) -> tuple[UpstreamFigures, ...]:
        return tuple(engine.figures() for engine in self._engines.values())

    async def close(self) -> None:
        for engine in self._engines.values():
            await engine.close()


class UpstreamAnswer:
    """One answer of an upstream. ``began`` is when its request arrived (monotonic seconds)."""

    def __init__(
        self, engine: MessageEngine, request: MessagesRequest, account: Account, began: float
    ) -> None:
        self._engine = engine
        self._request = request
        self._account = account
        self._seen = _Seen(began)

    @property
    def seen(self) -> Written:
        return self._seen

    async def parts(self) -> AsyncGenerator[Part, None]:
        """Run it, once. Closing the iterator early cancels. Its end is logged, however it comes."""
        seen, end, queued = self._seen, "cancelled", None
        pace = Pace(self._account.tally.between_tokens)
        self._account.open(seen)
        try:
            async with contextlib.aclosing(self._engine.generate(self._request)) as parts:
                async for part in parts:
                    told = seen.see(part)
                    if isinstance(told, Ended):
                        end, queued = told.reason.value, told.timings.queued
                    elif not isinstance(told, Begun):
                        pace.hear(1, time.monotonic())
                    yield told
        except FreeholdError as error:
            end = error.code
            raise
        finally:
            closing = Closing(self._request.request_id, end, queued, seen.decode)
            self._account.close(closing, seen)


class _Seen:
    """What was seen of an answer: its server's counts, once they have come."""

    tokens: Sequence[int] = ()  # its server's own, as what it has read
    reading: PromptRead | None = None

    def __init__(self, began: float) -> None:
        self._began = began
        self._deltas = 0
        self._begun: Begun | None = None
        self._ended: Ended | None = None
        self.first_token: float | None = None
        self.first_answer: float | None = None

    @property
    def usage(self) -> AnswerUsage:
        if self._ended is not None:
            return self._ended.usage
        begun = self._begun or Begun(0, 0)
        return AnswerUsage(begun.prompt_tokens, begun.cached_tokens, self._deltas)

    @property
    def writing(self) -> float:
        """Until now: told while it runs, or when it has just ended."""
        return self.decode

    @property
    def decode(self) -> float:
        first = self.first_token or 0.0
        return time.monotonic() - self._began - first if self.first_token is not None else 0.0

    def see(self, part: Part) -> Part:
        """The part, with times that count from the request's arrival."""
        since = time.monotonic() - self._began
        match part:
            case Begun():
                self._begun, self.first_token = part, since
            case Ended():
                part = self._ended = replace(part, first_answer=self.first_answer)
            case ReasoningDelta():
                self._deltas += 1
            case ContentDelta() | ToolCallBegun() | ToolCallDelta():
                self._deltas += not isinstance(part, ToolCallBegun)
                if self.first_answer is None:
                    self.first_answer = since
        return part
