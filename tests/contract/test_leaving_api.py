"""Clients that leave before their answer is whole: on every route, streaming or not."""

from __future__ import annotations

import asyncio
import gc
import json
from pathlib import Path
from typing import Any

import pytest

from freehold.api.app import build_app
from freehold.api.guard import Rules
from freehold.domain.settings import resolve
from freehold.engines.scripted import Script, ScriptedEngine
from freehold.runtime.wiring import open_runtime
from tests.support.gateway import Gateway, Scripts, wait_for
from tests.support.routes import ANSWERING, EMBEDDING
from tests.support.running import run

pytestmark = pytest.mark.native  # the text child tokenises with llama.cpp

# These are asked for two answers.
SEVERAL: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"n": 2},
    "/v1/completions": {"prompt": ["a", "b"]},
}
SLOW = {
    "prefill": Script(first_token_seconds=60),
    "decode": Script(pieces=("word ",) * 200, token_seconds=0.5),
}


def is_free(server: Gateway) -> bool:
    """Nobody holds the model: it can be unloaded."""
    body = {"model": "tiny", "keep_alive": 0}
    return server.client.post("/api/generate", json=body).status_code == 200


@pytest.mark.parametrize("path", ANSWERING)
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("phase", SLOW)
def test_the_sequence_and_the_model_are_free_again(
    server: Gateway, scripts: Scripts, path: str, stream: bool, phase: str
) -> None:
    assert server.chat(max_tokens=1).status_code == 200  # whatever died before is up again
    engine = server.engines[-1]
    seen, cancelled = len(engine.seen), len(engine.cancelled)
    scripts.now = SLOW[phase]
    answers = 2 if path in SEVERAL else 1
    body = {"model": "tiny", "stream": stream, **ANSWERING[path], **SEVERAL.get(path, {})}
    with server.begin(path, body) as connection:
        wait_for(lambda: len(engine.seen) == seen + answers)
        if phase == "decode" and stream:
            assert connection.recv(100)
    wait_for(lambda: len(engine.cancelled) == cancelled + answers)
    scripts.reset()
    wait_for(lambda: is_free(server))
    assert engine.closed


@pytest.mark.parametrize("path", EMBEDDING)
def test_the_model_is_free_again_that_was_to_embed(
    server: Gateway, scripts: Scripts, path: str
) -> None:
    assert server.chat(max_tokens=1).status_code == 200
    engine = server.engines[-1]
    scripts.now = SLOW["prefill"]
    with server.begin(path, {"model": "tiny", **EMBEDDING[path]}):
        wait_for(lambda: engine.embedded)
        assert not is_free(server)
    wait_for(lambda: is_free(server))


@pytest.mark.parametrize("path", ANSWERING)
def test_a_stream_that_is_never_begun_holds_nothing(tiny: Path, tmp_path: Path, path: str) -> None:
    """Its client leaves when the answer is ready and the head of the response is on its way."""
    settings = resolve({"home": str(tmp_path), "port": 0}, environ={})
    body = json.dumps({"model": "tiny", "stream": True, **ANSWERING[path]}).encode()
    headers = [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")]
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "root_path": "",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": headers,
    }

    async def leave_at_the_head() -> None:
        asked = iter([{"type": "http.request", "body": body, "more_body": False}])
        head = asyncio.Event()

        async def receive() -> Any:
            if (message := next(asked, None)) is not None:
                return message
            await head.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            assert message["type"] == "http.response.start"
            head.set()
            await asyncio.Event().wait()

        async with open_runtime(
            settings,
            notice=print,
            served_paths=(tiny,),
            make_engine=lambda _: ScriptedEngine(lambda _: SLOW["decode"]),
        ) as runtime:
            app = build_app(runtime, Rules(port=1), "x")
            await app(scope, receive, send)
            assert head.is_set()
            assert await runtime.manager.unload("tiny")

    gc.disable()  # or it might see to it
    try:
        run(leave_at_the_head())
    finally:
        gc.enable()
