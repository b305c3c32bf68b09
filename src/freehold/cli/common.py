"""What several commands share: settings from flags, progress, sizes and tables."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import click

from freehold.domain.settings import Settings, resolve
from freehold.runtime import logs
from freehold.weights.progress import Progress

JSON_OPTION = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
OFFLINE_OPTION = click.option(
    "--offline", is_flag=True, default=None, help="Never use the network (FREEHOLD_OFFLINE)."
)


def settings_from(**flags: Any) -> Settings:
    """Resolve settings, and log as they say."""
    settings = resolve(flags)
    logs.configure(settings.log_level, settings.log_format)
    return settings


def print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def notice(text: str) -> None:
    """One line for the person, beside the result."""
    click.echo(text, err=True)


def size(count: float) -> str:
    """``491.4 MB``; decimal units, as disks and networks are sold."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.95:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.2f} TB"


def print_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A plain aligned table on stdout: easy to read, easy to cut."""
    table = [list(headings), *(list(row) for row in rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(headings))]
    for row in table:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo("  ".join(cells).rstrip())


def progress() -> Progress:
    """A live bar on a terminal, a line now and then elsewhere; always on stderr."""
    return TerminalProgress() if sys.stderr.isatty() else LineProgress(notice)


class TerminalProgress:
    """A bar with speed and time left. `note` lines scroll above it."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(stderr=True)
        self._bar: Any = None
        self._task: Any = None
        self._name = ""

    def begin(self, name: str, total: int | None, done: int) -> None:
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=self._console,
        )
        self._name = name
        self._task = self._bar.add_task(name, total=total, completed=done)
        self._bar.start()

    def advance(self, count: int) -> None:
        if self._bar is not None:
            self._bar.advance(self._task, count)

    def end(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def status(self, text: str) -> None:
        if self._bar is not None:
            self._bar.update(self._task, description=f"{self._name} ({text})")

    def note(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False)


class LineProgress:
    """For pipes and logs: a line at the start, every `INTERVAL` seconds, and at the end."""

    INTERVAL = 5.0

    def __init__(
        self, write: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._write = write
        self._clock = clock
        self._name = ""
        self._total: int | None = None
        self._done = self._began_with = 0
        self._began = self._said = 0.0

    def begin(self, name: str, total: int | None, done: int) -> None:
        self._name, self._total = name, total
        self._done = self._began_with = done
        self._began = self._said = self._clock()
        of = f", {size(total)}" if total is not None else ""
        self._write(f"{name}{of}{f', {size(done)} here already' if done else ''}")

    def advance(self, count: int) -> None:
        self._done += count
        self._now_and_then("")

    def status(self, text: str) -> None:
        self._now_and_then(f" ({text})")

    def _now_and_then(self, remark: str) -> None:
        if self._clock() - self._said >= self.INTERVAL:
            self._said = self._clock()
            self._write(self._line() + remark)

    def end(self) -> None:
        if self._done != self._began_with:
            self._write(self._line())

    def note(self, text: str) -> None:
        self._write(text)

    def _line(self) -> str:
        seconds = max(self._clock() - self._began, 1e-6)
        rate = (self._done - self._began_with) / seconds
        line = f"{self._name}  {size(self._done)}"
        if self._total:
            line += f" of {size(self._total)} ({100 * self._done / self._total:.0f} %)"
        line += f", {size(rate)}/s"
        if self._total and rate > 0 and self._done < self._total:
            line += f", {(self._total - self._done) / rate:.0f} s left"
        return line
