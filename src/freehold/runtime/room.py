"""How much memory the models may take together, and how much each of them needs.

What a model needs is estimated until it has run here; from then on it is what was measured, kept
in the store's ``state`` folder by weights and setup.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import psutil

from freehold.domain.errors import Unavailable
from freehold.machine.computer import Memory
from freehold.process.decoding import from_json
from freehold.weights.files import write_atomically
from freehold.weights.library import LocalModel

log = logging.getLogger(__name__)

# Left to everything else where no budget is set: a seventh, and never more than this.
RESERVE_SHARE = 1 / 7
RESERVE_MOST = 2 * 1024**3
_REMEMBERED = 256


class Measurement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The most that a worker has taken, its mapped weights included."""

    model: str
    bytes: int
    at: str


class _Kept(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: int = 1
    measured: dict[str, Measurement] = {}


@dataclass(frozen=True)
class Process:
    """Bytes of one process that are in memory; ``own`` of them are backed by no file."""

    resident: int
    own: int


def process(pid: int) -> Process | None:
    """With all it has started. None: it is gone, or not ours to see."""
    try:
        memory = psutil.Process(pid).memory_info()
    except psutil.Error:
        return None
    own = memory.rss - getattr(memory, "shared", 0)
    # What others share with it is counted with it.
    theirs = sum(map(_own, _descendants(pid)))
    return Process(memory.rss + theirs, own + theirs)


def _own(pid: int) -> int:
    try:
        memory = psutil.Process(pid).memory_info()
    except psutil.Error:
        return 0
    return int(memory.rss - getattr(memory, "shared", 0))


def _descendants(pid: int) -> list[int]:
    """Where the kernel lists them; asking every process of the machine would take too long."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            found += map(int, (thread / "children").read_text().split())
    return [each for child in found for each in (child, *_descendants(child))]


@dataclass(frozen=True)
class Room:
    """``budget`` bytes are for all models together; None: what `allowed` finds.

    ``setup`` names all besides the weights that changes what a model needs.
    """

    state: Path
    budget: int | None
    memory: Callable[[], Memory]
    estimate: Callable[[LocalModel], int]
    setup: str = ""
    _known: dict[str, Measurement] = field(default_factory=dict)

    def allowed(self, workers: Iterable[int]) -> int:
        """Bytes for all models together; ``workers`` are the processes that hold them now.

        Without a budget: the machine's memory, or the container's, less the reserve; and no more
        than other programs leave at this moment. What our workers have mapped from files is
        available in the system's count, what is their own is not.
        """
        if self.budget is not None:
            return self.budget
        memory = self.memory()
        found = [taken.own for pid in workers if (taken := process(pid)) is not None]
        most = memory.total - min(int(memory.total * RESERVE_SHARE), RESERVE_MOST)
        return min(most, memory.available + sum(found))

    def needed(self, model: LocalModel) -> int:
        """Bytes: as measured here before, else as estimated. Reads a small file."""
        if not self._known:
            self._known.update(self._read())
        known = self._known.get(self._key(model))
        return known.bytes if known is not None else self.estimate(model)

    def remember(self, model: LocalModel, size: int) -> None:
        """Keep what was measured. A disk that is full costs only that. Writes a small file."""
        key = self._key(model)
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        # Another server of this store may have written meanwhile.
        merged = {**self._read(), key: Measurement(model.name, size, now)}
        latest = sorted(merged.items(), key=lambda item: item[1].at)[-_REMEMBERED:]
        self._known.clear()
        self._known.update(latest)
        with contextlib.suppress(OSError, Unavailable):
            write_atomically(self._path, msgspec.json.encode(_Kept(measured=dict(latest))))

    @property
    def _path(self) -> Path:
        return self.state / "memory.json"

    def _key(self, model: LocalModel) -> str:
        return f"{model.digest} {self.setup}"

    def _read(self) -> dict[str, Measurement]:
        try:
            kept = from_json(self._path.read_bytes(), _Kept)
        except FileNotFoundError:
            return {}
        except (OSError, msgspec.DecodeError) as error:
            log.warning("what models need is estimated again: %s: %s", self._path.name, error)
            return {}
        return kept.measured if kept.version == 1 else {}
