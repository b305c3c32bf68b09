"""Bodies that arrive over time, and clients that leave before the end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import Request

T = TypeVar("T")

# For the description of routes that answer whole or as a stream.
EVENT_STREAM: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}
}
JSON_LINES: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/x-ndjson": {"schema": {"type": "string"}}}}
}


class ClientLeft(Exception):
    """The client closed the connection before the answer was whole."""


async def until_client_leaves(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Run ``work``, cancelled as soon as the client disconnects. Raises `ClientLeft` then."""
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientLeft
    finally:
        for pending in (task, watch):
            if not pending.done():
                pending.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await pending


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def event(data: str) -> bytes:
    """One server-sent event. ``data`` is JSON on one line."""
    return f"data: {data}\n\n".encode()
