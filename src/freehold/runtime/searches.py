"""Searches for the best profile that are begun in a running server, one at a time.

    begin ──▶ running ──▶ done       its result is in the store, and the next load uses it
                 ├──stop─▶ stopped    what was measured is kept: beginning again goes on with it
                 └───────▶ failed     with a sentence that says why

Each is a child, `freehold tune MODEL --events`, that measures as the command does; we read what it
tells. The model is unloaded first: what is measured must have the machine to itself. Used from one
event loop.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import json
import logging
import signal
import sys
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from freehold.domain.error_values import Values
from freehold.domain.errors import FreeholdError, StoreBusy, Unavailable
from freehold.domain.sentences import Sentence, from_data
from freehold.domain.setting_table import Group
from freehold.domain.settings import Settings, as_variables, environment
from freehold.process.child import child_environment, describe_exit
from freehold.runtime.manager import Manager

log = logging.getLogger(__name__)

_START = "from freehold.cli.main import main; main()"
_MAX_LINE = 4 * 1024 * 1024
_LINES_KEPT = 20
# After being told to stop: time to write down what was measured.
_STOP_SECONDS = 15.0

State = Literal["running", "done", "stopped", "failed"]


@dataclass(frozen=True)
class SearchWishes:
    """As the options of `freehold tune`; None: its defaults. No ``formats``: the weights stay."""

    minutes: float
    max_loss: float
    users: int | None = None
    depth: int | None = None
    formats: tuple[str, ...] | None = None

    def arguments(self) -> tuple[str, ...]:
        told = [f"--minutes={self.minutes}", f"--max-loss={self.max_loss}"]
        if self.users is not None:
            told.append(f"--users={self.users}")
        if self.depth is not None:
            told.append(f"--depth={self.depth}")
        if self.formats is not None:
            told.append(f"--formats={','.join(self.formats) or 'none'}")
        return tuple(told)


@dataclass
class Search:
    """The latest search. ``done`` of ``count`` measurements of ``stage`` are made; ``ends`` is when
    it should be over, by `time.monotonic`. ``unloaded``: the model was in memory before.
    ``told``: it has said what it found.
    """

    model: str
    wishes: SearchWishes
    began: datetime
    unloaded: bool = False
    state: State = "running"
    stage: str | None = None
    done: int = 0
    count: int = 0
    ends: float | None = None
    notes: list[Sentence] = field(default_factory=list)
    error: str | None = None
    error_code: str | None = None
    error_values: Values = field(default_factory=dict)
    told: bool = False

    @property
    def seconds_left(self) -> float | None:
        if self.ends is None or self.state != "running":
            return None
        return max(0.0, self.ends - time.monotonic())

    def hear(self, told: dict[str, Any]) -> None:
        """One event of the child's: see `cli.tune_watchers.EventWatcher`."""
        match told:
            case {"event": "stage", "name": str(name), "count": int(count)}:
                self.stage, self.done, self.count = name, 0, count
            case {"event": "done"}:
                self.done += 1
            case {"event": "remaining", "seconds": float() | int() as seconds}:
                self.ends = time.monotonic() + seconds
            case {"event": "note", "text": str(), "code": str(), "values": dict()}:
                self.notes.append(from_data(told))
            case {"event": "failed", "code": str(code), "message": str(message), "values": dict()}:
                self.error, self.error_code = message, code
                self.error_values = told["values"]
            case {"event": "result"}:
                self.told = True


