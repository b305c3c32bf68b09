"""Each means of observation sees what it says it sees."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from freehold.trust import notifications, strace
from freehold.trust.attempts import Attempt
from freehold.trust.observation import (
    ByHook,
    ByNotifications,
    ByStrace,
    Observation,
    observation,
)
from tests.support import talkative

_ROOT = Path(__file__).parents[2]
_PYTHON = {talkative.CONNECT, talkative.SENDTO, talkative.SENDMSG}
_NATIVE = {talkative.NATIVE_CONNECT, talkative.NATIVE_SENDTO, talkative.IN_A_CHILD}


def observed(watch: Observation) -> tuple[Attempt, ...]:
    process = subprocess.Popen(
        watch.command("tests.support.talkative"),
        pass_fds=watch.descriptors,
        env={"PYTHONPATH": str(_ROOT), "PATH": "/usr/bin:/bin"},
    )
    watch.started()
    assert process.wait(60) == 0
    return watch.attempts()


def check(attempts: tuple[Attempt, ...], ports: set[int]) -> None:
    left = [attempt for attempt in attempts if attempt.leaves]
    assert {attempt.peer.port for attempt in left} == ports
    assert {attempt.peer.host for attempt in left} == {talkative.HOST}
    # A process that has gone by the time it is looked up has no name.
    names = {attempt.process.name for attempt in left} - {""}
    assert all(name.endswith("-m tests.support.talkative") for name in names)
    stayed = {attempt.peer.host for attempt in attempts if attempt.peer.port and not attempt.leaves}
    assert stayed == {"127.0.0.1"}


@pytest.mark.skipif(not strace.usable(), reason="strace cannot be used here")
def test_strace_sees_all() -> None:
    check(observed(ByStrace()), _PYTHON | _NATIVE)


@pytest.mark.skipif(not notifications.usable(), reason="this kernel has no notifications")
def test_notifications_see_all() -> None:
    check(observed(ByNotifications()), _PYTHON | _NATIVE)


def test_the_hook_sees_python() -> None:
    check(observed(ByHook()), _PYTHON)


def test_the_sharpest_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strace, "usable", lambda: False)
    monkeypatch.setattr(notifications, "usable", lambda: True)
    assert "kernel" in unused().means
    monkeypatch.setattr(notifications, "usable", lambda: False)
    assert "native code" in (unused().unseen or "")


def unused() -> Observation:
    """What is taken, of a program that never came."""
    taken = observation()
    taken.started()
    assert taken.attempts() == ()
    return taken
