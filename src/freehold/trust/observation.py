"""Running a program of ours under observation, by the sharpest means this machine has.

strace          all processes, native code, and what was refused
notifications   all processes and native code; not what the kernel had refused before
hook            Python code of the first process
"""

from __future__ import annotations

import os
import socket
import sys
import threading
from typing import Protocol

import psutil

from freehold.process.decoding import json_decoder
from freehold.trust import notifications, strace
from freehold.trust.attempts import WATCHED, Attempt, Process, process_of, short_command
from freehold.trust.egress import Peer
from freehold.trust.watched import Said


class Observation(Protocol):
    """One program, once: start `command` with `descriptors` open, call `started`, and when it
    has ended `attempts`.
    """

    means: str
    unseen: str | None

    def command(self, module: str, *arguments: str) -> list[str]: ...

    @property
    def descriptors(self) -> tuple[int, ...]: ...

    def started(self) -> None: ...

    def program(self, pid: int) -> int:
        """The process of the program itself, where ``pid`` is what was started."""
        ...

    def attempts(self) -> tuple[Attempt, ...]: ...


def observation() -> Observation:
    if strace.usable():
        return ByStrace()
    if notifications.usable():
        return ByNotifications()
    return ByHook()


class ByStrace:
    means = "strace: every process, native code included"
    unseen: str | None = None

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        self._seen: list[Attempt] = []
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def command(self, module: str, *arguments: str) -> list[str]:
        program = (sys.executable, "-P", "-m", module, *arguments)
        return [*strace.prefix(f"/dev/fd/{self._write}"), *program]

    @property
    def descriptors(self) -> tuple[int, ...]:
        return (self._write,)

    def started(self) -> None:
        os.close(self._write)
        self._thread.start()

    def program(self, pid: int) -> int:
        return psutil.Process(pid).children()[0].pid

    def attempts(self) -> tuple[Attempt, ...]:
        self._thread.join()
        return tuple(self._seen)

    def _follow(self) -> None:
        reader = strace.Reader(process_of)
        with os.fdopen(self._read, errors="replace") as lines:
            for line in lines:
                self._seen += reader.read(line)
        self._seen += reader.rest()


class _ByWatched:
    """What the two that run `trust.watched` share."""

    _how: str

    def __init__(self) -> None:
        self._module = ""
        self._ours, self._theirs = socket.socketpair()
        self._seen: list[Attempt] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def command(self, module: str, *arguments: str) -> list[str]:
        self._module = module
        watched = ("-P", "-m", WATCHED, self._how, str(self._theirs.fileno()))
        return [sys.executable, *watched, module, *arguments]

    @property
    def descriptors(self) -> tuple[int, ...]:
        return (self._theirs.fileno(),)

    def started(self) -> None:
        self._theirs.close()
        self._thread.start()

    def program(self, pid: int) -> int:
        return pid

    def attempts(self) -> tuple[Attempt, ...]:
        self._over.set()
        self._thread.join()
        return tuple(self._seen)

    def _follow(self) -> None:
        raise NotImplementedError


class ByNotifications(_ByWatched):
    means = "the kernel's notifications: every process, native code included"
    unseen: str | None = "what the worker and the text child tried and were refused"
    _how = "kernel"

    def _follow(self) -> None:
        with self._ours:
            _, listeners, _, _ = socket.recv_fds(self._ours, 1, 1)
        for listener in listeners:
            notifications.follow(listener, self._seen.append, self._over)
            os.close(listener)


class ByHook(_ByWatched):
    means = "Python's audit hook in the gateway"
    unseen: str | None = "native code and child processes: this system offers no way to see them"
    _how = "hook"

    def _follow(self) -> None:
        decoder = json_decoder(Said)
        with self._ours, self._ours.makefile("rb") as lines:
            for line in lines:
                said = decoder.decode(line)
                peer = Peer(said.family, said.host, said.port)
                name = short_command((sys.executable, "-m", self._module))
                who = Process(said.pid, name)
                self._seen.append(Attempt(who, said.call, peer))
