"""What a child process is given, and how its end is told."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from freehold.process.child import child_environment, describe_exit, step_back


def test_a_child_inherits_no_secrets() -> None:
    ours = {
        "PATH": "/bin",
        "HOME": "/home/someone",
        "HF_TOKEN": "hf_x",
        "FREEHOLD_API_KEY": "x",
        "OPENAI_API_KEY": "x",
        "HTTPS_PROXY": "http://user:password@proxy",
        "LD_PRELOAD": "/tmp/evil.so",
    }
    given = child_environment(ours)
    assert given["PATH"] == "/bin"
    assert given["HOME"] == "/home/someone"
    assert not {"HF_TOKEN", "FREEHOLD_API_KEY", "OPENAI_API_KEY", "HTTPS_PROXY", "LD_PRELOAD"} & {
        *given
    }


def test_a_child_is_kept_quiet() -> None:
    given = child_environment({"GGML_NO_BACKTRACE": "0", "HF_HUB_OFFLINE": "0"})
    assert given["GGML_NO_BACKTRACE"] == "1"
    assert given["HF_HUB_OFFLINE"] == "1"
    assert given["HF_HUB_DISABLE_TELEMETRY"] == given["DO_NOT_TRACK"] == "1"


@pytest.mark.parametrize(
    ("returncode", "words"),
    [
        (0, "exited with status 0"),
        (3, "exited with status 3"),
        (-9, "was ended by SIGKILL"),
        (-11, "was ended by SIGSEGV"),
        (-250, "was ended by signal 250"),
    ],
)
def test_the_end_of_a_child_in_words(returncode: int, words: str) -> None:
    assert describe_exit(returncode) == words


def test_threads_that_decode_wait_without_spinning_long_unless_told_otherwise() -> None:
    assert child_environment({})["GOMP_SPINCOUNT"] == "1000"
    assert child_environment({"GOMP_SPINCOUNT": "7"})["GOMP_SPINCOUNT"] == "7"


def test_what_a_child_wants_goes_behind_what_the_operator_says() -> None:
    wanted = {"OMP_PLACES": "cores", "GOMP_SPINCOUNT": "9"}
    assert child_environment({}, wanted)["OMP_PLACES"] == "cores"
    assert child_environment({}, wanted)["GOMP_SPINCOUNT"] == "9"
    assert child_environment({"OMP_PLACES": "{1}"}, wanted)["OMP_PLACES"] == "{1}"


@pytest.mark.skipif(sys.platform != "linux", reason="sessions share processors on Linux alone")
def test_a_child_steps_back_whatever_the_processors_are_shared_by() -> None:
    child = subprocess.Popen(["sleep", "60"], start_new_session=True)
    try:
        step_back(child.pid, 3)
        assert os.getpriority(os.PRIO_PROCESS, child.pid) == min(os.nice(0) + 3, 19)
        group = Path(f"/proc/{child.pid}/autogroup")
        if group.exists():
            assert group.read_text().split()[-1] == str(min(os.nice(0) + 3, 19))
    finally:
        child.kill()
        child.wait()
    step_back(child.pid, 3)  # gone
