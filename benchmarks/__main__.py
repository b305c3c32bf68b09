"""`python -m benchmarks`: measure, save, and put the tables into `docs/benchmarks.md`."""

from __future__ import annotations

import asyncio
import dataclasses
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from benchmarks import batched, report
from benchmarks.client import Client
from benchmarks.measure import summarise
from benchmarks.peers import build_peers
from benchmarks.results import Results, about, results_path
from benchmarks.servers import CANDIDATES, DEFAULT, OUR_SETTINGS, Server, all_servers, running
from benchmarks.weights import CACHE, FILE_TYPES, ROOT, BenchmarkError, model_file, sha256
from benchmarks.workloads import WORKLOADS, build, warm_up
from freehold.lab.bench.statistics import geometric_mean
from freehold.text.vocabulary import Vocabulary, open_vocabulary, start_native

DOCUMENT = ROOT / "docs" / "benchmarks.md"
KINDS = ("ours", DEFAULT, report.BEST, "llama-cpp-python", "batched-bench")
# The server that answers one request at a time is measured, once, where the claim about it is.
ONE_AT_A_TIME = ("unique-8", "chat", "shared")
_SCREENING = 0.5
_SCREENED = ("unique-8", "chat", "copy")
_QUICK = 0.25
_QUICK_SCREENING = ("unique-1", "copy")
_LIMIT_SECONDS = 900.0


@dataclass(frozen=True)
class Bench:
    """One run: what is measured, how, and where it goes."""

    model: Path
    vocabulary: Vocabulary
    end_tokens: Sequence[int]
    servers: dict[str, Server]
    results: Results
    scale: float

    def measure(self, workload: str, name: str, repeat: int) -> None:
        """One workload on one server started for it, unless that is there already."""
        if self.results.has(workload, name, repeat):
            return
        began = time.monotonic()
        server = self.servers[name]
        scale = self.scale if repeat else min(self.scale, _SCREENING)
        load = build(workload, self.vocabulary, f"repeat {repeat}", scale)
        with running(server, CACHE / f"{name.replace(' ', '-')}.log") as up:
            client = Client(up.port, self.model.stem, self.end_tokens)
            asyncio.run(client.run(warm_up(self.vocabulary), _LIMIT_SECONDS))
            up.watch.begin()
            records = asyncio.run(client.run(load, _LIMIT_SECONDS))
            up.watch.look()
            others = up.watch.others()
            peak = up.watch.peak_memory
        summary = summarise(records, peak, others)
        self.results.add(workload, name, repeat, summary, records)
        _say(
            f"{'screening' if repeat == 0 else f'repeat {repeat}':10} {workload:10} {name:22} "
            f"{summary.tokens_per_second:7.1f} tok/s  TTFT p99 {summary.ttft_p99 or 0:8.0f}  "
            f"ITL p50/p99 {summary.itl_p50 or 0:6.0f}/{summary.itl_p99 or 0:6.0f} ms  "
            f"{summary.peak_memory_mb:6.0f} MB  others {others:4.0%}  "
            f"({time.monotonic() - began:.0f} s)"
        )

    def screen(self, workloads: Sequence[str]) -> str:
        """The flags of llama-server with the best geometric mean of throughput."""
        for workload in workloads:
            for name in (DEFAULT, *CANDIDATES):
                self.measure(workload, name, 0)
        speeds: dict[str, list[float]] = {}
        for row in self.results.screening:
            speeds.setdefault(row["server"], []).append(row["summary"]["tokens_per_second"])
        best = max(speeds, key=lambda name: geometric_mean(speeds[name]))
        _say(f"llama-server is best with: {best}")
        return best

    def decode(self, program: Path, repeat: int) -> None:
        """The decode of 16 sequences, theirs and ours one after the other."""
        if any(row["repeat"] == repeat for row in self.results.batched):
            return
        theirs = batched.batched_bench(program, self.model)
        ours = batched.engine_decode(self.model)
        engine = {kind: dataclasses.asdict(found) for kind, found in ours.items()}
        self.results.batched.append({"repeat": repeat, "bench": theirs, "engine": engine})
        self.results.save()
        _say(f"repeat {repeat}   decode at 16: llama-batched-bench {theirs:.1f} tok/s")
        for kind, found in ours.items():
            _say(
                f"  ours, {kind}: {found.tokens_per_second:.1f} tok/s, {found.outside:.1%} outside"
            )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _listed(known: Sequence[str]) -> click.Choice[str]:
    return click.Choice(list(known))


