"""A real gateway for tests: the real application on a real socket, in a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx2

from freehold.api.server import bind, serve, url_of
from freehold.api.stream import SILENCE_SECONDS
from freehold.domain.chat import GenerateRequest
from freehold.domain.settings import resolve
from freehold.engines.base import EngineConfig
from freehold.engines.scripted import Script, ScriptedEngine
from freehold.runtime.wiring import MakeEngine, Runtime, open_runtime


@dataclass
class Gateway:
    """A running gateway. ``engines`` are the scripted engines made so far, oldest first."""

    url: str
    runtime: Runtime
    client: httpx2.Client
    engines: list[ScriptedEngine] = field(default_factory=list)

    def chat(self, **fields: object) -> httpx2.Response:
        """Ask for a completion of a one-message conversation, with ``fields`` on top."""
        body = {"model": "tiny", "messages": [{"role": "user", "content": "Hello"}], **fields}
        return self.client.post("/v1/chat/completions", json=body)

    def begin(self, path: str, body: dict[str, object], key: str = "none") -> socket.socket:
        """A connection on which a request has been sent, and nothing read."""
        host, port = self.url.removeprefix("http://").split(":")
        data = json.dumps(body)
        connection = socket.create_connection((host, int(port)))
        connection.sendall(
            f"POST {path} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
            f"Authorization: Bearer {key}\r\n"
            f"Content-Length: {len(data)}\r\n\r\n{data}".encode()
        )
        return connection


class Scripts:
    """What scripted engines do next: tests change ``now``, or list attempts that go before it.

    ``asked`` is the latest request.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.now = Script()
        self.per_attempt: list[Script] = []
        self.asked: GenerateRequest | None = None

    def __call__(self, request: GenerateRequest | None) -> Script:
        self.asked = request or self.asked
        if request is not None and self.per_attempt:
            return self.per_attempt.pop(0)
        return self.now


def wait_for(condition: Callable[[], object], seconds: float = 10.0) -> None:
    """Poll: for what the gateway does in its own thread."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


@contextlib.contextmanager
def gateway(
    home: Path,
    served: tuple[Path, ...],
    *,
    script: Callable[[GenerateRequest | None], Script] | None = None,
    silence: float = SILENCE_SECONDS,
    **flags: object,
) -> Iterator[Gateway]:
    """Run a gateway over ``served``. With ``script`` its engines follow that, else llama.cpp.

    ``silence``: after so many seconds of it, streams say that they are alive. Among ``flags``,
    ``variables`` are its environment.
    """
    variables = flags.pop("variables", {})
    assert isinstance(variables, dict)
    settings = resolve({"home": str(home), "port": 0, **flags}, environ=variables)
    engines: list[ScriptedEngine] = []

    def scripted(config: EngineConfig) -> ScriptedEngine:
        assert script is not None
        engines.append(ScriptedEngine(script, context=config.context, parallel=config.parallel))
        return engines[-1]

    make: MakeEngine | None = scripted if script else None
    sock = bind(settings)
    ready = threading.Event()
    box: dict[str, object] = {}

    async def run() -> None:
        stop = asyncio.Event()
        box["stop"] = (asyncio.get_running_loop(), stop)
        async with open_runtime(
            settings, notice=print, served_paths=served, make_engine=make
        ) as runtime:
            box["runtime"] = runtime
            serving = asyncio.create_task(
                serve(runtime, sock, preload=(), say=print, silence=silence)
            )
            ready.set()
            stopped = asyncio.create_task(stop.wait())
            await asyncio.wait({stopped, serving}, return_when=asyncio.FIRST_COMPLETED)
            stopped.cancel()
            serving.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await serving

    thread = threading.Thread(target=lambda: asyncio.run(run()), name="gateway")
    thread.start()
    assert ready.wait(30)
    runtime = box["runtime"]
    assert isinstance(runtime, Runtime)
    try:
        with httpx2.Client(base_url=url_of(sock), timeout=20, trust_env=False) as client:
            _wait_until_up(client)
            yield Gateway(url_of(sock), runtime, client, engines)
    finally:
        loop, stop = box["stop"]  # type: ignore[misc]
        loop.call_soon_threadsafe(stop.set)  # type: ignore[has-type]
        thread.join(30)
        sock.close()
        assert not thread.is_alive()


def _wait_until_up(client: httpx2.Client) -> None:
    for _ in range(300):
        with contextlib.suppress(httpx2.TransportError):
            if client.get("/healthz").status_code == 200:
                return
    raise AssertionError("the gateway did not come up")
