"""An engine that says what a script tells it: delays, crashes and failures on demand.

It ships because whoever builds on the gateway needs it for the same reason as our
tests: to see what happens when an engine is slow, dies or refuses, without one.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass

from freehold.domain.chat import EmbedRequest, GenerateRequest
from freehold.domain.errors import EngineCrashed, InvalidRequest, LoadFailed
from freehold.domain.events import (
    Event,
    Finished,
    FinishReason,
    PromptProcessed,
    PromptRead,
    TextDelta,
    Timings,
    Usage,
)
from freehold.engines.base import (
    Adapter,
    Capabilities,
    Capability,
    begun_before,
    require_embeddable,
    require_possible,
)
from freehold.text.stops import StopMatcher

WIDTH = 8


@dataclass(frozen=True)
class Script:
    """What one request meets. Each of ``pieces`` is one token.

    ``crash_after`` n: the engine dies after n pieces (0: before the first event).
    ``load_error``: loading fails with this sentence. ``prompt_steps``: the prompt is read in so
    many steps, and what has been read is told after each but the last.
    """

    pieces: tuple[str, ...] = ("All ", "is ", "well.")
    first_token_seconds: float = 0.0
    token_seconds: float = 0.0
    crash_after: int | None = None
    load_seconds: float = 0.0
    load_error: str | None = None
    prompt_steps: int = 1


class ScriptedEngine:
    """Follows ``script(request)``; every request it gets is in ``seen``, cancelled ones too.

    Embedding follows ``script(None)``, as loading does; those requests are in ``embedded``.
    """

    def __init__(
        self,
        script: Callable[[GenerateRequest | None], Script],
        *,
        context: int = 8192,
        parallel: int = 2,
    ) -> None:
        self._script = script
        self._capabilities = Capabilities(
            frozenset({Capability.GENERATE, Capability.EMBED, Capability.SEED, Capability.STOP}),
            context,
            parallel,
        )
        self._turns = asyncio.Semaphore(parallel)
        self._crash: asyncio.Future[None] | None = None
        self._failure: EngineCrashed | None = None
        self.seen: list[GenerateRequest] = []
        self.embedded: list[EmbedRequest] = []
        self.cancelled: list[str] = []
        self.closed = False

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    @property
    def pid(self) -> int | None:
        return None

    @property
    def failure(self) -> EngineCrashed | None:
        return self._failure

    async def load(self) -> None:
        script = self._script(None)
        await asyncio.sleep(script.load_seconds)
        if script.load_error is not None:
            raise LoadFailed(script.load_error)
        self._crash = asyncio.get_running_loop().create_future()

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Event, None]:
        self.seen.append(request)
        require_possible(request, self._capabilities)
        finished = False
        try:
            async with begun_before(request.deadline):
                await self._turns.acquire()
            try:
                async for event in self._follow(self._script(request), request):
                    finished = isinstance(event, Finished)
                    yield event
            finally:
                self._turns.release()
        finally:
            if not finished:
                self.cancelled.append(request.request_id)

    async def _follow(
        self, script: Script, request: GenerateRequest
    ) -> AsyncGenerator[Event, None]:
        stops = StopMatcher(request.sampling.stop)
        tokens = 0
        reason, stop = FinishReason.STOP, None
        for step in range(1, script.prompt_steps + 1):
            async with begun_before(request.deadline):
                await self._wait(script.first_token_seconds / script.prompt_steps)
            if step < script.prompt_steps:
                read = len(request.prompt) * step // script.prompt_steps
                yield PromptRead(read, len(request.prompt))
        self._maybe_crash(script, 0)
        yield PromptProcessed(len(request.prompt), 0)
        for number, piece in enumerate(script.pieces, start=1):
            if tokens == min(request.max_tokens, self._capabilities.context - len(request.prompt)):
                reason = FinishReason.LENGTH
                break
            await self._wait(script.token_seconds)
            shown = stops.feed(piece)
            tokens += 1
            yield TextDelta(shown.text, (number,))
            if shown.stop:
                stop = shown.stop
                break
            self._maybe_crash(script, number)
        if held := stops.flush():
            yield TextDelta(held, ())
        yield Finished(
            reason,
            Usage(len(request.prompt), 0, tokens),
            Timings(0.0, script.first_token_seconds, script.token_seconds * tokens),
            seed=request.sampling.seed or 0,
            stop=stop,
        )

    async def _wait(self, seconds: float) -> None:
        """Sleep, unless the engine dies meanwhile: then every request in it does."""
        assert self._crash is not None
        await asyncio.wait([self._crash], timeout=seconds)
        if self._failure is not None:
            raise self._failure

    def _maybe_crash(self, script: Script, pieces: int) -> None:
        if script.crash_after == pieces:
            self.crash()
        if self._failure is not None:
            raise self._failure

    def crash(self) -> None:
        """Die now, as a killed worker would."""
        self._die("The scripted engine was told to crash.")

    def _die(self, why: str) -> None:
        self._failure = self._failure or EngineCrashed(why)
        if self._crash is not None and not self._crash.done():
            self._crash.set_result(None)

    async def embed(self, request: EmbedRequest) -> tuple[tuple[float, ...], ...]:
        """Vectors that depend on the tokens, and on nothing else."""
        self.embedded.append(request)
        require_embeddable(request, self._capabilities)
        script = self._script(None)
        async with begun_before(request.deadline):
            await self._wait(script.first_token_seconds)
        self._maybe_crash(script, 0)
        return tuple(_vector(tokens) for tokens in request.inputs)

    async def add_adapter(self, adapter: Adapter) -> None:
        raise InvalidRequest("The scripted engine has no adapters.", field="adapters")

    async def remove_adapter(self, name: str) -> None:
        raise InvalidRequest("The scripted engine has no adapters.", field="adapters")

    async def close(self) -> None:
        self.closed = True
        self._die("The scripted engine has been closed.")


def _vector(tokens: tuple[int, ...]) -> tuple[float, ...]:
    """Of length 1: how often tokens of each remainder occur, counted from one."""
    counts = [1.0] * WIDTH
    for token in tokens:
        counts[token % WIDTH] += 1
    length = math.hypot(*counts)
    return tuple(count / length for count in counts)
