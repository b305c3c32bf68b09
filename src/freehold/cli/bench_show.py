"""How `freehold bench` shows itself: time left while it runs, a table after it, files beside it."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import click

from freehold.cli.common import notice, print_table
from freehold.cli.output import printable
from freehold.domain.errors import DiskFull, InvalidSetting
from freehold.lab.bench.page import page
from freehold.lab.bench.records import Record
from freehold.lab.bench.report import Report, StageResult
from freehold.lab.bench.session import Progress
from freehold.weights.files import write_atomically


@dataclass
class Files:
    """Where a report goes beside the screen; None: nowhere."""

    json: Path | None
    html: Path | None
    _failure: OSError | DiskFull | None = None

    def require_writable(self) -> None:
        """Raise `InvalidSetting` before minutes are spent on what could not be kept."""
        for path in (self.json, self.html):
            if path is not None and not os.access(path.absolute().parent, os.W_OK):
                raise InvalidSetting(
                    f"{path.absolute().parent} is no folder that may be written.",
                    hint="Name a file in another folder.",
                )

    def write(self, report: Report) -> None:
        """Put the report there, whole or not at all. A full disk ends no measurement: `finish`
        tells of it.
        """
        self._failure = None
        try:
            if self.json is not None:
                write_atomically(self.json, report.encoded())
            if self.html is not None:
                write_atomically(self.html, page(report).encode())
        except (OSError, DiskFull) as error:
            self._failure = error

    def finish(self) -> None:
        """Say what was written. Raises what kept the last report from being."""
        if self._failure is not None:
            raise self._failure
        for path in (self.json, self.html):
            if path is not None:
                notice(f"Written: {path}")


def show(report: Report) -> None:
    """The medians of every stage, on stdout."""
    machine = report.surroundings
    click.echo(f"{printable(report.target.model)} at {printable(report.target.url)}")
    click.echo(
        f"{report.made_at}, measured from {machine.processor.name}, {machine.processor.cores} "
        f"cores, with {' '.join(f'{name} {number}' for name, number in machine.versions.items())}"
    )
    asked = report.workload
    shared = f", {asked.shared} of them shared" if asked.shared else ""
    unlike = "" if asked.shared else ", no two alike"
    click.echo(
        f"Prompts of {asked.prompt} tokens{shared}{unlike} (seed {asked.seed}), answers of "
        f"{asked.answer}; {asked.warm_up} warm-up requests discarded"
        + (f"; medians of {asked.repeats} repeats" if asked.repeats > 1 else "")
    )
    if asked.limits.given:
        click.echo(f"Goodput: completed requests a second with {asked.limits}")
    click.echo()
    columns = [(title, cell) for title, cell in _COLUMNS if _worth_showing(report, title)]
    print_table(
        [title for title, _ in columns],
        ([cell(each) for _, cell in columns] for each in report.stages),
    )
    if asked.repeats > 1:
        click.echo("\nLowest to highest of the repeats")
        names = ("output_per_second", "ttft_ms.p50", "tpot_ms.p50", "itl_ms.p50")
        print_table(
            ["load", "out tok/s", "TTFT p50", "TPOT p50", "ITL p50"],
            ([each.stage.title, *(_range(each, name) for name in names)] for each in report.stages),
        )
    click.echo("\nTimes in ms, from sending a request on an open connection.")
    if report.roofline is not None:
        click.echo(report.roofline)


def number(value: float | None) -> str:
    """Three digits that matter; ``-`` where nothing was measured."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _median(name: str) -> Callable[[StageResult], str]:
    return lambda each: number(each.median(name))


def _outcomes(each: StageResult) -> str:
    summaries = [run.summary for run in each.runs]
    done = sum(summary.completed for summary in summaries)
    parts = [f"{done}/{sum(summary.requests for summary in summaries)}"]
    for word in ("refused", "failed", "cancelled"):
        count = sum(getattr(summary, word) for summary in summaries)
        parts += [f"{count} {word}"] if count else []
    return ", ".join(parts)


def _range(each: StageResult, name: str) -> str:
    found = each.middles.get(name)
    return "-" if found is None else f"{number(found.low)}..{number(found.high)}"


_COLUMNS: tuple[tuple[str, Callable[[StageResult], str]], ...] = (
    ("load", lambda each: each.stage.title),
    ("done", _outcomes),
    ("req/s", _median("requests_per_second")),
    ("goodput", _median("goodput")),
    ("out tok/s", _median("output_per_second")),
    ("all tok/s", _median("total_per_second")),
    ("TTFT p50", _median("ttft_ms.p50")),
    ("p90", _median("ttft_ms.p90")),
    ("p99", _median("ttft_ms.p99")),
    ("TTFA p50", _median("ttfa_ms.p50")),
    ("TPOT mean", _median("tpot_ms.mean")),
    ("ITL mean", _median("itl_ms.mean")),
    ("p50", _median("itl_ms.p50")),
    ("p90", _median("itl_ms.p90")),
    ("p99", _median("itl_ms.p99")),
)


def _worth_showing(report: Report, title: str) -> bool:
    """A column of something that nobody asked for, or that no answer had, is left out."""
    named = {"goodput": "goodput", "TTFA p50": "ttfa_ms.p50"}
    return title not in named or any(
        each.median(named[title]) is not None for each in report.stages
    )


class Shown(Progress, Protocol):
    """Progress that begins when it is entered and ends when it is left."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


def progress_for(total: int) -> Shown:
    """A live line on a terminal, a line now and then elsewhere; always on stderr."""
    return _Bar(total) if sys.stderr.isatty() else Lines(total, notice)


@dataclass
class Lines:
    """For pipes and logs: each stage, and every `INTERVAL` seconds how far it is."""

    INTERVAL = 5.0

    total: int
    write: Callable[[str], None]
    clock: Callable[[], float] = time.monotonic
    _title: str = ""
    _before: int = 0
    _of_stage: int = 0
    _done: int = 0
    _spent: float = 0.0
    _began: float = 0.0
    _said: float = field(default=0.0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        return None

    def phase(self, text: str) -> None:
        self.write(f"{text}.")

    def stage(self, title: str, requests: int) -> None:
        now = self.clock()
        self._before += self._of_stage
        self._title, self._of_stage, self._done = title, requests, 0
        self._began = self._began or now
        self._said = now
        self.write(f"{title}: {requests} requests.")

    def request(self, record: Record) -> None:
        self._done += 1
        now = self.clock()
        if now - self._said >= self.INTERVAL:
            self._said = now
            done = self._before + self._done
            left = (now - self._began) / done * (self.total - done)
            self.write(
                f"{self._title}: {self._done} of {self._of_stage} requests, about {left:.0f} s left"
                " in all."
            )


class _Bar:
    """A bar over all requests with the time left."""

    def __init__(self, total: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        self._bar = Bar(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._task: Any = self._bar.add_task("", total=total)
        self._before = self._of_stage = 0

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def phase(self, text: str) -> None:
        self._bar.update(self._task, description=text)

    def stage(self, title: str, requests: int) -> None:
        self._before += self._of_stage  # also what a limit of seconds has left out
        self._of_stage = requests
        self._bar.update(self._task, description=title, completed=self._before)

    def request(self, record: Record) -> None:
        self._bar.advance(self._task)
