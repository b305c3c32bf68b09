"""Connections planted in freehold's own processes, for tests of who notices and who refuses.

A `sitecustomize` that waits for a process of ours to reach a certain point (an audit event) and
then turns to an address that is nobody's (RFC 5737), once by Python and once by native code.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

HOST = "192.0.2.1"
PYTHON_PORT, NATIVE_PORT = 8001, 8002

_SOURCE = """
import sys

def by_python():
    import socket
    sock = socket.socket(socket.AF_INET)
    sock.setblocking(False)
    sock.connect_ex(({host!r}, {python_port}))

def by_native_code():
    import ctypes, socket, struct
    libc = ctypes.CDLL(None, use_errno=True)
    host = socket.inet_aton({host!r})
    address = struct.pack("=H", 2) + struct.pack("!H4s8x", {native_port}, host)
    made = libc.socket(2, socket.SOCK_STREAM | socket.SOCK_NONBLOCK, 0)
    libc.connect(made, address, len(address))
    return made

def tell(line):
    if {diary!r}:
        with open({diary!r}, "a") as diary:
            diary.write(line + "\\n")

done = []

def plant(event, arguments):
    if event == {event!r} and not done:
        done.append(event)
        try:
            by_python()
            tell("python: done")
        except BaseException as error:
            tell("python: " + type(error).__name__)
        tell("native: " + str(by_native_code()))

if {word!r} in sys.orig_argv:
    sys.addaudithook(plant)
"""


@dataclass(frozen=True)
class Point:
    """A process of ours, by a word of its command line, and an audit event in it."""

    word: str
    event: str


# `serve` binds its socket, and when it starts its first child it has denied itself the network.
GATEWAY_BINDS = Point("serve", "socket.bind")
GATEWAY_STARTS_A_CHILD = Point("serve", "subprocess.Popen")
# A child takes up its wire when it is confined.
WORKER_CONFINED = Point("freehold.engines.llamacpp.worker", "socket.__new__")
TEXT_CHILD_CONFINED = Point("freehold.text.child", "socket.__new__")


def plant(folder: Path, point: Point, diary: Path | None = None) -> dict[str, str]:
    """Write the plant; returns the environment it grows in. ``diary`` is told how it went."""
    folder.mkdir(parents=True, exist_ok=True)
    source = _SOURCE.format(
        host=HOST,
        python_port=PYTHON_PORT,
        native_port=NATIVE_PORT,
        event=point.event,
        word=point.word,
        diary=str(diary or ""),
    )
    (folder / "sitecustomize.py").write_text(source)
    return {"PYTHONPATH": str(folder)}
