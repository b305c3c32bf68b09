"""`freehold tune` as a person uses it: stopped with Ctrl-C, gone on with, then run, shown and
served with what it found, until the machine is another one."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from freehold.machine.profile import Profile
from tests.support.command import FREEHOLD, Result, environment, freehold, serving
from tests.support.tiny_model import write_tiny_llama

pytestmark = pytest.mark.native

TUNE = ("--depth", "64", "--users", "1", "--formats", "Q8_0", "--minutes", "0.1")
ASK = ("hello", "--max-tokens", "4", "--temperature", "0")


def begun_and_stopped(home: Path, model: str) -> str:
    """Ctrl-C after two measurements; returns what was said."""
    process = subprocess.Popen(
        [FREEHOLD, "tune", model, *TUNE],
        env=environment(home),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    end = time.monotonic() + 120
    while len(measured(home)) < 2:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert out == ""
    return err


def measured(home: Path) -> list[dict[str, Any]]:
    found = list((home / "state" / "tuning").glob("*.json"))
    timings = json.loads(found[0].read_bytes())["timings"] if found else []
    assert isinstance(timings, list)
    return timings


def profile_lines(said: Result) -> list[str]:
    assert said.status == 0, said.err
    return [line for line in said.err.splitlines() if "profile" in line]


def test_tuned_stopped_gone_on_with_and_used(tmp_path: Path) -> None:
    home = tmp_path / "home"
    file = write_tiny_llama(tmp_path / "tiny.gguf", embedding=256, context_length=2048)
    assert freehold(home, "import", str(file)).status == 0
    (model,) = (each["reference"] for each in freehold(home, "list", "--json").json)

    said = begun_and_stopped(home, model)
    assert f"freehold tune {model}" in said
    before = measured(home)
    ended = freehold(home, "tune", model, *TUNE, timeout=230)
    assert ended.status == 0, ended.err
    assert "Going on where the last search was stopped." in ended.err
    assert measured(home) == []
    lines = ended.out.splitlines()
    assert re.split(r"  +", lines[0])[:5] == ["WEIGHTS", "SETTINGS", "READ 64", "DECODE", "AT 64"]
    assert lines[1].startswith("as they are  streams f16, no flash")
    assert re.search(r"  1\.00  none", lines[1])
    assert len(before) >= 2

    (kept,) = (home / "profiles").glob("*.json")
    profile = msgspec.json.decode(kept.read_bytes(), type=Profile)
    (line,) = profile_lines(freehold(home, "run", model, *ASK))
    assert f"with its profile of {profile.date}; --no-profile leaves it out." in line
    assert profile_lines(freehold(home, "run", model, *ASK, "--no-profile")) == []
    shown = freehold(home, "show", model).out
    assert f"{profile.settings.text}; {profile.gain:.2f} times as fast as untuned" in shown
    with serving(home) as server:
        listed = httpx.get(f"{server.url}/v1/models/{model}").json()["freehold"]["profile"]
        assert listed["objection"] is None
        assert listed["settings"]["micro_batch"] == profile.settings.micro_batch
        assert listed["measured_at"] == profile.measured_at
        assert freehold(home, "load", model).status == 0
        row = freehold(home, "ps").out.splitlines()[1]
        weights = profile.quantisation or "settings"
        assert f"{weights}, {profile.gain:.2f}x, {profile.date}" in row

    kept.write_bytes(msgspec.json.encode(msgspec.structs.replace(profile, build="another")))
    (line,) = profile_lines(freehold(home, "run", model, *ASK))
    assert "another build of llama.cpp and is not used" in line
    assert f"freehold tune {model}" in line
    assert "another build of llama.cpp" in freehold(home, "show", model).out


@pytest.mark.skipif(
    sys.platform != "linux" or len(os.sched_getaffinity(0)) < 2, reason="needs two cores"
)
def test_on_a_machine_with_fewer_cores_a_profile_is_not_used(tmp_path: Path) -> None:
    home = tmp_path / "home"
    file = write_tiny_llama(tmp_path / "tiny.gguf")
    assert freehold(home, "tune", str(file), *TUNE, "--formats", "none").status == 0
    (line,) = profile_lines(freehold(home, "run", str(file), *ASK))
    assert "with its profile" in line
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})  # what we start now has one core
    try:
        said = freehold(home, "run", str(file), *ASK)
    finally:
        os.sched_setaffinity(0, cores)
    (line,) = profile_lines(said)
    assert "was measured on another computer and is not used" in line
