"""A server that speaks OpenAI's API as a test tells it to: well, badly or not at all."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Asked:
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


Answer = Callable[["Asked", asyncio.StreamWriter], Awaitable[None]]


def chunk(**delta: Any) -> bytes:
    return event({"choices": [{"index": 0, "delta": delta}]})


def event(data: Any) -> bytes:
    return b"data: " + json.dumps(data).encode() + b"\n\n"


def last(reason: str = "stop", **more: Any) -> bytes:
    return event({"choices": [{"index": 0, "delta": {}, "finish_reason": reason, **more}]})


USAGE = {
    "prompt_tokens": 7,
    "completion_tokens": 2,
    "prompt_tokens_details": {"cached_tokens": 3},
    "completion_tokens_details": {"reasoning_tokens": 1},
}
DONE = event({"choices": [], "usage": USAGE}) + b"data: [DONE]\n\n"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
SAID = (chunk(role="assistant", content=""), chunk(content="All "), chunk(content="well."))


def streams(*pieces: bytes, head: bytes = HEAD) -> Answer:
    """Write these and close."""

    async def answer(_: Asked, writer: asyncio.StreamWriter) -> None:
        for piece in (head, *pieces):
            writer.write(piece)
            await writer.drain()

    return answer


well = streams(*SAID, last(), DONE)


def refuses(status: int, body: object = None, **headers: str) -> Answer:
    data = json.dumps(body).encode() if body is not None else b"<html>no</html>"
    told = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return streams(
        data,
        head=(
            f"HTTP/1.1 {status} X\r\nContent-Length: {len(data)}\r\nConnection: close\r\n{told}\r\n"
        ).encode(),
    )


async def hangs(_: Asked, __: asyncio.StreamWriter) -> None:
    """Say nothing until the client leaves."""
    await asyncio.get_running_loop().create_future()


def begins(*pieces: bytes) -> Answer:
    """Write these, then say nothing until the client leaves."""

    async def answer(asked: Asked, writer: asyncio.StreamWriter) -> None:
        await streams(*pieces)(asked, writer)
        await hangs(asked, writer)

    return answer


class FakeUpstream:
    """``answers`` are taken by one request each; after them, ``answer`` by all.

    ``left`` counts connections that the client closed while it was being answered.
    """

    def __init__(self) -> None:
        self.answer: Answer = well
        self.answers: list[Answer] = []
        self.models: Answer = refuses(200, {"data": [{"id": "there"}]})
        self.asked: list[Asked] = []
        self.checks = 0
        self.left = 0
        self.arrived = asyncio.Event()
        self.departed = asyncio.Event()
        self._port = 0
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/v1"

    async def open(self) -> None:
        """Listen, on the same port as before."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            asked = await _read(reader)
            if asked is None:
                return
            answering = asyncio.ensure_future(self._picked(asked)(asked, writer))
            leaving = asyncio.ensure_future(reader.read())
            await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
            # One that has left before it was answered is noticed by writing to it.
            if not answering.done() or isinstance(answering.exception(), ConnectionError):
                self.left += 1
                self.departed.set()
            for task in (answering, leaving):
                task.cancel()
            await asyncio.gather(answering, leaving, return_exceptions=True)
        finally:
            with contextlib.suppress(ConnectionError):
                writer.close()
                await writer.wait_closed()

    def _picked(self, asked: Asked) -> Answer:
        if asked.method == "GET":
            self.checks += 1
            return self.models
        self.asked.append(asked)
        self.arrived.set()
        return self.answers.pop(0) if self.answers else self.answer


async def _read(reader: asyncio.StreamReader) -> Asked | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    except asyncio.IncompleteReadError:
        return None
    method, path, _ = head[0].split(" ", 2)
    pairs = (line.partition(": ") for line in head[1:] if line)
    headers = {name.lower(): value for name, _, value in pairs}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Asked(method, path, headers, body)


@contextlib.asynccontextmanager
async def fakes(count: int = 1) -> AsyncIterator[list[FakeUpstream]]:
    found = [FakeUpstream() for _ in range(count)]
    for each in found:
        await each.open()
    try:
        yield found
    finally:
        for each in found:
            await each.close()
