"""What searches for a profile have left in the store: their results, and what was interrupted."""

from __future__ import annotations

import logging
from pathlib import Path

import msgspec

from freehold.machine.tuning import Tuning
from freehold.process.decoding import from_json
from freehold.weights.files import is_sha256, write_atomically

log = logging.getLogger(__name__)


class Tuned:
    """Of one store, one for each digest that was tuned."""

    def __init__(self, home: Path) -> None:
        self._results = home / "state" / "tuned"
        self._journals = home / "state" / "tuning"

    def get(self, digest: str) -> Tuning | None:
        """None too for one that is damaged or of another format; the log says so."""
        path = self._path(digest)
        try:
            return from_json(path.read_bytes(), Tuning)
        except FileNotFoundError:
            return None
        except (msgspec.DecodeError, OSError) as error:
            log.warning("the result %s cannot be read and is ignored: %s", path.name, error)
            return None

    def put(self, tuning: Tuning) -> None:
        """Raises `DiskFull`."""
        data = msgspec.json.format(msgspec.json.encode(tuning), indent=2)
        write_atomically(self._path(tuning.profile.source), data + b"\n")

    def remove(self, digest: str) -> None:
        self._path(digest).unlink(missing_ok=True)

    def begun(self, digest: str) -> bool:
        """Whether a search was stopped, and another would go on with what it measured."""
        return (self._journals / self._path(digest).name).exists()

    def _path(self, digest: str) -> Path:
        if not is_sha256(digest):
            raise ValueError(f"not a SHA-256: {digest!r}")
        return self._results / f"{digest}.json"
