"""The process through which an offline gateway has a vLLM: it was started before the gateway gave
up the network, and has none itself.

gateway (no connections)              doorkeeper (loopback only)       keeper       vLLM
   │  ── start ─────────────────────▶ │  starts it ──────────────────▶ │ ─────────▶ │
   │  ◀─ wire, log, process ────────  │                                             │
   │  ── connect ───────────────────▶ │  ── connects to its UNIX socket ──────────▶ │
   │  ◀─ the connection ────────────  │

It starts keepers, which run the vLLM they were told of at the beginning and nothing else, and
connects to their sockets and to nothing else. It ends with the gateway.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from freehold.domain.settings import environment
from freehold.process.child import child_environment
from freehold.process.confine import Layer
from freehold.process.decoding import from_json
from freehold.process.inside import connect, die_with_parent, leave_no_core
from freehold.process.isolation import leave_network

KEEPER = "freehold.engines.vllm.keeper"
SOCKET = "vllm.sock"
MAX_MESSAGE = 4096


class Asked(msgspec.Struct, frozen=True):
    """``connect`` to the server in this folder; None: start a keeper."""

    connect: str | None = None


class Told(msgspec.Struct, frozen=True):
    """Comes with descriptors: wire, log and process of a keeper, or a connection. ``refused``:
    with none.
    """

    folder: str = ""
    pid: int = 0
    refused: str | None = None


@dataclass
class _House:
    """``python`` is the one keepers may start."""

    python: str
    network: Layer
    folders: set[str] = field(default_factory=set)
    keepers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def answer(self, asked: Asked) -> tuple[Told, list[int]]:
        self.keepers = [each for each in self.keepers if each.poll() is None]
        return self._start() if asked.connect is None else self._connect(asked.connect)

    def _start(self) -> tuple[Told, list[int]]:
        # Short: a UNIX socket's path has 107 characters. Nobody else can enter it.
        folder = tempfile.mkdtemp(prefix="freehold-")
        ours, theirs = socket.socketpair()
        reads, writes = os.pipe()
        words = (str(theirs.fileno()), self.python, self.network.detail)
        keeper = subprocess.Popen(
            [sys.executable, "-P", "-m", KEEPER, *words],
            pass_fds=(theirs.fileno(),),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=writes,
            env=child_environment(environment()),
            start_new_session=True,
        )
        theirs.close()
        os.close(writes)
        self.folders.add(folder)
        self.keepers.append(keeper)
        return Told(folder, keeper.pid), [ours.detach(), reads, os.pidfd_open(keeper.pid)]

    def _connect(self, folder: str) -> tuple[Told, list[int]]:
        if folder not in self.folders:
            return Told(refused="there is no such server"), []
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(str(Path(folder, SOCKET)))
        except OSError as error:
            connection.close()
            return Told(refused=error.strerror or "it failed"), []
        return Told(folder), [connection.detach()]


def main() -> None:
    sock = connect(sys.argv[1])
    die_with_parent()
    leave_no_core()
    network = leave_network()
    sock.send(msgspec.json.encode(network))
    house = _House(sys.argv[2], network)
    while data := sock.recv(MAX_MESSAGE):
        told, descriptors = house.answer(from_json(data, Asked))
        socket.send_fds(sock, [msgspec.json.encode(told)], descriptors)
        for each in descriptors:
            os.close(each)


if __name__ == "__main__":
    main()