class Searches:
    """Of one server. ``latest`` is the one that runs, or the last that ran."""

    def __init__(self, settings: Settings, manager: Manager) -> None:
        self._settings = settings
        self._manager = manager
        self._following: asyncio.Task[None] | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = False
        self._closed = False
        self.latest: Search | None = None

    async def begin(self, name: str, wishes: SearchWishes) -> Search:
        """Unload the model and begin. Raises as `Manager.describe`, `InvalidRequest` for another
        server's model, `StoreBusy` while another search runs, and `Unavailable` while somebody uses
        the model or where it was stopped before it began.
        """
        described = await asyncio.to_thread(self._manager.describe, name)
        model = described.alias_of or described.name
        reference = self._manager.known.local(name)
        if self._closed:
            raise Unavailable("The server is stopping.")
        if self.latest is not None and self.latest.state == "running":
            raise StoreBusy(
                f"This server is tuning {self.latest.model} already.",
                hint="Wait until that has ended, or stop it.",
                values={"model": self.latest.model},
            )
        standing = self._manager.standing(name)
        if standing is not None and (standing.resident.users or standing.resident.waiting):
            raise Unavailable(
                f"{model} is being used, and measuring it would tell nothing.",
                hint="Wait until its requests are over, or stop them.",
                values={"model": model},
            )
        search = Search(model, wishes, datetime.now(UTC), unloaded=standing is not None)
        self.latest, self._stopping = search, False
        try:
            if search.unloaded:
                await self._manager.dismiss(name)
            self._require_wanted()
            self._process = await self._started(reference, wishes)
        except BaseException as error:
            if self._stopping:
                search.state = "stopped"
            else:
                search.state, search.error = "failed", "It could not be started."
                if isinstance(error, FreeholdError):
                    search.error_code, search.error_values = error.code, error.values
            raise
        self._following = asyncio.create_task(self._follow(search, self._process), name="tuning")
        if self._stopping or self._closed:  # meanwhile
            await self.stop()
        return search

    def _require_wanted(self) -> None:
        """Raise `Unavailable` for a search that was stopped before it began."""
        if self._stopping or self._closed:
            raise Unavailable("The search was stopped before it began.")

    async def stop(self) -> Search | None:
        """End what runs, and wait for that; what was measured is kept."""
        self._stopping = True  # also for one that is just being started
        following, process = self._following, self._process
        if following is not None and process is not None and not following.done():
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGINT)
            _, still = await asyncio.wait({following}, timeout=_STOP_SECONDS)
            if still:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await asyncio.wait({following})
        return self.latest

    async def close(self) -> None:
        """The end of the server is the end of what it began."""
        self._closed = True
        await self.stop()

    async def _started(self, reference: str, wishes: SearchWishes) -> asyncio.subprocess.Process:
        groups = (Group.ENGINE, Group.ANSWERS, Group.MODELS)
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-c", _START, "tune", "--events"),
            *(*wishes.arguments(), "--", reference),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=_MAX_LINE,
            # Measuring needs no network, whatever the server may use.
            env={
                **child_environment(environment()),
                **as_variables(self._settings, groups),
                "FREEHOLD_OFFLINE": "1",
            },
            start_new_session=True,
        )

    async def _follow(self, search: Search, process: asyncio.subprocess.Process) -> None:
        last: collections.deque[str] = collections.deque(maxlen=_LINES_KEPT)
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            await asyncio.gather(_heard(search, process.stdout), _kept(process.stderr, last))
        except (ValueError, FreeholdError) as error:  # what it says makes no sense
            log.error("a search said something that is none of its events", exc_info=error)
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        status = await process.wait()
        if search.told and status == 0:
            search.state = "done"
            return
        if self._stopping:
            search.state = "stopped"
            return
        if search.error is None:
            log.warning("a search %s:\n%s", describe_exit(status), "\n".join(last))
            search.error = f"The search {describe_exit(status)}; the server's log has the details."
            search.error_code = "search_failed"
        search.state = "failed"


async def _heard(search: Search, stdout: asyncio.StreamReader) -> None:
    while line := await stdout.readline():
        told = json.loads(line)
        if isinstance(told, dict):
            search.hear(told)


async def _kept(stderr: asyncio.StreamReader, last: collections.deque[str]) -> None:
    while line := await stderr.readline():
        last.append(line.decode("utf-8", "replace").rstrip())