@click.command(context_settings={"show_default": True})
@click.option("--model", "kind", type=_listed(list(FILE_TYPES)), default="q8_0")
@click.option("--workloads", "-w", type=_listed(list(WORKLOADS)), multiple=True, help="All.")
@click.option("--servers", "-s", type=_listed([*KINDS, *CANDIDATES, *OUR_SETTINGS]), multiple=True)
@click.option("--repeats", type=click.IntRange(1), default=3)
@click.option("--quick", is_flag=True, help="A smoke run: few requests, once, not for the docs.")
@click.option("--end-allowed", is_flag=True, help="Send no logit_bias: answers may end early.")
@click.option("--fresh", is_flag=True, help="Measure again what the results file holds.")
@click.option("--output", type=click.Path(path_type=Path), help="A results file of its own.")
@click.option("--render", is_flag=True, help="Measure nothing: tables from the results file.")
def main(
    kind: str,
    workloads: tuple[str, ...],
    servers: tuple[str, ...],
    repeats: int,
    quick: bool,
    end_allowed: bool,
    fresh: bool,
    output: Path | None,
    render: bool,
) -> None:
    """Measure freehold and its peers side by side on one model file."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the server ends too
    path = results_path(kind, output, quick=quick)
    try:
        if not render:
            _measure(
                path,
                kind,
                workloads or tuple(WORKLOADS),
                servers or KINDS,
                1 if quick else repeats,
                quick,
                end_allowed,
                fresh or quick,
            )
        text = report.render(Results.read(path))
    except BenchmarkError as error:
        _say(f"Error: {error}")
        sys.exit(1)
    if not quick and output is None:
        DOCUMENT.write_text(report.insert(DOCUMENT.read_text(), kind, text))
    print(text)


def _measure(
    path: Path,
    kind: str,
    workloads: Sequence[str],
    kinds: Sequence[str],
    repeats: int,
    quick: bool,
    end_allowed: bool,
    fresh: bool,
) -> None:
    peers = build_peers()
    model = model_file(kind)
    servers = all_servers(model, peers)
    flags = {name: server.flags(model) for name, server in servers.items()}
    flags["llama-batched-bench"] = " ".join(
        Path(word).name if "/" in word else word
        for word in batched.batched_bench_command(peers.batched_bench, model)
    )
    described = about(model, sha256(model), flags, peers.build_flags, repeats)
    results = Results.open(path, described, fresh=fresh)
    start_native()
    vocabulary = open_vocabulary([model])
    ends = (
        [] if end_allowed else [each for each in range(vocabulary.size) if vocabulary.is_end(each)]
    )
    bench = Bench(model, vocabulary, ends, servers, results, _QUICK if quick else 1.0)
    if report.BEST in kinds:
        results.best = bench.screen(_QUICK_SCREENING if quick else _SCREENED)
        results.save()
    wanted = [results.best if name == report.BEST else name for name in kinds]
    names = [name for name in dict.fromkeys(wanted) if name in servers]
    # Workload by workload: what is compared is measured within minutes.
    for workload in workloads:
        for repeat in range(1, repeats + 1):
            for name in names:
                once = repeat == 1 and workload in ONE_AT_A_TIME
                if name != "llama-cpp-python" or once:
                    bench.measure(workload, name, repeat)
    if "batched-bench" in kinds:
        for repeat in range(1, repeats + 1):
            bench.decode(peers.batched_bench, repeat)


if __name__ == "__main__":
    main()
