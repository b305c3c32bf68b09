"""HTTP to one replica: what is sent, what comes back, and what is made of everything else.

Nothing is followed that leads elsewhere: no redirects, no proxies of the environment. Every length
is bounded and every wait as well. What a replica writes is quoted in one case only: the sentence
with which it refuses a request, to the one who sent that.
"""

from __future__ import annotations

import asyncio
import functools
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx2
import msgspec

from freehold.domain.embedding import Vector
from freehold.domain.errors import (
    DeadlineExceeded,
    FreeholdError,
    UpstreamFailed,
    UpstreamUnavailable,
)
from freehold.domain.upstreams import Upstream, host_of
from freehold.engines.upstream.reading import Chunk, Nonsense, chunk_of
from freehold.engines.upstream.refusals import MAX_REFUSAL, Refusal, judged
from freehold.engines.upstream.replicas import Sign
from freehold.process.decoding import from_json

CONNECT_SECONDS = 5.0
CHECK_SECONDS = 5.0
# Servers close idle connections after five seconds and more: ours are closed first, or a request
# could meet one that is about to be.
_IDLE_SECONDS = 2.0
SILENCE_SECONDS = 120.0  # between two events of an answer that has begun
MAX_LINE = 1024 * 1024
MAX_BYTES = 64 * 1024 * 1024  # of one whole answer
_MAX_MODELS = 1024 * 1024
_DONE = b"[DONE]"
_SILENT = "it fell silent in the middle of an answer"


class Fault(Exception):
    """A replica did not do what it was asked, and another one may.

    ``error`` is what the caller is told if none does. ``sign`` is what it says about the replica,
    None: nothing. ``sent``: it may have got the request before.
    """

    def __init__(self, error: FreeholdError, sign: Sign | None, *, sent: bool = True) -> None:
        super().__init__(str(error))
        self.error = error
        self.sign = sign
        self.sent = sent


class _Model(msgspec.Struct):
    """``max_model_len`` is vLLM's."""

    id: str
    max_model_len: int | None = None


class _Models(msgspec.Struct):
    data: list[_Model] = []


class _Embedding(msgspec.Struct):
    embedding: list[float]
    index: int


class _EmbeddingUsage(msgspec.Struct):
    prompt_tokens: int = 0


class _Embeddings(msgspec.Struct):
    data: list[_Embedding]
    usage: _EmbeddingUsage = msgspec.field(default_factory=_EmbeddingUsage)


@dataclass(frozen=True)
class Checked:
    """``models`` are those it says it has, by name, with their context in tokens where it says."""

    sign: Sign
    models: Mapping[str, int | None]
    why: str = ""


