"""A real gateway for tests: the real application on a real socket, in a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx2

from freehold.api.server import bind, serve, url_of
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


@contextlib.contextmanager
def gateway(
    home: Path,
    served: tuple[Path, ...],
    *,
    script: Callable[[GenerateRequest | None], Script] | None = None,
    **flags: object,
) -> Iterator[Gateway]:
    """Run a gateway over ``served``. With ``script`` its engines follow that, else llama.cpp."""
    settings = resolve({"home": str(home), "port": 0, **flags}, environ={})
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
            serving = asyncio.create_task(serve(runtime, sock, preload=(), say=print))
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
