"""Two vLLM servers behind one upstream: one killed under load, and back again.

`make test-vllm` runs this. The servers are vLLM's own (CPU), of which nobody takes care here.
"""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

from freehold.domain.settings import environment
from freehold.engines.vllm import launch
from tests.support import vllm
from tests.support.command import Server, serving

pytestmark = [pytest.mark.vllm, pytest.mark.weights, pytest.mark.native]

AT_ONCE = 2  # answers that one vLLM gives at a time; the others wait there
LONG, SHORT = 300, 8


@dataclass
class Replica:
    """A vLLM server that can be killed, with all its processes, and started again."""

    command: list[str]
    environ: dict[str, str]
    log: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                env=self.environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def kill(self) -> None:
        if self.process is None:
            return
        with contextlib.suppress(psutil.NoSuchProcess):
            ours = psutil.Process(self.process.pid)
            for each in (ours, *ours.children(recursive=True)):
                with contextlib.suppress(psutil.NoSuchProcess):
                    each.kill()
        self.process.wait()

    def wait_until_up(self) -> None:
        def up() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, self.log.read_text("utf-8", "replace")[-2000:]
            with contextlib.suppress(httpx2.TransportError):
                return httpx2.get(f"{self.url}/health", trust_env=False).status_code == 200
            return False

        until(up, vllm.START_SECONDS)


def until(come: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not come():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.1)


@pytest.fixture
def replicas(tmp_path: Path) -> Iterator[list[Replica]]:
    home = vllm.home()
    config, _ = vllm.prepared(home)
    config = replace(config, context=2048, parallel=AT_ONCE, cache_bytes=launch.GIBIBYTE)
    cache = home / "engines" / "vllm" / "cache"
    made = []
    for name in "ab":
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        words = list(launch.arguments(config, Path("socket")))
        at = words.index("--uds")
        words[at : at + 2] = ["--host", "127.0.0.1", "--port", str(port)]
        environ = launch.environ(config, environment(), cache)
        made.append(Replica(words, environ, tmp_path / f"{name}.log", port))
    try:
        for each in made:
            each.start()
        for each in made:
            each.wait_until_up()
        yield made
    finally:
        for each in made:
            each.kill()


@dataclass
class Stream:
    """One answer as its client sees it. ``begun``: it has had text."""

    begun: bool = False
    finish: str | None = None
    errors: list[str] = field(default_factory=list)

    @property
    def whole(self) -> bool:
        return self.finish == "length" and not self.errors


def asked(server: Server, stream: Stream, number: int, tokens: int) -> Stream:
    body = {
        "model": "big",
        "messages": [{"role": "user", "content": f"Story number {number}, please."}],
        "max_tokens": tokens,
        "ignore_eos": True,
        "stream": True,
    }
    url = f"{server.url}/v1/chat/completions"
    with (
        httpx2.Client(timeout=300, trust_env=False) as http,
        http.stream("POST", url, json=body) as response,
    ):
        if response.status_code != 200:
            stream.errors.append(response.read().decode())
            return stream
        for line in response.iter_lines():
            if line.startswith("data:") and line != "data: [DONE]":
                heard(stream, json.loads(line[5:]))
    return stream


def heard(stream: Stream, event: Any) -> None:
    if "error" in event:
        stream.errors.append(event["error"]["message"])
        return
    for choice in event["choices"]:
        stream.begun = stream.begun or bool(choice.get("delta", {}).get("content"))
        stream.finish = choice.get("finish_reason") or stream.finish


def standings(server: Server) -> list[dict[str, Any]]:
    """How the replicas are, in the order in which they were named."""
    told = httpx2.get(f"{server.url}/freehold/v1/upstreams", trust_env=False).json()
    (known,) = told["upstreams"]
    return list(known["replicas"])


def test_one_is_killed_under_load_and_nothing_is_lost_but_its_begun_streams(
    replicas: list[Replica], tmp_path: Path
) -> None:
    lost, kept = replicas
    words = f"big={lost.url}/v1,{kept.url}/v1 model=model kind=vllm"
    with serving(tmp_path, "--upstream", words) as server, ThreadPoolExecutor(64) as pool:
        streams: list[Stream] = []
        futures: list[Future[Stream]] = []

        def send(tokens: int) -> None:
            streams.append(Stream())
            arguments = (server, streams[-1], len(streams), tokens)
            there = sum(outstanding())
            futures.append(pool.submit(asked, *arguments))
            until(lambda: sum(outstanding()) > there, 60)

        def outstanding() -> list[int]:
            return [each["requests"] for each in standings(server)]

        while min(outstanding()) < AT_ONCE:  # which one gets it depends on its beginning
            assert len(streams) < 20
            send(LONG)
        until(lambda: sum(each.begun for each in streams) >= 2 * AT_ONCE, 60)
        while outstanding()[0] < AT_ONCE + 3:  # these wait at the one that will die
            assert len(streams) < 50
            send(SHORT)
        before = [each.begun for each in streams]
        lost.kill()
        done = [future.result(300) for future in futures]

        broken = [each for each in done if not each.whole]
        assert all(begun for each, begun in zip(done, before, strict=True) if not each.whole)
        assert len(broken) == AT_ONCE
        assert all(each.begun and "broke the connection" in each.errors[0] for each in broken)
        assert standings(server)[0]["state"] == "ejected"
        assert asked(server, Stream(), 1000, SHORT).whole
        print(f"{len(done)} requests, {len(broken)} broken, all of them had begun")

        lost.start()
        lost.wait_until_up()
        until(lambda: standings(server)[0]["state"] != "ejected", 90)
        for number in range(2000, 2100):  # until one is at home there
            assert asked(server, Stream(), number, 1).whole
            if standings(server)[0]["state"] == "healthy":
                break
        assert standings(server)[0]["state"] == "healthy"
