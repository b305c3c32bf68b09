"""`python -m benchmarks.engines`: which engine is right, what the gateway costs before vLLM, and
in what vLLM had better compute.

`compare`: the same questions to the engines through the same server of ours, from 1 to 16 clients,
with and without a prefix that all share. `gateway`: vLLM asked directly and through our server, as
its engine and as an upstream. `precision`: vLLM's own server twice, computing in bfloat16 and in
float32.

All servers of a part are up the whole time and asked in turn, so that what is compared is measured
within a minute. Everything is saved at once; the same command goes on where it stopped.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import click

from benchmarks import engine_tables, vllm
from benchmarks.client import Client
from benchmarks.measure import summarise
from benchmarks.report import insert
from benchmarks.results import Results, about, results_path
from benchmarks.servers import Running, Server, Watch, running
from benchmarks.weights import (
    CACHE,
    ROOT,
    SOURCE,
    BenchmarkError,
    freehold_command,
    freehold_environment,
    model_file,
    sha256,
    source_file,
)
from benchmarks.workloads import Builder, build, sharing, unique, warm_up
from freehold.domain.engine import Precision
from freehold.text.vocabulary import Vocabulary, open_vocabulary, start_native

DOCUMENT = ROOT / "docs" / "benchmarks.md"
CLIENTS = (1, 2, 4, 8, 16)
_REQUESTS = {1: 2, 2: 4, 4: 8, 8: 8, 16: 16}
COMPARED: Mapping[str, Builder] = {
    **{f"unique-{number}": unique(number, _REQUESTS[number]) for number in CLIENTS},
    **{f"shared-{number}": sharing(number, _REQUESTS[number], 512, 32) for number in CLIENTS},
}
GATEWAY: Mapping[str, Builder] = {"1": unique(1, 8), "8": unique(8, 24)}
PRECISION: Mapping[str, Builder] = {
    f"unique-{number}": COMPARED[f"unique-{number}"] for number in (1, 4)
}
SIZE = vllm.Size(context=1024, parallel=16)
_LIMIT_SECONDS = 300.0
_QUICK = 0.01
# vLLM's processes go on looking for work, at full speed, for about a second after the last.
_REST_SECONDS = 2.0


@dataclass(frozen=True)
class Subject:
    """One way to ask: a server that is up, by which name for the model, over which socket."""

    name: str
    watch: Watch
    port: int
    model: str
    socket: str | None = None


@dataclass(frozen=True)
class Bench:
    """One part: who is asked, what, and where that goes."""

    subjects: Sequence[Subject]
    workloads: Mapping[str, Builder]
    vocabulary: Vocabulary
    results: Results
    scale: float

    def run(self, rounds: int) -> None:
        """Each workload of all in turn; the next round in the other direction."""
        ends = [each for each in range(self.vocabulary.size) if self.vocabulary.is_end(each)]
        clients = {
            each.name: Client(each.port, each.model, ends, each.socket) for each in self.subjects
        }
        # A first prompt is slower on every engine, and a first long one again.
        long = unique(1, 1)(self.vocabulary, random.Random("a long one"), 1.0)
        for client in clients.values():
            for load in (warm_up(self.vocabulary), long):
                asyncio.run(client.run(load, _LIMIT_SECONDS))
        for number in range(1, rounds + 1):
            for workload in self.workloads:
                for subject in self.subjects[:: 1 if number % 2 else -1]:
                    self._measure(workload, subject, clients[subject.name], number)

    def _measure(self, workload: str, subject: Subject, client: Client, number: int) -> None:
        if self.results.has(workload, subject.name, number):
            return
        seed = f"round {number}"
        load = build(workload, self.vocabulary, seed, self.scale, self.workloads)
        time.sleep(_REST_SECONDS)
        subject.watch.begin()
        records = asyncio.run(client.run(load, _LIMIT_SECONDS))
        subject.watch.look()
        others = subject.watch.others()
        summary = summarise(records, subject.watch.peak_memory, others)
        self.results.add(workload, subject.name, number, summary, records)
        _say(
            f"round {number}  {workload:10} {subject.name:18} "
            f"{summary.tokens_per_second:7.1f} tok/s  TTFT p50 {summary.ttft_p50 or 0:7.0f} ms  "
            f"TPOT p50 {summary.tpot_p50 or 0:6.1f} ms  {summary.seconds:5.1f} s  "
            f"others {others:4.0%}"
        )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _up(held: ExitStack, server: Server) -> Running:
    _say(f"starting {server.name}")
    log = CACHE / f"{server.name.replace(' ', '-').replace(',', '')}.log"
    return held.enter_context(running(server, log))


# The two parts: their servers by name, and who is asked.


def _compared_servers(home: Path) -> dict[str, Server]:
    files = {
        "llama.cpp Q4_K_M": source_file(),
        "llama.cpp Q8_0": model_file("q8_0"),
        "llama.cpp BF16": model_file("bf16"),
    }
    found = {}
    for name, path in files.items():
        command = (freehold_command(), "serve", str(path), "--port", "{port}", "--no-profile")
        found[name] = Server(
            name, (*command, *SIZE.flags, "--offline"), "/readyz", freehold_environment()
        )
    name = f"vLLM {vllm.precision_here(home)}"
    return {**found, name: vllm.managed(name, home, SIZE)}


@contextlib.contextmanager
def _compared(servers: Mapping[str, Server]) -> Iterator[list[Subject]]:
    with ExitStack() as held:
        subjects = []
        for name, server in servers.items():
            up = _up(held, server)
            path = server.command[2]
            model = Path(path).stem if "/" in path else path
            subjects.append(Subject(name, up.watch, up.port, model))
        yield subjects


def _gateway_servers(home: Path) -> dict[str, Server]:
    front = (freehold_command(), "serve", "--port", "{port}", "--upstream")
    words = f"big=http://127.0.0.1:{{vllm}}/v1 model={vllm.BARE_NAME} kind=vllm"
    return {
        "vLLM": vllm.bare("vLLM", home, SIZE),
        "upstream": Server("upstream", (*front, words), "/readyz", freehold_environment()),
        "engine": vllm.managed("engine", home, SIZE),
    }


@contextlib.contextmanager
def _before_vllm(servers: Mapping[str, Server]) -> Iterator[list[Subject]]:
    """The vLLM behind our engine is asked directly over its own socket: the same process."""
    with ExitStack() as held:
        bare = _up(held, servers["vLLM"])
        plain = servers["upstream"]
        command = tuple(word.replace("{vllm}", str(bare.port)) for word in plain.command)
        front = _up(held, Server(plain.name, command, plain.health, plain.environment))
        front.watch.join(bare.watch)
        engine = _up(held, servers["engine"])
        socket = vllm.socket_of(engine.watch)
        yield [
            Subject("engine: vLLM", engine.watch, engine.port, vllm.BARE_NAME, socket),
            Subject("engine: ours", engine.watch, engine.port, SOURCE),
            Subject("upstream: vLLM", bare.watch, bare.port, vllm.BARE_NAME),
            Subject("upstream: ours", front.watch, front.port, "big"),
        ]


def _precision_servers(home: Path) -> dict[str, Server]:
    names = {f"vLLM {precision}": precision for precision in Precision}
    return {name: vllm.bare(name, home, SIZE, precision) for name, precision in names.items()}


@contextlib.contextmanager
def _bare(servers: Mapping[str, Server]) -> Iterator[list[Subject]]:
    with ExitStack() as held:
        ups = {name: _up(held, server) for name, server in servers.items()}
        yield [Subject(name, up.watch, up.port, vllm.BARE_NAME) for name, up in ups.items()]


PARTS = {
    "compare": ("engines", COMPARED, _compared_servers, _compared, engine_tables.compared),
    "gateway": ("gateway", GATEWAY, _gateway_servers, _before_vllm, engine_tables.gateway),
    "precision": ("precision", PRECISION, _precision_servers, _bare, engine_tables.compared),
}


@click.command(help=__doc__, context_settings={"show_default": True})
@click.argument("part", type=click.Choice(list(PARTS)))
@click.option("--rounds", type=click.IntRange(1), default=2)
@click.option("--quick", is_flag=True, help="A smoke run: few requests, once, not for the docs.")
@click.option("--fresh", is_flag=True, help="Measure again what the results file holds.")
@click.option("--output", type=click.Path(path_type=Path), help="A results file of its own.")
@click.option("--render", is_flag=True, help="Measure nothing: tables from the results file.")
def main(
    part: str, rounds: int, quick: bool, fresh: bool, output: Path | None, render: bool
) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the servers end too
    marker, _, _, _, table = PARTS[part]
    path = results_path(marker, output, quick=quick)
    try:
        if not render:
            _measure(part, path, 1 if quick else rounds, quick=quick, fresh=fresh or quick)
        text = table(Results.read(path))
    except BenchmarkError as error:
        _say(f"Error: {error}")
        sys.exit(1)
    if not quick and output is None:
        DOCUMENT.write_text(insert(DOCUMENT.read_text(), marker, text))
    print(text)


def _measure(part: str, path: Path, rounds: int, *, quick: bool, fresh: bool) -> None:
    _, workloads, described, up, _ = PARTS[part]
    home = vllm.home()
    servers = described(home)
    model = source_file()
    found = vllm.installed(home)
    flags = {name: server.flags(model) for name, server in servers.items()}
    told = about(model, sha256(model), flags, (), rounds)
    told["model"] = SOURCE
    told["versions"] |= {found.build.value: found.version, "torch": found.torch}
    results = Results.open(path, told, fresh=fresh)
    start_native()
    vocabulary = open_vocabulary([model])
    with up(servers) as subjects:
        Bench(subjects, workloads, vocabulary, results, _QUICK if quick else 1.0).run(rounds)


if __name__ == "__main__":
    main()
