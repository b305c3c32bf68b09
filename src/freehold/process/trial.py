"""Try in a fresh process what a confined child must not be able to do.

Run as ``python -P -m freehold.process.trial MODULE…``: imports these modules, as the children do
before they confine themselves, confines itself, tries, and prints a `Confinement` as JSON. A
layer that was put on and does not hold is not active.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import socket
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec

from freehold.process.confine import Layer, confine
from freehold.process.kernel import call, this_machine

_FAMILIES = ("AF_INET", "AF_INET6", "AF_PACKET", "AF_NETLINK", "AF_VSOCK")
_RAW_ONLY = ("AF_PACKET", "AF_NETLINK")


def network_holes() -> list[str]:
    """What of the network is still possible on this thread."""
    found = [f"a socket of {name}" for name in _FAMILIES if _possible(_socket_of(name))]
    if _possible(_io_uring):
        found.append("io_uring")
    return found


def folders_of_ours() -> tuple[str, ...]:
    """Where this process can write; to be asked before it no longer can."""
    candidates = {tempfile.gettempdir(), str(Path.home()), str(Path.cwd())}
    return tuple(sorted(folder for folder in candidates if os.access(folder, os.W_OK)))


def file_holes(folders: tuple[str, ...]) -> list[str]:
    """Which writing is still possible on this thread."""
    return [f"a new file in {folder}" for folder in folders if _possible(_writer(folder))]


def _possible(attempt: Callable[[], None]) -> bool:
    try:
        attempt()
    except PermissionError:
        return False
    except OSError:  # the system has no such thing, or it is broken: nothing was denied by us
        return False
    return True


def _socket_of(name: str) -> Callable[[], None]:
    def make() -> None:
        family = getattr(socket, name, None)
        if family is None:
            raise OSError(f"{name} is not known here")
        socket.socket(family, socket.SOCK_RAW if name in _RAW_ONLY else socket.SOCK_STREAM).close()

    return make


def _io_uring() -> None:
    machine = this_machine()
    if machine is None:
        raise OSError("no io_uring here")
    parameters = ctypes.create_string_buffer(120)
    os.close(call(machine, "io_uring_setup", ctypes.c_uint32(1), parameters))


def _writer(folder: str) -> Callable[[], None]:
    def write() -> None:
        path = Path(folder) / f".freehold-trial-{os.getpid()}"
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        path.unlink()

    return write


def on_a_thread(holes: Callable[[], list[str]]) -> list[str]:
    """The same from a thread that was started after the confinement."""
    found: list[str] = []
    thread = threading.Thread(target=lambda: found.extend(holes()))
    thread.start()
    thread.join()
    return found


def judged(layer: Layer, holes: Callable[[], list[str]]) -> Layer:
    found = sorted({*holes(), *on_a_thread(holes)})
    if layer.active and found:
        return Layer(False, f"{layer.detail}, but it did not prevent {' and '.join(found)}")
    return layer


def main(modules: list[str]) -> None:
    for module in modules:
        importlib.import_module(module)
    folders = folders_of_ours()
    claimed = confine()
    tried = msgspec.structs.replace(
        claimed,
        network=judged(claimed.network, network_holes),
        files=judged(claimed.files, lambda: file_holes(folders)),
    )
    with contextlib.suppress(BrokenPipeError):
        print(msgspec.json.encode(tried).decode())


if __name__ == "__main__":
    main(sys.argv[1:])
