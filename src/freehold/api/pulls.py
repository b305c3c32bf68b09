"""Models on their way here: each pull has a thread, and is watched by a client or by nobody.

    begin ──▶ going ──▶ done | failed
                │
                └─ stop ─▶ stopping ──▶ stopped      begun again, it goes on from where it was

A pull whose client waits ends when that leaves. One in the background goes on, whoever looks, and
what became of it is told until somebody takes it away.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from freehold.api.problem import RETRY_AFTER_SECONDS, Problem, Refused, problem_of, unexpected
from freehold.domain.errors import FreeholdError, NotFound
from freehold.trust.acquire import Acquired, acquire
from freehold.trust.dossier import Dossiers
from freehold.weights.library import Library
from freehold.weights.reference import Reference, UrlReference

MOST_PULLS = 4
# Of those in the background that are over.
MOST_TOLD = 32
_LAST_SECONDS = 2.0

State = Literal["going", "stopping", "stopped", "failed", "done"]


class Abandoned(Exception):
    """Nobody wants this pull any more; what has arrived is kept."""


class PullNotFound(NotFound):
    """Nothing of this name is fetched in the background."""

    code = "pull_not_found"

    def __init__(self, model: str) -> None:
        super().__init__(
            f"{model!r} is not being fetched in the background.",
            hint="GET /freehold/v1/pulls tells what is.",
            values={"model": model},
        )


@dataclass(frozen=True)
class Telling:
    """What there is to tell: a note, or how far a file is, in bytes."""

    status: str
    total: int | None = None
    completed: int | None = None


class Watch:
    """A `weights.progress.Progress` told from the pull's thread and looked at from the event loop.

    After `stop` it raises `Abandoned` in the pull's thread at the next chance.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._notes: list[str] = []
        self._file: str | None = None
        self._total: int | None = None
        self._completed = 0
        self._doing: str | None = None
        self._news = False
        self._stopped = False

    def begin(self, name: str, total: int | None, done: int) -> None:
        with self._telling():
            self._file, self._total, self._completed, self._doing = name, total, done, None

    def advance(self, count: int) -> None:
        with self._telling():
            self._completed += count

    def end(self) -> None:
        """Nothing to tell: the pull goes on, or says why not."""

    def status(self, text: str) -> None:
        with self._telling():
            self._doing = text

    def note(self, text: str) -> None:
        with self._telling():
            self._notes.append(text)

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        if self._stopped:
            raise Abandoned
        with self._lock:
            yield
            self._news = True

    def stop(self) -> None:
        self._stopped = True

    @property
    def stopped(self) -> bool:
        return self._stopped

    @property
    def so_far(self) -> tuple[int, int | None]:
        """Bytes that have come, and of how many."""
        with self._lock:
            return self._completed, self._total

    def taken(self) -> list[Telling]:
        """What is new since the last call."""
        with self._lock:
            told = [Telling(note) for note in self._notes]
            self._notes.clear()
            if self._news and self._file is not None:
                doing = "" if self._doing is None else f": {self._doing}"
                told.append(Telling(f"pulling {self._file}{doing}", self._total, self._completed))
            self._news = False
        return told


@dataclass(eq=False)
class Pull:
    """``model`` as it was asked for. ``digest``: of the file that comes, where it is known before.
    ``problem``: why it has failed. Used from one event loop.
    """

    model: str
    digest: str | None
    background: bool
    watch: Watch
    pulling: asyncio.Future[Acquired]
    problem: Problem | None = None

    @property
    def state(self) -> State:
        if not self.pulling.done():
            return "stopping" if self.watch.stopped else "going"
        match self.pulling.exception():
            case None:
                return "done"
            case Abandoned():
                return "stopped"
            case _:
                return "failed"

    def over(self, pulling: asyncio.Future[Acquired]) -> None:
        """Note why it ended: told many times, and logged once."""
        error = pulling.exception()
        if not self.background or error is None or isinstance(error, Abandoned):
            return
        if isinstance(error, FreeholdError):
            self.problem = problem_of(error)
        elif isinstance(error, Exception):
            self.problem = unexpected(error)


