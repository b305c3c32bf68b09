"""What a child gives up before it reads a stranger's byte: the network, and writing to files.

Each layer is asked of the kernel and may be missing: an older kernel, another system, a container
that forbids it. A child runs all the same, and says which layers it has.

    network   seccomp: no socket but UNIX ones, no way to address a peer (the wire was
              inherited), no io_uring, no reaching into another process
    files     Landlock: read everything, execute nothing, write nothing but the file a child is
              there to write
"""

from __future__ import annotations

import errno
import functools
import platform
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec

from freehold.process import landlock, seccomp
from freehold.process.kernel import Machine, this_machine
from freehold.process.seccomp import Rule

_REFUSED = seccomp.refuse(errno.EPERM)
_ONLY_UNIX = (socket.AF_UNIX,)

# A connection through a UNIX socket may ask a name server. io_uring makes and connects sockets
# without the other calls named here.
_NO_NETWORK = (
    Rule("socket", _REFUSED, argument=0, harmless=_ONLY_UNIX),
    Rule("socketpair", _REFUSED, argument=0, harmless=_ONLY_UNIX),
    *(Rule(name, _REFUSED) for name in ("io_uring_setup", "io_uring_enter", "io_uring_register")),
    Rule("connect", _REFUSED),
)

# A program that has the network may listen on a UNIX socket, or be a process of the same user.
_NO_HELPERS = (
    Rule("sendto", _REFUSED, argument=5, harmless=(0,)),  # the length of an address
    *(Rule(name, _REFUSED) for name in ("sendmsg", "sendmmsg")),
    *(Rule(name, _REFUSED) for name in ("ptrace", "process_vm_readv", "process_vm_writev")),
    Rule("pidfd_getfd", _REFUSED),
)


class Layer(msgspec.Struct, frozen=True):
    """``detail``: by what it is active, or why it is not."""

    active: bool
    detail: str


class Confinement(msgspec.Struct, frozen=True):
    """What a process can no longer do."""

    network: Layer
    files: Layer


@functools.cache
def confine(writable: tuple[Path, ...] = ()) -> Confinement:
    """Confine this process, once and for good. Never fails: see the layers.

    ``writable`` are the files, already there, that the process is to write.

    Landlock binds only the calling thread and those it starts, so call this before there
    are others.
    """
    files = _layer(lambda machine: _no_writing(machine, writable))
    return Confinement(files=files, network=_layer(_no_egress))


@functools.cache
def deny_network() -> Layer:
    """Make no network socket and no connection from here on; those there are go on working.

    For a server that is offline. Python looks a name up by itself when it is given to
    `socket.connect`, before any hook is told; without a new socket it cannot ask.
    """
    return _layer(lambda machine: _filter(machine, _NO_NETWORK))


def _layer(apply: Callable[[Machine], Layer]) -> Layer:
    machine = this_machine()
    if machine is None:
        return Layer(False, f"not possible on {sys.platform} ({platform.machine()})")
    try:
        return apply(machine)
    except OSError as error:
        return Layer(False, f"the kernel refused: {error.strerror}")


def _no_egress(machine: Machine) -> Layer:
    return _filter(machine, (*_NO_NETWORK, *_NO_HELPERS))


def _filter(machine: Machine, rules: tuple[Rule, ...]) -> Layer:
    seccomp.install(machine, seccomp.compile_filter(machine, rules), seccomp.ALL_THREADS)
    return Layer(True, "seccomp")


def _no_writing(machine: Machine, writable: tuple[Path, ...]) -> Layer:
    others = _threads() - 1
    try:
        version = landlock.restrict(machine, writable)
    except OSError as error:
        if error.errno == errno.ENOSYS:
            return Layer(False, "this kernel has no Landlock")
        if error.errno == errno.EOPNOTSUPP:
            return Layer(False, "Landlock is switched off in this kernel")
        raise
    if others:
        return Layer(False, f"Landlock came too late for {others} threads")
    return Layer(True, f"Landlock, version {version}")


def _threads() -> int:
    """Native ones too, where the system tells."""
    try:
        return len(list(Path("/proc/self/task").iterdir()))
    except OSError:
        return threading.active_count()
