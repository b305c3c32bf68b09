"""The gateway's face of a vLLM server: the `Engine` protocol over HTTP on a UNIX socket.

    load ──▶ keeper ──▶ vLLM ──▶ its socket answers

All of it runs on one event loop. A request is one HTTP exchange (two, where an answer is
constrained after reasoning); closing it makes vLLM abort the sequence.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from pathlib import Path

import httpx2

from freehold.domain.chat import EmbedRequest, GenerateRequest
from freehold.domain.errors import EngineCrashed, EngineError, InvalidRequest, LoadFailed
from freehold.domain.events import Event
from freehold.engines.base import (
    Adapter,
    Capabilities,
    Capability,
    begun_before,
    require_embedding,
    require_possible,
)
from freehold.engines.vllm import asking
from freehold.engines.vllm.hearing import chunk_of, error_of
from freehold.engines.vllm.launch import VllmConfig
from freehold.engines.vllm.server import VllmServer
from freehold.engines.vllm.telling import Telling
from freehold.text.token_table import TokenTable

log = logging.getLogger(__name__)

# Loading a large model from a slow disk, compiling kernels for it on a card.
LOAD_SECONDS = 3600.0
_LOOK_SECONDS = 0.25
# An answer that has begun and says nothing for so long has died without its server's noticing.
SILENCE_SECONDS = 600.0
# How long a broken answer waits for the reason to be known.
_LAST_WORDS_SECONDS = 5.0

FEATURES = frozenset(
    {
        Capability.GENERATE,
        Capability.SEED,
        Capability.STOP,
        Capability.LOGPROBS,
        Capability.CONSTRAINTS,
        Capability.PREFIX_CACHE,
    }
)

ReadTable = Callable[[], Awaitable[TokenTable]]


class VllmEngine:
    """``server`` is not started yet; ``table`` reads the model's vocabulary."""

    def __init__(self, server: VllmServer, table: ReadTable) -> None:
        self._server = server
        self._read_table = table
        self._http: httpx2.AsyncClient | None = None
        self._table = TokenTable([], frozenset(), ())
        self._loaded = False

    @property
    def config(self) -> VllmConfig:
        """How it loads its model."""
        return self._server.config

    @property
    def socket(self) -> Path:
        """Where its server answers, once it is loaded."""
        return self._server.socket

    @property
    def capabilities(self) -> Capabilities:
        if not self._loaded:
            raise LoadFailed("The engine is not loaded.")
        return Capabilities(FEATURES, self._server.config.context, self._server.config.parallel)

    @property
    def failure(self) -> EngineCrashed | None:
        return self._server.failure

    @property
    def pid(self) -> int | None:
        """vLLM's own process, which answers; others compute for it."""
        return self._server.pid

    async def load(self) -> None:
        self._table = await self._read_table()
        await self._server.start()
        transport = httpx2.AsyncHTTPTransport(
            uds=str(self._server.socket), limits=httpx2.Limits(max_connections=None)
        )
        self._http = httpx2.AsyncClient(
            transport=transport, base_url="http://vllm", timeout=None, trust_env=False
        )
        try:
            async with asyncio.timeout(LOAD_SECONDS):
                await self._until_it_answers()
        except TimeoutError:
            raise LoadFailed(f"vLLM did not get ready within {LOAD_SECONDS:.0f} s.") from None
        self._loaded = self._server.answering = True
        log.info("%s loaded by vLLM, process %s", self._server.config.model, self.pid)

    async def _until_it_answers(self) -> None:
        """Its socket is there when everything is loaded."""
        assert self._http is not None
        while True:
            if (dead := self.failure) is not None:
                raise LoadFailed(
                    f"{self._server.config.model} could not be loaded: {dead.message}",
                    hint=dead.hint,
                )
            with contextlib.suppress(httpx2.TransportError):
                if (await self._http.get("/health")).status_code == 200:
                    return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_SECONDS):
                    await self._server.ended.wait()

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Event, None]:
        if self.failure is not None:
            raise self.failure
        require_possible(request, self.capabilities)
        asking.require_sampled(request.sampling)
        if request.prompt_logprobs is not None:
            raise InvalidRequest(
                "The vLLM engine does not give log-probabilities of the prompt.", field="echo"
            )
        telling = Telling(
            asking.seeded(request), self._table, self._server.config.context, time.monotonic()
        )
        another = True
        while another:
            body = asking.body(telling.request, self._table, telling.constraint)
            async with self._exchange(body, telling.request.deadline) as lines:
                async for line in lines:
                    chunk = chunk_of(line)
                    if chunk is not None and chunk.error is not None:
                        raise await self._broken(chunk.error.message)
                    for event in telling.hear(chunk, time.monotonic()) if chunk else ():
                        yield event
                    if telling.cut:
                        break
            another = telling.go_on()
        for event in telling.end(time.monotonic()):
            yield event

    @contextlib.asynccontextmanager
    async def _exchange(
        self, body: dict[str, object], deadline: float | None
    ) -> AsyncIterator[AsyncIterator[str]]:
        """The lines of one answer, of which the first comes before ``deadline``. Leaving it makes
        vLLM stop.
        """
        assert self._http is not None
        try:
            async with contextlib.AsyncExitStack() as held:
                async with begun_before(deadline):
                    response = await held.enter_async_context(
                        self._http.stream("POST", "/inference/v1/generate", json=body)
                    )
                    if response.status_code != 200:
                        raise _refusal(response.status_code, await response.aread())
                    lines = response.aiter_lines()
                    first = await anext(lines, "")
                yield _with(first, lines)
        except TimeoutError as error:
            why = f"said nothing for {SILENCE_SECONDS:.0f} s in the middle of an answer"
            raise self._server.give_up(why) from error
        except httpx2.TransportError as error:
            failed = await self._broken(str(error))
            raise (
                failed
                if isinstance(failed, EngineCrashed)
                else EngineCrashed(f"vLLM broke off: {error}.")
            ) from error

    async def _broken(self, why: str) -> EngineCrashed | EngineError:
        """Its death, if that is why; it says so a moment before its end is seen."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_WORDS_SECONDS):
                await self._server.ended.wait()
        return self.failure or EngineError(f"vLLM says: {why[:300]}")

    async def embed(self, request: EmbedRequest) -> tuple[tuple[float, ...], ...]:
        require_embedding(self.capabilities)
        raise EngineError("The vLLM engine does not embed.")

    async def add_adapter(self, adapter: Adapter) -> None:
        raise InvalidRequest("The vLLM engine does not apply adapters yet.", field="adapters")

    async def remove_adapter(self, name: str) -> None:
        raise InvalidRequest("The vLLM engine has no adapters.", field="adapters")

    async def close(self) -> None:
        await self._server.close()
        if self._http is not None:
            await self._http.aclose()


async def _with(first: str, lines: AsyncIterator[str]) -> AsyncIterator[str]:
    """Raises `TimeoutError` where nothing more comes."""
    line: str | None = first
    while line is not None:
        yield line
        async with asyncio.timeout(SILENCE_SECONDS):
            line = await anext(lines, None)


def _refusal(status: int, body: bytes) -> EngineError | InvalidRequest:
    """What vLLM says of a request that it does not take."""
    try:
        said = error_of(body)
    except EngineError:
        said = body.decode("utf-8", "replace")[:300]
    if status in (400, 422):
        return InvalidRequest(f"vLLM refuses the request: {said}")
    return EngineError(f"vLLM answered with status {status}: {said}")
