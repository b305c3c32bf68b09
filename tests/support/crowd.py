"""A crowd of streaming clients, and what it costs the server.

    python -m tests.support.crowd scripted MINUTES        tokens from a script, 1,000 in a second
    python -m tests.support.crowd real MINUTES MODEL      a real model, 16 answers at a time

Each client asks, reads its stream to the end, and asks again. Whoever is refused with 429 waits as
long as it was told. Printed, as JSON: answers, refusals, everything else that went wrong, times to
the first token, the gateway's share of one core, and its memory early and late.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.support.tiny_model import write_tiny_llama

CLIENTS = 500
PARALLEL = 16


@dataclass
class Seen:
    """What the crowd saw. ``first`` are seconds from asking to the first word; ``begun`` the order
    in which requests got it, by the number they were sent under.
    """

    answers: int = 0
    words: int = 0
    refused: int = 0
    wrong: Counter[str] = field(default_factory=Counter)
    first: list[float] = field(default_factory=list)
    begun: list[int] = field(default_factory=list)
    asked: int = 0

    @property
    def overtaken(self) -> int:
        """By how many later requests one was overtaken at most."""
        worst = 0
        for place, number in enumerate(self.begun):
            before = self.begun[max(0, place - 2 * CLIENTS) : place]
            worst = max(worst, sum(1 for other in before if other > number))
        return worst


class Client:
    """One of them, on a connection of its own for every request."""

    def __init__(self, address: tuple[str, int], model: str, words: int, seen: Seen) -> None:
        self._address = address
        self._words = words
        self._model = model
        self._seen = seen

    async def come_and_go(self, until: float) -> None:
        while time.monotonic() < until:
            try:
                await self._ask()
            except (OSError, asyncio.IncompleteReadError, ValueError) as error:
                self._seen.wrong[type(error).__name__] += 1
                await asyncio.sleep(0.1)

    async def _ask(self) -> None:
        seen = self._seen
        number = seen.asked = seen.asked + 1
        body = json.dumps(
            {
                "model": self._model,
                "messages": [{"role": "user", "content": f"Question {number}"}],
                "max_tokens": self._words,
                "stream": True,
            }
        )
        host, port = self._address
        reader, writer = await asyncio.open_connection(host, port)
        began = time.monotonic()
        try:
            writer.write(
                f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}:{port}\r\n"
                f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
                f"Connection: close\r\n\r\n{body}".encode()
            )
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            status = head.split()[1]
            if status == "429":
                seen.refused += 1
                await asyncio.sleep(float(head.partition("retry-after: ")[2].split()[0]))
                return
            if status != "200":
                seen.wrong[status] += 1
                return
            await self._read(reader, number, began)
        finally:
            writer.close()

    async def _read(self, reader: asyncio.StreamReader, number: int, began: float) -> None:
        seen, words, done = self._seen, 0, False
        async for line in reader:
            if b'"error"' in line:
                seen.wrong["error in the stream"] += 1
                return
            done = done or line.startswith(b"data: [DONE]")
            if b'"content":"' in line and b'"content":""' not in line:
                words += 1
                if words == 1:
                    seen.first.append(time.monotonic() - began)
                    seen.begun.append(number)
        if not done:
            seen.wrong["an unfinished stream"] += 1
            return
        seen.answers += 1
        seen.words += words


@dataclass
class Cost:
    """Of the gateway process alone: its share of one core, and resident bytes each second."""

    share: float = 0.0
    memory: list[int] = field(default_factory=list)


async def watch(pid: int, until: float) -> Cost:
    process = psutil.Process(pid)
    cost, began, before = Cost(), time.monotonic(), _used(process)
    while time.monotonic() < until:
        await asyncio.sleep(1)
        cost.memory.append(process.memory_info().rss)
        cost.share = (_used(process) - before) / (time.monotonic() - began)
    return cost


def _used(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


async def crowd(
    address: tuple[str, int], pid: int, model: str, *, clients: int, words: int, seconds: float
) -> tuple[Seen, Cost]:
    """Come, go on for so long, and leave in the middle of whatever is being said."""
    seen, until = Seen(), time.monotonic() + seconds
    everybody = [
        asyncio.create_task(Client(address, model, words, seen).come_and_go(until))
        for _ in range(clients)
    ]
    cost = await watch(pid, until)
    for one in everybody:
        one.cancel()
    await asyncio.gather(*everybody, return_exceptions=True)
    return seen, cost


def report(seen: Seen, cost: Cost, seconds: float) -> dict[str, Any]:
    first = sorted(seen.first) or [0.0]
    tenth = max(1, len(cost.memory) // 10)
    return {
        "seconds": round(seconds),
        "answers": seen.answers,
        "words_per_second": round(seen.words / seconds, 1),
        "refused_429": seen.refused,
        "wrong": dict(seen.wrong),
        "first_word_seconds": {
            "median": round(statistics.median(first), 2),
            "p99": round(first[int(0.99 * (len(first) - 1))], 2),
            "largest": round(first[-1], 2),
        },
        "overtaken_by": seen.overtaken,
        "gateway_share_of_a_core": round(cost.share, 3),
        "gateway_mb": {
            "after_a_tenth": round(statistics.median(cost.memory[tenth : 2 * tenth]) / 1e6, 1),
            "at_the_end": round(statistics.median(cost.memory[-tenth:]) / 1e6, 1),
        },
    }


def start(home: Path, model: Path, kind: str) -> tuple[subprocess.Popen[str], tuple[str, int]]:
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.support.crowd_server", home, model, str(PARALLEL), kind],
        stdout=subprocess.PIPE,
        text=True,
        # The scripted worker is no part of the package, and children look nowhere else.
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert server.stdout is not None
    host, _, port = server.stdout.readline().strip().removeprefix("http://").partition(":")
    while "is loaded" not in (line := server.stdout.readline()):
        assert line, "the server did not come up"
    return server, (host, int(port))


def crowd_of(folder: Path, kind: str, model: Path | None, *, seconds: float) -> tuple[Seen, Cost]:
    """Start a server for it, and look at both. Without ``model`` a tiny one is made."""
    if model is None:
        model = write_tiny_llama(folder / "tiny.gguf", context_length=2048)
    server, address = start(folder / "home", model, kind)
    words = 40 if kind == "scripted" else 8
    try:
        coming = crowd(
            address, server.pid, model.stem, clients=CLIENTS, words=words, seconds=seconds
        )
        return asyncio.run(coming)
    finally:
        server.terminate()
        assert server.wait(60) == 0
        assert server.stdout is not None
        server.stdout.close()


def main(kind: str, minutes: float, model: Path | None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        seen, cost = crowd_of(Path(folder), kind, model, seconds=minutes * 60)
    print(json.dumps(report(seen, cost, minutes * 60), indent=2))


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), Path(sys.argv[3]) if len(sys.argv) > 3 else None)
