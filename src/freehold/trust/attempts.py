"""Attempts to reach a peer, as an observer saw them: who, whom, by which call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from freehold.trust.egress import Peer, family_name


@dataclass(frozen=True)
class Attempt:
    """``note`` is what else there is to say."""

    process: Process
    call: str
    peer: Peer
    note: str = ""

    @property
    def leaves(self) -> bool:
        return self.peer.leaves

    def __str__(self) -> str:
        words = (self.call, family_name(self.peer.family), str(self.peer), self.note)
        said = " ".join(word for word in words if word)
        return f"{said} by {self.process.name or 'a process that is gone'} ({self.process.pid})"

    def as_data(self) -> dict[str, Any]:
        return {
            "process": self.process.name or None,
            "pid": self.process.pid,
            "call": self.call,
            "family": family_name(self.peer.family),
            "address": self.peer.host or None,
            "port": self.peer.port,
            "note": self.note or None,
            "leaves": self.leaves,
        }


WATCHED = "freehold.trust.watched"


@dataclass(frozen=True)
class Process:
    """``name`` is empty where the process has gone."""

    pid: int
    name: str


def process_of(thread: int) -> Process:
    """The process a thread belongs to, ``python -m freehold.text.child`` or the like."""
    folder = Path(f"/proc/{thread}")
    try:
        status = (folder / "status").read_text()
        raw = (folder / "cmdline").read_bytes()
    except OSError:
        return Process(thread, "")
    pid = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("Tgid:"))
    words = raw.decode("utf-8", "replace").rstrip("\0").split("\0")
    return Process(pid, short_command(words))


def short_command(words: Sequence[str]) -> str:
    """The program and, for Python, the module or script it runs."""
    program = Path(words[0]).name
    if "-m" in words[:-1]:
        module, *rest = words[words.index("-m") + 1 :]
        if module == WATCHED and len(rest) > 2:  # how, descriptor, and the program itself
            module = rest[2]
        return f"{program} -m {module}"
    script = next((word for word in words[1:] if not word.startswith("-")), None)
    return f"{program} {Path(script).name}" if script else program
