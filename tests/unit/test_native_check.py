"""The start-up probe: asked once for each build, and what follows from its answer."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path

import pytest

from freehold.domain.engine import Kernels
from freehold.domain.errors import LoadFailed
from freehold.engines.llamacpp.build import Build
from freehold.runtime import native
from freehold.runtime.native import Verdict, check, recall, run_probe
from tests.support.running import run

BUILD = Build("0.3.36", (), "first")


class Probe:
    """Exit statuses by kernels; remembers what it was asked."""

    def __init__(self, *, fast: int = 0, plain: int = 0) -> None:
        self.status = {Kernels.FAST: fast, Kernels.PLAIN: plain}
        self.asked: list[Kernels] = []

    async def __call__(self, kernels: Kernels) -> int:
        self.asked.append(kernels)
        return self.status[kernels]


class Desk:
    """A state folder and what people were told."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.told: list[str] = []

    def check(self, probe: Probe, build: Build = BUILD) -> Verdict:
        return run(check(self.state, notice=self.told.append, build=build, run=probe))


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    (tmp_path / "state").mkdir()
    return Desk(tmp_path / "state")


def test_working_kernels_are_used_and_not_asked_about_again(desk: Desk) -> None:
    probe = Probe()
    verdicts = [desk.check(probe) for _ in range(3)]
    assert verdicts == [Verdict("first", Kernels.FAST)] * 3
    assert probe.asked == [Kernels.FAST]
    assert desk.told == []


def test_a_new_build_is_asked_about(desk: Desk) -> None:
    desk.check(Probe())
    probe = Probe(fast=-signal.SIGILL)
    assert desk.check(probe, replace(BUILD, identity="second")).kernels is Kernels.PLAIN
    assert probe.asked == [Kernels.FAST, Kernels.PLAIN]
    assert desk.check(Probe(), replace(BUILD, identity="third")).kernels is Kernels.FAST


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (-signal.SIGILL, "was ended by SIGILL"),
        (-signal.SIGSEGV, "was ended by SIGSEGV"),
        (1, "exited with status 1"),
    ],
)
def test_kernels_that_fail_are_avoided_and_that_is_said_once(
    desk: Desk, status: int, words: str
) -> None:
    probe = Probe(fast=status)
    verdicts = [desk.check(probe) for _ in range(3)]
    assert {verdict.kernels for verdict in verdicts} == {Kernels.PLAIN}
    assert probe.asked == [Kernels.FAST, Kernels.PLAIN]
    (notice,) = desk.told
    assert words in notice
    assert "slower" in notice
    assert "pip install --force-reinstall" in notice
    assert "llama-cpp-python==0.3.36" in notice
    assert words in (verdicts[-1].failure or "")


def test_a_build_that_does_not_work_at_all_is_asked_about_again_next_time(desk: Desk) -> None:
    probe = Probe(fast=-signal.SIGSEGV, plain=-signal.SIGABRT)
    for _ in range(2):
        with pytest.raises(LoadFailed) as caught:
            desk.check(probe)
        assert "SIGSEGV" in caught.value.message
        assert "pip install --force-reinstall" in (caught.value.hint or "")
    assert len(probe.asked) == 4
    assert desk.told == []
    assert desk.check(Probe()).kernels is Kernels.FAST


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b'{"identity": "first"}', b'{"identity":1,"kernels":"fast"}', b"\xff"],
)
def test_a_damaged_memory_is_no_memory(desk: Desk, content: bytes) -> None:
    path = desk.state / "native.json"
    path.write_bytes(content)
    assert recall(path) is None
    probe = Probe()
    assert desk.check(probe).kernels is Kernels.FAST
    assert probe.asked == [Kernels.FAST]
    assert recall(path) == Verdict("first", Kernels.FAST)


def test_no_memory_at_all(desk: Desk) -> None:
    assert recall(desk.state / "native.json") is None
    assert recall(desk.state) is None


def test_llama_cpp_that_is_not_installed(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "installed", lambda: None)
    with pytest.raises(LoadFailed, match="not installed"):
        run(check(desk.state, notice=desk.told.append))


def test_a_probe_that_never_ends_counts_as_one_that_was_killed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(native, "PROBE_SECONDS", 0.01)
    assert run(run_probe(Kernels.FAST)) == -signal.SIGKILL


@pytest.mark.native
@pytest.mark.parametrize("kernels", list(Kernels))
def test_the_real_probe_of_this_machine(kernels: Kernels) -> None:
    assert run(run_probe(kernels)) == 0
