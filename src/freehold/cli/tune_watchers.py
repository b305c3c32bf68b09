"""Who is told how a search goes on: a terminal, a log, or a program."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import Any

import click

from freehold.cli.common import notice
from freehold.domain import error_values, sentences
from freehold.domain.errors import FreeholdError
from freehold.domain.sentences import Sentence


@dataclass
class LineWatcher:
    """For pipes and logs: a line at each stage."""

    _began: float = field(default_factory=time.monotonic)
    _ends: float | None = None

    def stage(self, name: str, count: int) -> None:
        if count:
            left = "" if self._ends is None else f", {_left(self._ends)}"
            notice(f"{name}: {count} to do{left}")

    def done(self, what: str) -> None:
        """A line for each would be too many."""

    def remaining(self, seconds: float) -> None:
        self._ends = time.monotonic() + seconds

    def note(self, told: Sentence) -> None:
        notice(told)

    def close(self) -> None:
        """Nothing is open."""


class TerminalWatcher:
    """A bar for the stage, and the time left of the whole."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self._bar: Any = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[left]}", markup=False),
            console=Console(stderr=True),
            transient=True,
        )
        self._ends: float | None = None
        self._task = self._bar.add_task("starting", total=1, left="")
        self._bar.start()

    def stage(self, name: str, count: int) -> None:
        self._bar.reset(self._task, total=count, description=name, left=self._words())

    def done(self, what: str) -> None:
        self._bar.update(self._task, advance=1, left=self._words())

    def remaining(self, seconds: float) -> None:
        self._ends = time.monotonic() + seconds

    def note(self, told: Sentence) -> None:
        self._bar.console.print(told, markup=False, highlight=False)

    def close(self) -> None:
        self._bar.stop()

    def _words(self) -> str:
        return "" if self._ends is None else _left(self._ends)


class EventWatcher:
    """For programs: each event is an object on a line of stdout.

    ``stage`` with its ``name`` and ``count``, ``done``, ``remaining`` with ``seconds``, ``note``
    with ``text``, ``code`` and ``values`` (`domain.sentences`); the last is ``result``, with what
    ``--json`` prints, or ``failed`` with ``code``, ``message`` and ``values``.
    """

    def stage(self, name: str, count: int) -> None:
        self._say("stage", name=name, count=count)

    def done(self, what: str) -> None:
        self._say("done")

    def remaining(self, seconds: float) -> None:
        self._say("remaining", seconds=seconds)

    def note(self, told: Sentence) -> None:
        self._say("note", **sentences.as_data(told))

    def result(self, data: dict[str, Any]) -> None:
        self._say("result", **data)

    def failed(self, error: FreeholdError) -> None:
        message = error.message if error.hint is None else f"{error.message} {error.hint}"
        self._say(
            "failed", code=error.code, message=message, values=error_values.as_data(error.values)
        )

    def close(self) -> None:
        """Nothing is open."""

    def _say(self, event: str, **told: Any) -> None:
        click.echo(json.dumps({"event": event, **told}, ensure_ascii=False))


def _left(ends: float) -> str:
    seconds = max(0.0, ends - time.monotonic())
    return f"about {seconds / 60:.0f} min left" if seconds >= 90 else f"about {seconds:.0f} s left"
