"""`freehold plan`, as a person runs it: here, for another machine, and under a real limit."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from freehold.cli.main import cli
from tests.support.command import FREEHOLD, environment, freehold
from tests.support.tiny_model import write_tiny_llama

MACHINES = Path(__file__).parents[1] / "data" / "machines"
LIMIT = 3 * 2**30


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def group() -> Iterator[Path]:
    """A control group with a memory limit, below the one we are in."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, names, path = line.split(":", 2)
            for root, file in _places(names):
                folder = root / path.lstrip("/") / f"freehold-test-{os.getpid()}"
                with contextlib.suppress(OSError):
                    folder.mkdir()
                    try:
                        (folder / file).write_text(str(LIMIT))
                        yield folder
                        return
                    finally:
                        folder.rmdir()
    pytest.skip("no control group with a memory limit can be made here")


def _places(names: str) -> list[tuple[Path, str]]:
    """Where a hierarchy is mounted by custom, and what sets its limit."""
    if names == "":
        return [(Path("/sys/fs/cgroup"), "memory.max")]
    memory = "memory" in names.split(",")
    return [(Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes")] if memory else []


def test_a_containers_limit_is_seen(home: Path, group: Path) -> None:
    entered = 'echo $$ > "$0/cgroup.procs" && exec "$@"'
    done = subprocess.run(
        ["/bin/sh", "-c", entered, str(group), FREEHOLD, "plan", "--json"],
        capture_output=True,
        env=environment(home),
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    said = json.loads(done.stdout)
    memory = said["computer"]["memory"]
    assert memory["total"] == LIMIT
    assert group.name in memory["limited_by"]
    assert 0 < memory["available"] <= LIMIT
    assert said["choices"]
    for choice in said["choices"]:
        assert choice["memory_estimated"]["on_host"] <= memory["available"]
    for each in said["excluded"]:
        for reason in each["reasons"]:
            if reason["why"] == "memory":
                assert reason["has"] == memory["available"] < reason["wanted"]


def test_estimates_and_measurements_are_apart(home: Path) -> None:
    said = freehold(home, "plan", "--machine", str(MACHINES / "h200.json"), "--json").json
    assert said["computer"]["gpus"][0]["name"] == "NVIDIA H200"
    best = said["choices"][0]
    assert best["measured"] is None
    assert best["estimated"]["band"] > 0
    assert best["estimated"]["basis"]
    assert best["settings"]["layers_on_cards"] == best["settings"]["layers"]
    there = home / "there.json"  # a whole plan describes its machine too
    there.write_text(json.dumps(said))
    alone = freehold(home, "plan", "--machine", str(there), "--cpu", "--json").json
    assert alone["computer"] == {**said["computer"], "gpus": []}


def test_the_table_has_two_columns_for_speed(home: Path) -> None:
    done = freehold(home, "plan", "--machine", str(MACHINES / "two-cores.json"))
    assert done.status == 0
    headings = next(line for line in done.out.splitlines() if line.startswith("MODEL"))
    assert "TOKENS/S (EST.)" in headings
    assert "TOKENS/S (MEASURED)" in headings
    assert "GB short." in done.out
    assert done.err == ""


def test_wishes_narrow_the_plan(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FREEHOLD_HOME", str(home))

    def names(*wishes: str) -> set[str]:
        arguments = ("plan", "--machine", str(MACHINES / "h200.json"), *wishes, "--json")
        done = CliRunner().invoke(cli, arguments, standalone_mode=False)
        assert done.exception is None
        return {choice["model"] for choice in json.loads(done.stdout)["choices"]}

    everything = names()
    for wishes in (
        ("--task", "code"),
        ("--licence", "serve=ok"),
        ("--memory", "1GiB"),
        ("--context", "100000"),
        ("--tokens-per-second", "200", "--users", "2"),
        ("--ttft", "0.05"),
    ):
        assert names(*wishes) < everything


def test_one_model_explained(home: Path) -> None:
    machine = ("--machine", str(MACHINES / "container-4gb.json"))
    said = freehold(home, "plan", "deepseek-r1:7b", *machine, "--json").json
    # 28 layers x (4 + 4) heads x 128 numbers x 2 bytes.
    assert said["memory_estimated"]["cache_per_token"] == 28 * 8 * 128 * 2 == 57_344
    assert said["choice"] is None
    assert said["excluded"]["reasons"][0]["why"] == "memory"
    words = freehold(home, "plan", "deepseek-r1:7b", *machine).out
    assert "57.3 kB a token" in words
    assert "It does not fit:" in words


def test_a_file_of_ones_own(home: Path, tmp_path: Path) -> None:
    path = write_tiny_llama(tmp_path / "tiny.gguf")
    said: Any = freehold(home, "plan", str(path), "--context", "64", "--prompt", "32", "--json")
    assert said.status == 0, said.err
    assert said.json["choice"]["memory_estimated"]["exact_shapes"] is True


def test_an_unknown_architecture_is_refused_with_what_is_known(home: Path, tmp_path: Path) -> None:
    path = write_tiny_llama(tmp_path / "tiny.gguf")
    known = path.read_bytes()
    path.write_bytes(known.replace(b"llama", b"lllla"))
    assert path.read_bytes() != known
    done = freehold(home, "plan", str(path))
    assert done.status == 2
    assert "Its weights are" in done.err
    assert "lllla" in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--memory", "lots"), "16GB"),
        (("--users", "0"), "1<=x<=256"),
        (("--task", "cooking"), "Known are"),
        (("--licence", "eat=ok"), "serve=ok"),
        (("--machine", __file__), "describes no computer"),
        (("--machine", str(MACHINES / "h200.json"), "--calibrate"), "Only this machine"),
    ],
)
def test_what_is_asked_wrongly(home: Path, arguments: tuple[str, ...], word: str) -> None:
    done = freehold(home, "plan", *arguments)
    assert done.status == 2
    assert word in done.err
    assert done.out == ""


def test_a_model_nobody_knows(home: Path) -> None:
    assert freehold(home, "plan", "no-such-model").status == 3
