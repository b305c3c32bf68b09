"""A running server's address, written where other commands of the same user find it.

One small file in the store, naming a process and its address. A file is not
believed: whoever reads it asks the server for its instance id first.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

from freehold.weights.files import write_atomically


@dataclass(frozen=True)
class ServerAddress:
    """``instance`` is random for each server process and repeated by its ``/healthz``."""

    pid: int
    url: str
    instance: str


def _path(home: Path) -> Path:
    return home / "state" / "server.json"


def announce(home: Path, address: ServerAddress) -> None:
    write_atomically(_path(home), msgspec.json.encode(address))


def withdraw(home: Path, address: ServerAddress) -> None:
    """Remove the announcement if it still is ours."""
    if find(home) == address:
        _path(home).unlink(missing_ok=True)


def find(home: Path) -> ServerAddress | None:
    """The last announced server; it may be gone."""
    try:
        return msgspec.json.decode(_path(home).read_bytes(), type=ServerAddress)
    except (OSError, msgspec.DecodeError):
        return None
