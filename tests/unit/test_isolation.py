"""A network of its own for a program that is not ours; or the one it has, whole."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="network namespaces are Linux's")

_PROGRAM = """
import ctypes, json, os, socket, sys
from freehold.process.isolation import leave_network

if len(sys.argv) > 1:
    "x".encode("idna")  # loaded while it can be read
    os.setgroups([])
    os.setgid(int(sys.argv[1]))
    os.setuid(int(sys.argv[1]))
    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE: /proc/self is ours again
before = os.readlink("/proc/self/ns/net")
layer = leave_network()
devices = [line.split(":")[0].strip() for line in open("/proc/net/dev").readlines()[2:]]
talked = b""
with socket.create_server(("127.0.0.1", 0)) as server:
    with socket.create_connection(server.getsockname()) as client:
        client.sendall(b"hello")
    talked = server.accept()[0].recv(5)
print(json.dumps({
    "active": layer.active,
    "detail": layer.detail,
    "moved": os.readlink("/proc/self/ns/net") != before,
    "devices": devices,
    "talked": talked.decode(),
    "user": os.geteuid(),
}))
"""
_NOBODY = 65534


def told(*arguments: str) -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, *arguments], capture_output=True, text=True, check=True
    )
    found: dict[str, object] = json.loads(done.stdout)
    return found


def require_one_or_the_other(seen: dict[str, object]) -> None:
    assert seen["moved"] == seen["active"]
    assert seen["talked"] == "hello"  # loopback works in either
    if seen["active"]:
        assert seen["devices"] == ["lo"]
    assert seen["detail"]


def test_there_is_nothing_but_loopback_or_nothing_has_changed() -> None:
    require_one_or_the_other(told())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_the_same_for_an_ordinary_user() -> None:
    seen = told(str(_NOBODY))
    require_one_or_the_other(seen)
    assert seen["user"] == _NOBODY
