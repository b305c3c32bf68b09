"""What a service manager is told, over a real socket."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from freehold.process.notify import Notifier
from tests.support.running import run


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(5)
        yield sock


def address(manager: socket.socket) -> str:
    return str(manager.getsockname())


def heard(manager: socket.socket) -> list[str]:
    return manager.recv(4096).decode().splitlines()


def test_the_messages(manager: socket.socket) -> None:
    notifier = Notifier(address(manager))
    notifier.status("Loading\nREADY=1")  # one line, whatever a model is called
    assert heard(manager) == ["STATUS=Loading READY=1"]
    notifier.ready()
    assert heard(manager)[0] == "READY=1"
    notifier.reloading()
    reloading, stamp = heard(manager)
    assert reloading == "RELOADING=1"
    assert int(stamp.removeprefix("MONOTONIC_USEC=")) > 0
    notifier.stopping()
    assert heard(manager)[0] == "STOPPING=1"


def test_signs_of_life_come_twice_as_often_as_they_must(manager: socket.socket) -> None:
    notifier = Notifier.from_environment(
        {"NOTIFY_SOCKET": address(manager), "WATCHDOG_USEC": "100000"}
    )
    assert notifier.watchdog == 0.1

    async def live() -> None:
        alive = asyncio.create_task(notifier.signs_of_life())
        for _ in range(3):
            assert await asyncio.to_thread(heard, manager) == ["WATCHDOG=1"]
        alive.cancel()

    run(live())


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"NOTIFY_SOCKET": "vsock:2:1"},
        {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "many"},
        {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "5", "WATCHDOG_PID": "1"},
    ],
)
def test_who_is_not_watched_sends_no_signs_of_life(variables: dict[str, str]) -> None:
    run(Notifier.from_environment(variables).signs_of_life(), seconds=1)


def test_nobody_listens() -> None:
    Notifier().ready()
    Notifier("/nowhere/at/all").ready()  # is logged, and nothing else


@pytest.mark.skipif(sys.platform != "linux", reason="offline is enforced by seccomp")
def test_offline_may_still_say_it(manager: socket.socket) -> None:
    code = (
        "from freehold.process.confine import deny_network\n"
        "from freehold.process.notify import Notifier\n"
        "from freehold.trust.egress import refuse_egress\n"
        "refuse_egress(); deny_network(); Notifier.from_environment().ready()\n"
    )
    env = {**os.environ, "NOTIFY_SOCKET": address(manager)}
    subprocess.run([sys.executable, "-P", "-c", code], env=env, check=True)
    assert heard(manager)[0] == "READY=1"
