"""Bodies that arrive over time, and clients that leave before the end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from freehold.api.draining import Draining
from freehold.api.problem import Problem, problem_of, unexpected
from freehold.domain.errors import FreeholdError

T = TypeVar("T")

# How long a stream may be silent. Proxies give up after 30 seconds and more.
SILENCE_SECONDS = 10.0

# Where the model has to be loaded first a stream begins with a sign of life as soon as the load
# did not fail at once: until then an error has a status of its own.
LOADING_SECONDS = 1.0

# For the description of routes that answer whole or as a stream. OpenAPI before 3.2 has no word for
# the items of a stream; its schema is that of one event.
_EVENT = {
    "description": "One server-sent event.",
    "type": "object",
    "properties": {"event": {"type": "string"}, "data": {"type": "string"}},
    "required": ["data"],
}
EVENT_STREAM: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {"schema": _EVENT}}}
}
JSON_LINES: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/x-ndjson": {"schema": {"type": "string"}}}}
}


@dataclass(frozen=True)
class Form:
    """How a stream is written. ``beat`` is said in a silence, and says nothing; None: whatever
    is said there says something.
    """

    media_type: str
    beat: bytes | None


EVENTS = Form("text/event-stream", b": keep-alive\n\n")


class ClientLeft(Exception):
    """The client closed the connection before the answer was whole."""


async def until_client_leaves(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Run ``work``, cancelled as soon as the client disconnects. Raises `ClientLeft` then, and
    `ServerStopping` when the server must end before it is over.
    """
    async with draining_of(request).bounded():
        return await _until_client_leaves(request, work)


def draining_of(request: Request) -> Draining:
    draining: Draining = request.app.state.draining
    return draining


async def _until_client_leaves(request: Request, work: Coroutine[Any, Any, T]) -> T:
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientLeft
    finally:
        await _end(task, watch)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _end(*tasks: asyncio.Future[Any]) -> None:
    """Cancelled, and over. What they have raised, nobody wants to know any more."""
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.exception()


async def streamed(
    request: Request,
    told: AsyncGenerator[bytes, None],
    form: Form,
    failed: Callable[[Problem], Iterable[bytes]],
    *,
    model: str | None = None,
) -> StreamingResponse:
    """``told`` as the body of a response; it is closed when that ends, or never begins.

    What it raises before its first bytes is raised here, and decides the status, if they come
    before a silence is over; a short one, if ``model`` is not loaded. What it raises later is told
    by ``failed``, at the end of the body. Raises `ClientLeft`.
    """
    silence: float = request.app.state.silence
    first_silence = silence if _loaded(request, model) else min(silence, LOADING_SECONDS)
    first = asyncio.ensure_future(anext(told, b""))
    try:
        patience = first_silence if form.beat is not None else None
        await until_client_leaves(request, asyncio.wait({first}, timeout=patience))
        if first.done():
            first.result()
    except BaseException:
        await _close(first, told)
        raise
    return _Telling(first, told, form, failed, silence, draining_of(request))


def _loaded(request: Request, model: str | None) -> bool:
    with contextlib.suppress(FreeholdError):  # raised again by what is told, with its status
        return model is None or request.app.state.runtime.manager.ready(model)
    return True


async def _close(first: asyncio.Future[bytes], told: AsyncGenerator[bytes, None]) -> None:
    await _end(first)
    await told.aclose()


class _Telling(StreamingResponse):
    """What `streamed` gives. ``first`` is the first step of ``told``, which may go on still."""

    def __init__(
        self,
        first: asyncio.Future[bytes],
        told: AsyncGenerator[bytes, None],
        form: Form,
        failed: Callable[[Problem], Iterable[bytes]],
        silence: float,
        draining: Draining,
    ) -> None:
        # nginx holds back what it passes on unless it is told not to.
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(told, media_type=form.media_type, headers=headers)
        self._first = first
        self._told = told
        self._beat = form.beat
        self._failed = failed
        self._silence = silence
        self._draining = draining

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Not Starlette's way: what it cancels cannot clean up, it is cancelled at every await.
        try:
            with contextlib.suppress(ClientLeft):
                await _until_client_leaves(Request(scope, receive), self.stream_response(send))
        finally:
            await _close(self._first, self._told)

    async def stream_response(self, send: Send) -> None:
        await send(
            {"type": "http.response.start", "status": 200, "headers": self.raw_headers},
        )
        async with _kept_alive(send, self._beat, self._silence) as say:
            try:
                if self._beat is not None and not self._first.done():
                    await say(self._beat)
                async with self._draining.bounded():
                    await say(await self._first)
                    async for more in self._told:
                        await say(more)
            except Exception as error:  # noqa: BLE001 - the end of the stream: its reader is told
                for last in self._failed(_problem(error)):
                    await say(last)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _problem(error: Exception) -> Problem:
    return problem_of(error) if isinstance(error, FreeholdError) else unexpected(error)


@contextlib.asynccontextmanager
async def _kept_alive(
    send: Send, beat: bytes | None, silence: float
) -> AsyncIterator[Callable[[bytes], Awaitable[None]]]:
    """What sends a piece of the body. Meanwhile a ``beat`` is sent after each ``silence``."""
    clock = asyncio.get_running_loop().time
    last = clock()

    async def say(piece: bytes) -> None:
        nonlocal last
        await send({"type": "http.response.body", "body": piece, "more_body": True})
        last = clock()

    async def keep_alive(beat: bytes) -> None:
        while True:
            left = last + silence - clock()
            await (asyncio.sleep(left) if left > 0 else say(beat))

    # Beside, and not between two steps of what is told: that would take a task for each of them.
    beating = () if beat is None else (asyncio.ensure_future(keep_alive(beat)),)
    try:
        yield say
    finally:
        if beating:
            await _end(*beating)


def event(data: str) -> bytes:
    """One server-sent event. ``data`` is JSON on one line."""
    return f"data: {data}\n\n".encode()
