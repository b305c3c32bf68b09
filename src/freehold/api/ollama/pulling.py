"""A pull as Ollama's clients watch it: lines while it goes on, an end when they leave."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
from collections.abc import AsyncGenerator, Iterator

from freehold.api.ollama.models_schema import Progress, PullUnderWay
from freehold.api.problem import RETRY_AFTER_SECONDS, Problem, Refused
from freehold.trust.acquire import Acquired, acquire
from freehold.trust.dossier import Dossiers
from freehold.trust.verdict import Verdict
from freehold.weights.library import Library
from freehold.weights.reference import Reference, UrlReference
from freehold.weights.registry import ModelFile

MOST_PULLS = 4
_TELL_SECONDS = 0.1


class Abandoned(Exception):
    """Nobody waits for this pull any more; what has arrived is kept."""


class Watch:
    """A `weights.progress.Progress` told from the pull's thread and looked at from the event loop.

    After `stop` it raises `Abandoned` in the pull's thread at the next chance.
    """

    def __init__(self, digest: str | None) -> None:
        self._digest = digest
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

    def under_way(self, model: str) -> PullUnderWay:
        with self._lock:
            return PullUnderWay(
                model=model, completed=self._completed, total=self._total, stopping=self._stopped
            )

    def taken(self) -> list[Progress]:
        """What is new since the last call."""
        with self._lock:
            lines = [Progress(status=note) for note in self._notes]
            self._notes.clear()
            if self._news and self._file is not None:
                lines.append(self._line(self._file))
            self._news = False
        return lines

    def _line(self, name: str) -> Progress:
        return Progress(
            status=f"pulling {name}" if self._doing is None else f"pulling {name}: {self._doing}",
            digest=self._digest,
            total=self._total,
            completed=self._completed,
        )


class Pulls:
    """The pulls of one server; each has a thread. ``most`` go on at a time."""

    def __init__(self, most: int = MOST_PULLS) -> None:
        self._most = most
        self._going: dict[asyncio.Future[Acquired], tuple[str, Watch]] = {}

    def under_way(self) -> list[PullUnderWay]:
        """One that nobody waits for any more is told until its thread has noticed."""
        return [watch.under_way(model) for model, watch in self._going.values()]

    async def lines(
        self, dossiers: Dossiers, name: str, asked_for: str
    ) -> AsyncGenerator[Progress, None]:
        """Pull, telling how far it is. ``asked_for``: the client's word for ``name``. Raises what
        `acquire` does, and `Refused` if too many pulls go on. Closing it ends the pull.
        """
        reference = await asyncio.to_thread(dossiers.library.reference, name)
        watch = Watch(_known_digest(dossiers.library, reference))
        pulling = self._begin(dossiers, name, asked_for, watch)
        try:
            while not pulling.done():
                await asyncio.wait({pulling}, timeout=_TELL_SECONDS)
                for line in watch.taken():
                    yield line
        finally:
            watch.stop()
        acquired = pulling.result()
        yield Progress(status=_verdict(acquired.dossier.verdict))
        for file in acquired.manifest.files:
            yield _arrived(file)
        yield Progress(status="success")

    def _begin(
        self, dossiers: Dossiers, name: str, asked_for: str, watch: Watch
    ) -> asyncio.Future[Acquired]:
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
        pulling = _in_a_thread(dossiers, name, watch)
        self._going[pulling] = asked_for, watch
        pulling.add_done_callback(self._over)
        return pulling

    def _over(self, pulling: asyncio.Future[Acquired]) -> None:
        """When its thread has ended, which may be long after its client has left."""
        del self._going[pulling]
        if not pulling.cancelled():
            pulling.exception()  # looked at, or asyncio reports one nobody waited for


def _verdict(verdict: Verdict) -> str:
    return (
        f"licence {verdict.concluded or 'unknown'}; "
        f"run: {verdict.run.outcome}, serve: {verdict.serve.outcome}"
    )


def _known_digest(library: Library, reference: Reference) -> str | None:
    """The digest of a model in one file, where it is known before the file is asked for."""
    if isinstance(reference, UrlReference):
        return f"sha256:{reference.sha256}"
    row = library.row(reference)
    file = row.default_file if row is not None else None
    return f"sha256:{file.sha256}" if file is not None and file.sha256 is not None else None


def _arrived(file: ModelFile) -> Progress:
    return Progress(
        status=f"verified {file.name}",
        digest=f"sha256:{file.sha256}",
        total=file.size,
        completed=file.size,
    )


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
