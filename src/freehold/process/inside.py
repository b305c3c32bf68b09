"""What a child does first: find its socket, arrange to die with its parent, confine itself."""

from __future__ import annotations

import ctypes
import logging
import os
import resource
import signal
import socket
import sys
from pathlib import Path

from freehold.process.confine import confine

log = logging.getLogger(__name__)

_PR_SET_PDEATHSIG = 1


def connect(argument: str) -> socket.socket:
    """The socket whose descriptor number the parent passed as the first argument."""
    sock = socket.socket(fileno=int(argument))
    sock.setblocking(True)
    return sock


def die_with_parent() -> None:
    """Be killed by the kernel when the parent dies, however it dies (Linux).

    Elsewhere the closed socket is the only sign: a child must treat the end of its
    channel as the order to leave. A parent that died before the request took
    effect is noticed by its socket as well.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def leave_no_core() -> None:
    """A crash must not write the weights, or a prompt, to disk."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def give_up_the_rest(writable: tuple[Path, ...] = ()) -> None:
    """The network and writing to files, as far as the system lets a process give them up."""
    confined = confine(writable)
    for what, layer in (("network", confined.network), ("files", confined.files)):
        if not layer.active:
            log.warning("Not confined (%s): %s.", what, layer.detail)


def settle_in(argument: str, writable: tuple[Path, ...] = ()) -> socket.socket:
    """All of the above, in order; returns the socket. Call it while there is one thread.

    ``writable`` are files, already there, that the child is to write.
    """
    die_with_parent()
    leave_no_core()
    give_up_the_rest(writable)
    return connect(argument)


def leave_now(status: int) -> None:
    """End the process without unwinding: native threads may be anywhere."""
    os._exit(status)