class Client:
    """For all replicas of one upstream. ``silence``: seconds, as `SILENCE_SECONDS`."""

    def __init__(self, upstream: Upstream, *, silence: float = SILENCE_SECONDS) -> None:
        self._upstream = upstream
        self._silence = silence
        headers = {"User-Agent": "freehold", "Accept-Encoding": "identity"}
        if upstream.key is not None:
            headers["Authorization"] = f"Bearer {upstream.key}"
        self._http = httpx2.AsyncClient(
            headers=headers,
            verify=ssl.create_default_context(),
            # Waiting for the first token is bounded by the request's deadline, not by a read.
            timeout=httpx2.Timeout(None, connect=CONNECT_SECONDS, write=30.0),
            limits=httpx2.Limits(
                max_connections=None,
                max_keepalive_connections=64,
                keepalive_expiry=_IDLE_SECONDS,
            ),
            follow_redirects=False,
            trust_env=False,
        )

    async def close(self) -> None:
        await self._http.aclose()

    async def chunks(
        self, url: str, body: bytes, deadline: float | None
    ) -> AsyncGenerator[Chunk, None]:
        """A streamed answer. Closing the iterator closes the connection.

        ``deadline`` is when the first token must have come, in the event loop's time. Raises
        `Fault`, `DeadlineExceeded`, and the caller's own faults (`RequestError`).
        """
        async with self._asked(url, "/chat/completions", body, deadline) as response:
            if "text/event-stream" not in response.headers.get("content-type", ""):
                raise self._misbehaved(url, "it answers in another form than a stream")
            async with aclosing(_events(response)) as events:
                until: float | None = deadline
                late: Callable[[], FreeholdError | Fault] = _late
                while (data := await self._next(url, events, until, late)) not in (None, _DONE):
                    chunk = self._chunk(url, data)
                    yield chunk
                    if chunk.says or late is not _late:
                        until = asyncio.get_running_loop().time() + self._silence
                        late = functools.partial(self._misbehaved, url, _SILENT)

    async def embeddings(
        self, url: str, body: bytes, count: int, deadline: float | None
    ) -> tuple[tuple[Vector, ...], int]:
        """A vector for each of ``count`` texts, as they come, and the tokens of all. Raises as
        `chunks`.
        """
        async with self._asked(url, "/embeddings", body, deadline) as response:
            data = await self._whole(url, response, deadline)
        try:
            found = from_json(data, _Embeddings)
        except msgspec.DecodeError:
            raise self._misbehaved(url, "what it sends are no vectors") from None
        vectors = {each.index: tuple(each.embedding) for each in found.data}
        if sorted(vectors) != list(range(count)) or not all(vectors.values()):
            raise self._misbehaved(url, "it sends other vectors than asked for")
        return tuple(vectors[number] for number in range(count)), found.usage.prompt_tokens

    async def check(self, url: str) -> Checked:
        """How it is. Never raises for what it does."""
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                request = self._http.build_request("GET", f"{url}/models")
                response = await self._http.send(request, stream=True)
                try:
                    return await self._checked(response)
                finally:
                    await response.aclose()
        except (httpx2.ConnectError, httpx2.ConnectTimeout):
            return Checked(Sign.GONE, {}, "nobody answers")
        except (httpx2.TransportError, TimeoutError):
            return Checked(Sign.ILL, {}, "it does not answer as it should")
        except FreeholdError as error:  # offline
            return Checked(Sign.GONE, {}, str(error))

    async def _checked(self, response: httpx2.Response) -> Checked:
        status = response.status_code
        if status in (404, 405):  # no such list: some servers have none
            return Checked(Sign.WELL, {})
        if status != 200:
            return Checked(Sign.ILL, {}, f"it answers with HTTP {status}")
        data = await _bounded(response, _MAX_MODELS)
        try:
            models = from_json(data or b"", _Models).data
        except msgspec.DecodeError:
            return Checked(Sign.ILL, {}, "it does not speak OpenAI's API")
        return Checked(Sign.WELL, {each.id: each.max_model_len for each in models})

    # One request

    @asynccontextmanager
    async def _asked(
        self, url: str, path: str, body: bytes, deadline: float | None
    ) -> AsyncIterator[httpx2.Response]:
        """An answer with status 200, its body not read yet."""
        headers = {"Content-Type": "application/json"}
        request = self._http.build_request("POST", url + path, content=body, headers=headers)
        response = await self._sent(url, request, deadline)
        try:
            if response.status_code != 200:
                raise await self._refused(url, response, deadline)
            if response.headers.get("content-encoding", "identity") != "identity":
                raise self._misbehaved(url, "it compresses although it was asked not to")
            yield response
        finally:
            await response.aclose()

    async def _sent(
        self, url: str, request: httpx2.Request, deadline: float | None
    ) -> httpx2.Response:
        try:
            async with asyncio.timeout_at(deadline):
                return await self._http.send(request, stream=True)
        except TimeoutError:
            raise _late() from None
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            unavailable = UpstreamUnavailable(
                f"The upstream {self._upstream.name} cannot be reached.",
                hint="Its operator, or this server's, has to see why.",
                values={"upstream": self._upstream.name},
            )
            raise Fault(unavailable, Sign.GONE, sent=False) from error
        except httpx2.TransportError as error:
            raise self._broken() from error

    async def _refused(
        self, url: str, response: httpx2.Response, deadline: float | None
    ) -> FreeholdError | Fault:
        try:
            async with asyncio.timeout_at(deadline):
                body = await _bounded(response, MAX_REFUSAL) or b""
        except (httpx2.TransportError, TimeoutError):
            body = b""
        refusal = Refusal(response.status_code, response.headers.get("retry-after"), body)
        error, sign = judged(self._upstream, host_of(url), refusal)
        if sign is Sign.WELL:
            return error
        return Fault(error, sign)

    async def _next(
        self,
        url: str,
        events: AsyncGenerator[bytes, None],
        until: float | None,
        late: Callable[[], FreeholdError | Fault],
    ) -> bytes | None:
        """The next event; None: there is none. Raises what ``late`` makes if it does not come."""
        try:
            async with asyncio.timeout_at(until):
                return await anext(events, None)
        except TimeoutError:
            raise late() from None
        except httpx2.TransportError as error:
            raise self._broken() from error
        except _TooLong:
            raise self._misbehaved(url, "it says more than an answer can be") from None

    async def _whole(self, url: str, response: httpx2.Response, deadline: float | None) -> bytes:
        try:
            async with asyncio.timeout_at(deadline):
                data = await _bounded(response, MAX_BYTES)
        except TimeoutError:
            raise _late() from None
        except httpx2.TransportError as error:
            raise self._broken() from error
        if data is None:
            raise self._misbehaved(url, "it says more than an answer can be")
        return data

    def _chunk(self, url: str, data: bytes) -> Chunk:
        try:
            return chunk_of(data)
        except Nonsense as error:
            raise self._misbehaved(url, f"it sends {error}") from error

    def _broken(self) -> Fault:
        name = self._upstream.name
        said = f"The upstream {name} broke the connection."
        return Fault(UpstreamFailed(said, values={"upstream": name}), Sign.ILL)

    def _misbehaved(self, url: str, why: str) -> Fault:
        """``why`` is in our words: nothing that it wrote."""
        return misbehaved(self._upstream, url, why)


def misbehaved(upstream: Upstream, url: str, why: str) -> Fault:
    said = f"The upstream {upstream.name} made no sense at {host_of(url)}: {why}."
    return Fault(UpstreamFailed(said, values={"upstream": upstream.name}), Sign.ILL)


def _late() -> DeadlineExceeded:
    return DeadlineExceeded(
        "The answer did not begin before the request's deadline.", hint="Repeat the request later."
    )


class _TooLong(Exception):
    """More came than may."""


async def _events(response: httpx2.Response) -> AsyncGenerator[bytes, None]:
    """The data of each server-sent event. Raises `_TooLong`."""
    rest, total = bytearray(), 0
    async for piece in response.aiter_raw():
        total += len(piece)
        rest += piece
        if total > MAX_BYTES or len(rest) > MAX_LINE + len(piece):
            raise _TooLong
        if b"\n" not in piece:  # a line that comes in dribs is looked at once
            continue
        *lines, rest = rest.split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                yield bytes(line[5:].strip())
    if rest.startswith(b"data:"):  # no line's end before the connection's
        yield bytes(rest[5:].strip())


async def _bounded(response: httpx2.Response, most: int) -> bytes | None:
    """A whole body; None: it is longer."""
    found = bytearray()
    async for piece in response.aiter_raw():
        found += piece
        if len(found) > most:
            return None
    return bytes(found)


def encoded(body: dict[str, Any]) -> bytes:
    return msgspec.json.encode(body)