class Pulls:
    """The pulls of one server. ``most`` go on at a time. Used from its event loop."""

    def __init__(self, most: int = MOST_PULLS) -> None:
        self._most = most
        self._going: dict[asyncio.Future[Acquired], Pull] = {}
        self._background: dict[str, Pull] = {}

    def told(self) -> list[Pull]:
        """Those that go on, and those in the background that are over. One that nobody waits for
        any more is told until its thread has noticed.
        """
        waited_for = [pull for pull in self._going.values() if not pull.background]
        return [*waited_for, *self._background.values()]

    async def begin(self, dossiers: Dossiers, name: str, asked_for: str) -> Pull:
        """For a client that waits, who stops it when it leaves. ``asked_for``: its word for
        ``name``. Raises what `Library.reference` does, and `Refused` if too many pulls go on; what
        `acquire` raises is raised by ``pulling``.
        """
        reference = await asyncio.to_thread(dossiers.library.reference, name)
        return self._begin(dossiers, reference, name, asked_for, background=False)

    async def begin_in_background(self, dossiers: Dossiers, name: str, asked_for: str) -> Pull:
        """One that goes on already goes on. Raises as `begin`."""
        reference = await asyncio.to_thread(dossiers.library.reference, name)
        known = self._background.get(name)
        if known is not None and known.state == "going":
            return known
        begun = self._begin(dossiers, reference, name, asked_for, background=True)
        self._background.pop(name, None)  # the latest comes last
        self._background[name] = begun
        over = [each for each, pull in self._background.items() if pull.pulling.done()]
        for each in over[: max(0, len(over) - MOST_TOLD)]:
            del self._background[each]
        return begun

    def stop(self, name: str) -> Pull:
        """End one in the background, or take one away that is over. Raises `PullNotFound`."""
        known = self._background.get(name)
        if known is None:
            raise PullNotFound(name)
        if known.pulling.done():
            del self._background[name]
        else:
            known.watch.stop()
        return known

    async def close(self) -> None:
        """End them all; what has come is kept."""
        for pull in self._going.values():
            pull.watch.stop()
        if self._going:
            await asyncio.wait(set(self._going), timeout=_LAST_SECONDS)

    def _begin(
        self,
        dossiers: Dossiers,
        reference: Reference,
        name: str,
        asked_for: str,
        *,
        background: bool,
    ) -> Pull:
        if len(self._going) >= self._most:
            raise Refused(
                Problem(
                    429,
                    "too_many_pulls",
                    f"{len(self._going)} models are being pulled already. "
                    "Ask again when one is here.",
                    retry_after=RETRY_AFTER_SECONDS,
                    values={"most": self._most},
                )
            )
        watch = Watch()
        pulling = _in_a_thread(dossiers, name, watch)
        digest = _known_digest(dossiers.library, reference)
        pull = self._going[pulling] = Pull(asked_for, digest, background, watch, pulling)
        pulling.add_done_callback(pull.over)
        pulling.add_done_callback(self._over)
        return pull

    def _over(self, pulling: asyncio.Future[Acquired]) -> None:
        """When its thread has ended, which may be long after its client has left."""
        del self._going[pulling]


def _known_digest(library: Library, reference: Reference) -> str | None:
    """The digest of a model in one file, where it is known before the file is asked for."""
    if isinstance(reference, UrlReference):
        return f"sha256:{reference.sha256}"
    row = library.row(reference)
    file = row.default_file if row is not None else None
    return f"sha256:{file.sha256}" if file is not None and file.sha256 is not None else None


def _in_a_thread(dossiers: Dossiers, name: str, watch: Watch) -> asyncio.Future[Acquired]:
    """A thread of its own: pulls take long, and the pool's threads load models."""
    done: concurrent.futures.Future[Acquired] = concurrent.futures.Future()
    done.set_running_or_notify_cancel()

    def pull() -> None:
        try:
            done.set_result(acquire(dossiers, name, watch))
        except Exception as error:  # noqa: BLE001 - the end of the thread: whoever waits raises it
            done.set_exception(error)

    threading.Thread(target=pull, name=f"pull {name}", daemon=True).start()
    return asyncio.wrap_future(done)
