"""HTTP with a vLLM server of ours, over its UNIX socket. Leaving an exchange makes vLLM stop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx2

from freehold.domain.errors import EngineCrashed, EngineError, InvalidRequest
from freehold.engines.base import begun_before
from freehold.engines.vllm.hearing import error_of
from freehold.engines.vllm.server import VllmServer

# An answer that has begun and says nothing for so long has died without its server's noticing.
SILENCE_SECONDS = 600.0
# How long a broken answer waits for the reason to be known.
_LAST_WORDS_SECONDS = 5.0
# What it says of its health when what computes has died; it ends by itself, up to 5 s later.
_DEAD_INSIDE = 503


class Exchange:
    """A client of ``server``, which has been started. Raises its death where that is the reason."""

    def __init__(self, server: VllmServer) -> None:
        self._server = server
        self._http = httpx2.AsyncClient(
            transport=server.transport(), base_url="http://vllm", timeout=None, trust_env=False
        )

    async def healthy(self) -> bool:
        """Whether it answers: its socket is there when everything is loaded."""
        return await self._health() == 200

    async def _health(self) -> int | None:
        """The status with which it says how it is; None: it does not say."""
        try:
            return (await self._http.get("/health")).status_code
        except httpx2.TransportError:
            return None

    async def text(self, path: str) -> str:
        async with self._breaking():
            answer = await self._http.get(path)
        if answer.status_code != 200:
            raise refusal(answer.status_code, answer.content)
        return answer.text

    async def post(
        self, path: str, body: Mapping[str, Any], deadline: float | None = None
    ) -> bytes:
        """The whole answer, which must come before ``deadline``."""
        async with self._breaking(), begun_before(deadline):
            answer = await self._http.post(path, json=dict(body))
        if answer.status_code != 200:
            raise await self._refused(answer.status_code, answer.content)
        return answer.content

    @contextlib.asynccontextmanager
    async def lines(
        self, path: str, body: Mapping[str, Any], deadline: float | None
    ) -> AsyncIterator[AsyncIterator[str]]:
        """The lines of one answer, of which the first comes before ``deadline``."""
        async with self._breaking(), contextlib.AsyncExitStack() as held:
            async with begun_before(deadline):
                response = await held.enter_async_context(
                    self._http.stream("POST", path, json=dict(body))
                )
                if response.status_code != 200:
                    raise await self._refused(response.status_code, await response.aread())
                lines = response.aiter_lines()
                first = await anext(lines, "")
            yield _with(first, lines)

    @contextlib.asynccontextmanager
    async def _breaking(self) -> AsyncIterator[None]:
        try:
            yield
        except TimeoutError as error:
            why = f"said nothing for {SILENCE_SECONDS:.0f} s in the middle of an answer"
            raise self._server.give_up(why) from error
        except httpx2.TransportError as error:
            failed = await self.broken(str(error))
            raise (
                failed
                if isinstance(failed, EngineCrashed)
                else EngineCrashed(f"vLLM broke off: {error}.")
            ) from error

    async def _refused(
        self, status: int, body: bytes
    ) -> EngineCrashed | EngineError | InvalidRequest:
        """What it says of one request; or its death, of which a 500 may be the first sign."""
        if status >= 500:
            failed = await self.broken("")
            if isinstance(failed, EngineCrashed):
                return failed
        return refusal(status, body)

    async def broken(self, why: str) -> EngineCrashed | EngineError:
        """Its death, if that is why; it says so a moment before its end is seen. One that is well
        has only refused this request: nobody waits for its end.
        """
        if self._server.failure is not None:  # and we may have closed the connections ourselves
            return self._server.failure
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_WORDS_SECONDS):
                health = await self._health()
                if health == _DEAD_INSIDE:
                    return self._server.give_up("lost the process that computes for it")
                if health is None:
                    await self._server.ended.wait()
        return self._server.failure or EngineError(f"vLLM says: {why[:300]}")

    async def close(self) -> None:
        await self._http.aclose()


async def _with(first: str, lines: AsyncIterator[str]) -> AsyncIterator[str]:
    """Raises `TimeoutError` where nothing more comes."""
    line: str | None = first
    while line is not None:
        yield line
        async with asyncio.timeout(SILENCE_SECONDS):
            line = await anext(lines, None)


def refusal(status: int, body: bytes) -> EngineError | InvalidRequest:
    """What vLLM says of a request that it does not take."""
    try:
        said = error_of(body)
    except EngineError:
        said = body.decode("utf-8", "replace")[:300]
    if status in (400, 422):
        return InvalidRequest(f"vLLM refuses the request: {said}")
    return EngineError(f"vLLM answered with status {status}: {said}")
