"""Where a measurement was made: the machine, the versions, the source it ran from."""

from __future__ import annotations

import platform
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import freehold
from freehold.domain.settings import environment
from freehold.lab.bench.report import Surroundings
from freehold.machine.probe import probe

_PACKAGES = ("freehold", "llama-cpp-python")
_COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")


def surroundings(home: Path) -> Surroundings:
    """Of this process now."""
    computer = probe(home, environment())
    return Surroundings(
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        processor=computer.processor,
        memory=computer.memory.total,
        gpus=tuple(gpu.name for gpu in computer.gpus),
        versions={**_versions(), "python": platform.python_version()},
        commit=commit(Path(freehold.__file__).parents[2]),
    )


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def commit(root: Path) -> str | None:
    """The commit checked out at ``root``; None where that is no repository."""
    folder = root / ".git"
    try:
        head = (folder / "HEAD").read_text().strip()
        if not head.startswith("ref: "):
            return head if _COMMIT.fullmatch(head) else None
        name = head.removeprefix("ref: ")
        loose = folder / name
        if loose.is_file():
            found = loose.read_text().strip()
            return found if _COMMIT.fullmatch(found) else None
        for line in (folder / "packed-refs").read_text().splitlines():
            digest, _, packed = line.partition(" ")
            if packed == name:
                return digest
    except OSError:
        pass
    return None
