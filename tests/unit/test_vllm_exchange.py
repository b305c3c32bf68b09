"""A request that vLLM refuses, and a vLLM that dies: told apart, and the first at once.

The server is a small one on a UNIX socket that answers as vLLM does.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from freehold.domain.errors import EngineCrashed, EngineError
from freehold.engines.vllm.exchange import Exchange
from freehold.engines.vllm.installation import Build
from freehold.engines.vllm.launch import VllmConfig
from tests.support.vllm import Borrowed

_ERROR = b'{"error": {"message": "It went wrong.", "code": 500}}'


def server(folder: Path) -> Borrowed:
    config = VllmConfig(
        model="tiny",
        build=Build.CPU,
        python=Path("/python"),
        weights=folder,
        context=64,
        parallel=1,
        threads=1,
        cache_bytes=1,
    )
    return Borrowed(config, folder / "vllm.sock")


@contextlib.asynccontextmanager
async def answering(server: Borrowed, health: int | None) -> AsyncIterator[Exchange]:
    """``health``: the status with which it says how it is, None: it closes the connection then;
    what is endless begins, and everything else fails.
    """

    over = asyncio.Event()  # nothing endless is being answered any more

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            if b"/endless" in head:
                writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\none\n\r\n")
                await reader.read()  # until it is closed at the other end
                writer.close()
                over.set()
                return
            over.set()
            status, body = (health, b"") if b"/health" in head else (500, _ERROR)
            if status is None:
                writer.close()
                return
            lines = (f"HTTP/1.1 {status} x", f"Content-Length: {len(body)}", "Connection: close")
            writer.write("\r\n".join((*lines, "", "")).encode() + body)
            await writer.drain()
        writer.close()

    listening = await asyncio.start_unix_server(answer, server.socket)
    exchange = Exchange(server)
    try:
        yield exchange
    finally:
        await exchange.close()
        await over.wait()
        listening.close()


def test_one_that_is_well_refuses_at_once(tmp_path: Path) -> None:
    async def ask() -> None:
        async with answering(server(tmp_path), health=200) as exchange:
            with pytest.raises(EngineError, match="status 500: It went wrong") as caught:
                await exchange.post("/anything", {})
            assert not isinstance(caught.value, EngineCrashed)
            with pytest.raises(EngineError, match="status 500"):
                async with exchange.lines("/anything", {}, None):
                    pass

    began = time.monotonic()
    asyncio.run(ask())
    assert time.monotonic() - began < 4  # the end of one that dies is awaited for 5 s, each time


def test_one_whose_engine_is_dead_is_given_up_at_once(tmp_path: Path) -> None:
    async def ask() -> None:
        dead = server(tmp_path)
        async with answering(dead, health=503) as exchange:
            with pytest.raises(EngineCrashed, match="lost the process"):
                await exchange.post("/anything", {})
            assert dead.ended.is_set()
            assert dead.failure is not None

    began = time.monotonic()
    asyncio.run(ask())
    assert time.monotonic() - began < 4


def test_one_that_is_closed_in_the_middle_of_an_answer_says_so(tmp_path: Path) -> None:
    async def read(closed: Borrowed, exchange: Exchange) -> None:
        async with exchange.lines("/endless", {}, None) as lines:
            assert await anext(lines) == "one"
            await closed.close()
            await exchange.close()
            await anext(lines)

    async def ask() -> None:
        closed = server(tmp_path)
        async with answering(closed, health=200) as exchange:
            with pytest.raises(EngineCrashed, match="given back"):
                await read(closed, exchange)

    asyncio.run(ask())


def test_of_one_that_says_no_more_the_end_is_awaited(tmp_path: Path) -> None:
    async def ask() -> None:
        dying = server(tmp_path)
        async with answering(dying, health=None) as exchange:
            asked = asyncio.create_task(exchange.post("/anything", {}))
            await asyncio.sleep(0.3)
            assert not asked.done()
            dying.give_up("was ended by SIGKILL")
            with pytest.raises(EngineCrashed, match="SIGKILL"):
                await asked

    asyncio.run(ask())
