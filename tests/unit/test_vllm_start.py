"""How vLLM is begun on a CPU: real processes, with a server of ours in the place of vLLM's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from freehold.engines.vllm import launch, plugin

# As vLLM's: the server has an engine, which has a worker; each is to be started anew.
SERVER = """
import json, multiprocessing, os, sys

def begin():
    from vllm.v1.engine.core import compute, told
    there = multiprocessing.get_context("spawn")
    reads, writes = there.Pipe(duplex=False)
    engine = there.Process(target=compute, args=(writes,), name="engine")
    engine.start()
    said = reads.recv()
    engine.join()
    return {"server": told(), "said": said, "code": engine.exitcode}

if __name__ == "__main__":
    os.environ["LATE"] = "set by the server"
    del os.environ["EARLY"]
    if "anew" in sys.argv:
        os.environ["LD_PRELOAD"] = ""
    print(json.dumps({"words": sys.argv[1:], **begin()}))
"""
ENGINE = """
import multiprocessing, os

IMPORTED_BY = os.getpid()

def told():
    return {
        "pid": os.getpid(),
        "parent": os.getppid(),
        "imported_by": IMPORTED_BY,
        "late": os.environ.get("LATE"),
        "early": os.environ.get("EARLY"),
    }

def work(wire):
    wire.send(told())

def compute(wire):
    here = multiprocessing.get_context("spawn")
    reads, writes = here.Pipe(duplex=False)
    worker = here.Process(target=work, args=(writes,), daemon=True)
    worker.start()
    wire.send([told(), reads.recv()])
    worker.join()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = plugin.put(tmp_path / "plugin")
    for name, content in (
        ("vllm/entrypoints/openai/api_server.py", SERVER),
        ("vllm/v1/engine/core.py", ENGINE),
        ("vllm/v1/executor/multiproc_executor.py", ""),
        ("vllm/v1/worker/cpu_worker.py", ""),
    ):
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).write_text(content)
    return made


def begun(folder: Path, *words: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, *launch.CPU_COMMAND, *words],
        env={**os.environ, "PYTHONPATH": str(folder), "EARLY": "set before"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["words"] == list(words)
    assert found["code"] == 0
    # As one begun anew by its parent: what that has set, and not what it has taken away.
    for process in found["said"]:
        assert process["late"] == "set by the server"
        assert process["early"] is None
    return found


def test_what_computes_is_forked_from_who_has_imported_already(folder: Path) -> None:
    found = begun(folder, "--model", "x")
    server, (engine, worker) = found["server"], found["said"]
    # The fork server has imported it, for both.
    assert engine["imported_by"] == worker["imported_by"] == engine["parent"] != server["pid"]
    assert worker["parent"] == engine["pid"]


def test_what_has_to_load_another_library_first_is_begun_anew(folder: Path) -> None:
    found = begun(folder, "anew")
    server, (engine, worker) = found["server"], found["said"]
    assert engine["imported_by"] == engine["pid"]
    assert engine["parent"] == server["pid"]
    assert worker["imported_by"] == worker["pid"]
