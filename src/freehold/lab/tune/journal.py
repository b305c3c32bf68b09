"""What a search has measured so far, on disk after every measurement.

    state/tuning/<weights digest>.json

A search that was stopped, by Ctrl-C or a crash, reads it and measures only what is missing. It
holds for one computer, one build and one way of asking; once a profile is written it is deleted.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

import filelock
import msgspec

from freehold.domain.errors import StoreBusy
from freehold.engines.llamacpp.tuning_messages import Difference
from freehold.lab.tune.grid import Candidate
from freehold.machine.profile import Speeds
from freehold.process.decoding import from_json
from freehold.weights.files import write_atomically

log = logging.getLogger(__name__)


class Circumstances(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What must be the same for old measurements to be worth anything. ``original``: the digest
    that losses are against; none: the source itself."""

    source: str
    computer: str
    build: str
    version: str
    baseline: Candidate
    depth: int
    users: int
    original: str = ""


class Timing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``speeds`` None: it could not be run, for ``failure``. ``round`` counts those of the final;
    0 is a measurement of the search."""

    candidate: Candidate
    round: int
    depth: int
    speeds: Speeds | None
    failure: str | None = None


class Losing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The windows of one candidate; ``planned`` is how they were spread over the text."""

    candidate: Candidate
    planned: int
    windows: tuple[Difference, ...]


class _Pages(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    circumstances: Circumstances
    timings: tuple[Timing, ...] = ()
    losses: tuple[Losing, ...] = ()


class Journal:
    """Of one search. Use `opened`."""

    def __init__(self, path: Path, circumstances: Circumstances) -> None:
        self._path = path
        self._pages = _read(path, circumstances) or _Pages(circumstances)

    @property
    def begun(self) -> bool:
        """Whether an earlier search has left something to go on with."""
        return bool(self._pages.timings)

    def timing(self, candidate: Candidate, number: int, depth: int) -> Timing | None:
        return next(
            (
                known
                for known in self._pages.timings
                if (known.candidate, known.round, known.depth) == (candidate, number, depth)
            ),
            None,
        )

    def losing(self, candidate: Candidate, planned: int) -> Losing | None:
        return next(
            (
                known
                for known in self._pages.losses
                if (known.candidate, known.planned) == (candidate, planned)
            ),
            None,
        )

    def add(self, entry: Timing | Losing) -> None:
        """Safe on disk when this returns. Raises `DiskFull`."""
        pages = self._pages
        if isinstance(entry, Timing):
            pages = msgspec.structs.replace(pages, timings=(*pages.timings, entry))
        else:
            pages = msgspec.structs.replace(pages, losses=(*pages.losses, entry))
        write_atomically(self._path, msgspec.json.encode(pages))
        self._pages = pages

    def finish(self) -> None:
        """The profile is written; the next search begins anew."""
        self._path.unlink(missing_ok=True)


@contextlib.contextmanager
def opened(home: Path, circumstances: Circumstances) -> Iterator[Journal]:
    """The journal of a model, for one search at a time. Raises `StoreBusy`."""
    path = home / "state" / "tuning" / f"{circumstances.source}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(path.with_suffix(".lock"))
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise StoreBusy(
            "This model is being tuned already.", hint="Try again when that has ended."
        ) from None
    try:
        yield Journal(path, circumstances)
    finally:
        lock.release()


def _read(path: Path, circumstances: Circumstances) -> _Pages | None:
    try:
        pages = from_json(path.read_bytes(), _Pages)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        log.warning("%s is damaged, and measuring begins anew: %s", path, error)
        return None
    return pages if pages.circumstances == circumstances else None
