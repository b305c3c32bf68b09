"""Where the time goes in each workload: `python -m benchmarks.profile`.

The gateway runs in this process, so that the engine in its worker can be asked what it has been
doing before and after the clients. Clients, gateway and worker share the cores as in the
benchmark, so the times are a little longer than there.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path

import click
import msgspec

from benchmarks.client import Client
from benchmarks.servers import SLOTS, THREADS
from benchmarks.weights import CACHE, FILE_TYPES, model_file
from benchmarks.workloads import CONTEXT, WORKLOADS, Load, build, warm_up
from freehold.api.server import bind, serve
from freehold.domain.settings import resolve
from freehold.engines.base import Engine, EngineConfig
from freehold.engines.llamacpp.client import LlamaCppEngine
from freehold.engines.llamacpp.messages import Inspected, Share
from freehold.runtime.wiring import open_runtime
from freehold.text.vocabulary import open_vocabulary, start_native

_LIMIT_SECONDS = 900.0


@dataclass(frozen=True)
class Profile:
    """One workload. ``decode`` is what `llama_decode` took of ``seconds``."""

    workload: str
    seconds: float
    decode: float
    answering: Share
    mixed: Share
    reading: Share

    def row(self) -> str:
        cells = [f"{self.seconds:.1f}", *map(_share, (self.answering, self.mixed, self.reading))]
        steps = self.answering.seconds + self.mixed.seconds + self.reading.seconds
        beside = f"{(steps - self.decode) / steps:.1%}" if steps else "-"
        idle = f"{1 - steps / self.seconds:.1%}"
        return f"| {self.workload} | {' | '.join(cells)} | {beside} | {idle} |"


HEAD = (
    "| workload | s | only answers | answers and prompts | only prompts | beside llama_decode "
    "| between steps |\n|---|--:|---|---|---|--:|--:|"
)


def _share(share: Share) -> str:
    """``12.3 s: 410 steps, 3200 rows, 0 tokens``"""
    if not share.steps:
        return "-"
    parts = [f"{share.steps} steps of {1000 * share.seconds / share.steps:.0f} ms"]
    parts += [f"{share.rows / share.steps:.1f} rows"] if share.rows else []
    parts += [f"{share.tokens / share.steps:.0f} tokens"] if share.tokens else []
    return f"{share.seconds:.1f} s: {', '.join(parts)}"


async def profile(
    model: Path, workload: str, load: Load, warming: Load, ends: list[int]
) -> Profile:
    engines: list[LlamaCppEngine] = []

    def make(config: EngineConfig) -> Engine:
        engines.append(LlamaCppEngine(config))
        return engines[-1]

    flags = {"port": 0, "parallel": SLOTS, "context": CONTEXT, "threads": THREADS, "offline": True}
    settings = resolve({**flags, "home": str(CACHE / "profile-home")}, environ={})
    sock = bind(settings)
    async with open_runtime(
        settings, notice=_silent, served_paths=(model,), make_engine=make
    ) as runtime:
        serving = asyncio.create_task(serve(runtime, sock, preload=(), say=_silent))
        client = Client(sock.getsockname()[1], model.stem, ends)
        try:
            await client.run(warming, _LIMIT_SECONDS)
            before, began = await engines[0].inspect(), time.perf_counter()
            await client.run(load, _LIMIT_SECONDS)
            after, ended = await engines[0].inspect(), time.perf_counter()
        finally:
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)
    return _between(workload, before, after, ended - began)


def _silent(text: str) -> None:
    del text


def _between(workload: str, before: Inspected, after: Inspected, seconds: float) -> Profile:
    return Profile(
        workload,
        seconds,
        after.decode_seconds - before.decode_seconds,
        _less(after.answering, before.answering),
        _less(after.mixed, before.mixed),
        _less(after.reading, before.reading),
    )


def _less(after: Share, before: Share) -> Share:
    return Share(
        steps=after.steps - before.steps,
        seconds=after.seconds - before.seconds,
        rows=after.rows - before.rows,
        tokens=after.tokens - before.tokens,
    )


@click.command()
@click.option("--model", "kind", type=click.Choice(list(FILE_TYPES)), default="q8_0")
@click.option("--workloads", "-w", type=click.Choice(list(WORKLOADS)), multiple=True, help="All.")
@click.option("--output", type=click.Path(path_type=Path), help="Write the figures here too.")
def main(kind: str, workloads: tuple[str, ...], output: Path | None) -> None:
    """Say where the time goes, as a table."""
    model = model_file(kind)
    start_native()
    vocabulary = open_vocabulary([model])
    ends = [each for each in range(vocabulary.size) if vocabulary.is_end(each)]
    found = []
    print(HEAD)
    for workload in workloads or tuple(WORKLOADS):
        load = build(workload, vocabulary, "profile", 1.0)
        found.append(asyncio.run(profile(model, workload, load, warm_up(vocabulary), ends)))
        print(found[-1].row(), flush=True)
    if output is not None:
        output.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n")


if __name__ == "__main__":
    main()
