"""Everything that goes wrong on a server, at once: and what it leaves behind.

    python -m tests.support.chaos MINUTES [SEED]

Three models fight for room for two while clients of three dialects come, read slowly, and vanish;
workers and the text child are killed, the disk fills up and empties again, the clock jumps. Every
answer must be whole or end with an error that says so, nothing may hang, and afterwards processes,
file handles, memory and files must be what they were.

The disk is a small tmpfs (root only), the clock is libfaketime's; what cannot be had is left out,
and said.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import psutil

from tests.support.command import FREEHOLD, Server, environment, freehold, wait_until_gone
from tests.support.endless import write_endless_llama

MODELS = ("one:tiny", "two:tiny", "three:tiny")
CLIENTS = 12
# Far beyond what anything here takes, kills and restarts included.
HANG_SECONDS = 90.0
DISK_BYTES = 96 * 1024 * 1024
FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")


@dataclass
class Outcome:
    """``ends`` counts how requests ended, ``faults`` what was done to the server, ``wrong`` what
    must not happen. ``left_out`` are faults this machine cannot have.
    """

    ends: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


# What clients ask


@dataclass(frozen=True)
class Dialect:
    """``ended`` is found in a stream that is whole, ``failed`` in one that says it is not."""

    path: str
    ended: re.Pattern[str]
    failed: re.Pattern[str]


OPENAI = Dialect("/v1/chat/completions", re.compile(r"data: \[DONE\]"), re.compile('"error"'))
ANTHROPIC = Dialect("/v1/messages", re.compile("event: message_stop"), re.compile("event: error"))
OLLAMA = Dialect("/api/chat", re.compile('"done": ?true'), re.compile('"error"'))


def _body(dialect: Dialect, model: str, dice: random.Random) -> dict[str, Any]:
    words = "".join(dice.choice("abcdefgh ") for _ in range(dice.choice((4, 40, 200))))
    tokens = dice.choice((1, 8, 60))
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": words}],
        "stream": dice.random() < 0.8,
    }
    if dialect is OLLAMA:
        return {**body, "options": {"num_predict": tokens}}
    return {**body, "max_tokens": tokens}


async def _ask(
    client: httpx2.AsyncClient, dialect: Dialect, body: dict[str, Any], dice: random.Random
) -> str:
    """How it ended, in a word; raises `AssertionError` for an end that is none."""
    vanish_after = dice.choice((None, None, None, 0, 1, 5))
    async with client.stream("POST", dialect.path, json=body) as response:
        if response.status_code != 200:
            answer = json.loads(await response.aread())
            assert "error" in answer, answer
            return f"status {response.status_code}"
        if not body["stream"]:
            json.loads(await response.aread())
            return "whole"
        text = ""
        async for line in response.aiter_lines():
            text += f"{line}\n"
            if vanish_after is not None and text.count("\n") > vanish_after:
                return "left"
            if dice.random() < 0.02:
                await asyncio.sleep(0.2)
    if dialect.failed.search(text):
        return "error in the stream"
    assert dialect.ended.search(text), f"a stream that just ends: {text[-200:]!r}"
    return "whole"


async def _come_and_go(url: str, outcome: Outcome, dice: random.Random, until: float) -> None:
    async with httpx2.AsyncClient(base_url=url, timeout=None, trust_env=False) as client:
        while time.monotonic() < until:
            dialect = dice.choice((OPENAI, ANTHROPIC, OLLAMA))
            body = _body(dialect, dice.choice(MODELS), dice)
            try:
                async with asyncio.timeout(HANG_SECONDS):
                    outcome.ends[await _ask(client, dialect, body, dice)] += 1
            except TimeoutError:
                outcome.wrong.append(f"{dialect.path} hung")
            except (httpx2.TransportError, AssertionError, ValueError) as error:
                outcome.wrong.append(f"{dialect.path}: {type(error).__name__}: {error}")


# What is done to the server


def _children(server: int, module: str) -> list[psutil.Process]:
    found = []
    for child in psutil.Process(server).children():
        with contextlib.suppress(psutil.Error):
            if any(module in word for word in child.cmdline()):
                found.append(child)
    return found


@dataclass
class Faults:
    """Each does one thing, and counts it."""

    server: int
    home: Path
    clock: Path | None
    disk: bool
    dice: random.Random
    outcome: Outcome

    async def go_on(self, until: float) -> None:
        kinds: list[Callable[[], Awaitable[None]]] = [self._kill_worker, self._kill_text_child]
        kinds += [self._fill_disk] if self.disk else []
        kinds += [self._jump] if self.clock else []
        while time.monotonic() < until:
            await asyncio.sleep(self.dice.uniform(0.3, 2.0))
            await self.dice.choice(kinds)()

    async def _kill_worker(self) -> None:
        self._kill("llamacpp.worker")

    async def _kill_text_child(self) -> None:
        self._kill("text.child")

    def _kill(self, module: str) -> None:
        for child in _children(self.server, module)[:1]:
            with contextlib.suppress(psutil.Error):
                child.kill()
                self.outcome.faults[f"{module} killed"] += 1

    async def _fill_disk(self) -> None:
        path = self.home / "filler"
        with contextlib.suppress(OSError), path.open("wb") as file:
            while True:
                file.write(bytes(1 << 20))
                file.flush()
        self.outcome.faults["disk full"] += 1
        await asyncio.sleep(self.dice.uniform(0.5, 2.0))
        path.unlink(missing_ok=True)

    async def _jump(self) -> None:
        assert self.clock is not None
        self.clock.write_text(f"{self.dice.choice((-86_400, -3_600, 0, 3_600, 86_400)):+d}")
        self.outcome.faults["clock jumped"] += 1


# The server, before and after


@contextlib.contextmanager
def small_disk(folder: Path, outcome: Outcome) -> Iterator[bool]:
    """A tmpfs on ``folder``, if it can be had."""
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode != 0:
        outcome.left_out.append("a full disk: no tmpfs can be mounted")
    try:
        yield mounted.returncode == 0
    finally:
        if mounted.returncode == 0:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextlib.contextmanager
def server_of(home: Path, extra: dict[str, str], words: Path) -> Iterator[Server]:
    """`freehold serve`, its own words in a file; it must leave by itself when it is told to."""
    with words.open("wb") as log:
        process = subprocess.Popen(
            [FREEHOLD, "serve", "--port", "0", "--parallel", "2", "--context", "512"],
            env=environment(home, extra),
            stdin=subprocess.DEVNULL,
            stderr=log,
        )
    try:
        url = _address(process, words)
        yield Server(process, url)
        children = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        assert process.wait(60) == 0
        wait_until_gone(children)
    except BaseException as error:
        error.add_note(f"server: exit status {process.poll()}\n{words.read_text()[-4000:]}")
        raise
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _address(process: subprocess.Popen[bytes], words: Path) -> str:
    end = time.monotonic() + 60
    while time.monotonic() < end and process.poll() is None:
        if match := re.search(r"Serving on (http://\S+)", words.read_text()):
            return match[1]
        time.sleep(0.05)
    raise AssertionError(words.read_text())


def _need(home: Path, words: Path) -> int:
    """MiB that the largest of the models takes, as the server itself measures it."""
    with (
        server_of(home, {}, words) as server,
        httpx2.Client(base_url=server.url, timeout=60, trust_env=False) as client,
    ):
        for model in MODELS:
            answer = client.post("/freehold/v1/models/load", json={"model": model})
            assert answer.status_code == 200, answer.text
        for model in MODELS:
            client.post("/freehold/v1/models/unload", json={"model": model})
    kept = json.loads((home / "state" / "memory.json").read_bytes())["measured"]
    return int(max(one["bytes"] for one in kept.values()) / 2**20) + 1


def _unload_all(client: httpx2.Client) -> None:
    end = time.monotonic() + 60
    while models := client.get("/freehold/v1/models/loaded").json()["models"]:
        assert time.monotonic() < end, f"still in memory: {models}"
        for model in models:
            client.post("/freehold/v1/models/unload", json={"model": model["model"]})
        time.sleep(0.1)


@dataclass(frozen=True)
class Possessions:
    """What the server holds when it has nothing to do."""

    children: int
    handles: int
    threads: int


def _possessions(pid: int) -> Possessions:
    """Once it has let go of clients that have just left."""
    process = psutil.Process(pid)
    counts, end = [process.num_fds()], time.monotonic() + 10
    while counts[-5:] != [min(counts)] * 5 and time.monotonic() < end:
        time.sleep(0.1)
        counts.append(process.num_fds())
    return Possessions(len(process.children(recursive=True)), min(counts), process.num_threads())


def chaos(folder: Path, *, seconds: float, seed: int) -> Outcome:
    """Do all of it for so long. What is wrong is in the outcome, or raised."""
    outcome, dice = Outcome(), random.Random(seed)
    home, words, clock = folder / "home", folder / "server.log", folder / "clock"
    home.mkdir()
    extra = {}
    if FAKETIME.exists():
        clock.write_text("+0")
        extra = {
            "LD_PRELOAD": str(FAKETIME),
            "FAKETIME_TIMESTAMP_FILE": str(clock),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
    else:
        outcome.left_out.append("a clock that jumps: libfaketime is not installed")
    with small_disk(home, outcome) as disk:
        for number, name in enumerate(MODELS):
            path = write_endless_llama(folder / f"{number}.gguf", layers=number + 2)
            result = freehold(home, "import", str(path), "--name", name)
            assert result.status == 0, result.err
        budget = str(int(2.5 * _need(home, words)))
        with server_of(home, {**extra, "FREEHOLD_MEMORY_BUDGET": budget}, words) as server:
            _run(
                server,
                outcome,
                dice,
                seconds,
                Faults(server.process.pid, home, clock if extra else None, disk, dice, outcome),
            )
        left = [path.name for path in home.rglob("*") if path.suffix in (".tmp", ".part")]
        outcome.wrong += [f"left behind: {name}" for name in left]
    return outcome


def _run(
    server: Server, outcome: Outcome, dice: random.Random, seconds: float, faults: Faults
) -> None:
    pid = server.process.pid
    with httpx2.Client(base_url=server.url, timeout=60, trust_env=False) as client:
        calm = Outcome()
        asyncio.run(_crowd(server.url, calm, dice, 2.0, None))
        assert calm.wrong == []  # nothing has been done to it yet
        _unload_all(client)
        before = _possessions(pid)
        asyncio.run(_crowd(server.url, outcome, dice, seconds, faults))
        _unload_all(client)
        for model in MODELS:  # and it still works
            answer = client.post(OPENAI.path, json=_body(OPENAI, model, dice) | {"stream": False})
            assert answer.status_code == 200, answer.text
        _unload_all(client)
        after = _possessions(pid)
    if after.children > before.children or after.handles > before.handles + 2:
        outcome.wrong.append(f"before {before}, afterwards {after}")


async def _crowd(
    url: str, outcome: Outcome, dice: random.Random, seconds: float, faults: Faults | None
) -> None:
    until = time.monotonic() + seconds
    doing = [
        _come_and_go(url, outcome, random.Random(dice.random()), until) for _ in range(CLIENTS)
    ]
    if faults is not None:
        await asyncio.gather(faults.go_on(until), *doing)
    else:
        await asyncio.gather(*doing)


def main(minutes: float, seed: int) -> None:
    print(f"seed {seed}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        try:
            outcome = chaos(Path(folder), seconds=minutes * 60, seed=seed)
        finally:
            print((Path(folder) / "server.log").read_text()[-4000:], file=sys.stderr)
    print(outcome)
    assert not outcome.wrong


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else os.getpid())
