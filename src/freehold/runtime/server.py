"""A running server's address, written where other commands of the same user find it.

One small file in the store for each server, naming a process and its address. A file is not
believed: whoever reads it asks the server for its instance id first.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

import msgspec
import psutil

from freehold.process.decoding import from_json
from freehold.weights.files import write_atomically


@dataclass(frozen=True)
class ServerAddress:
    """``instance`` is random for each server process and repeated by its ``/healthz``."""

    pid: int
    url: str
    instance: str


def _folder(home: Path) -> Path:
    return home / "state" / "servers"


def announce(home: Path, address: ServerAddress) -> None:
    write_atomically(_folder(home) / f"{address.instance}.json", msgspec.json.encode(address))


def withdraw(home: Path, address: ServerAddress) -> None:
    (_folder(home) / f"{address.instance}.json").unlink(missing_ok=True)


def find_all(home: Path) -> tuple[ServerAddress, ...]:
    """Announced servers whose process still exists, by address; what others left is removed."""
    found = []
    for path in _folder(home).glob("*.json"):
        try:
            address = from_json(path.read_bytes(), ServerAddress)
        except (OSError, msgspec.DecodeError):
            continue
        if psutil.pid_exists(address.pid):
            found.append(address)
        else:
            with contextlib.suppress(OSError):
                path.unlink()
    return tuple(sorted(found, key=lambda address: address.url))
