"""A short run of each fuzzer: the same inputs every time, and what longer runs once found."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz import plain
from tests.fuzz.targets import TARGETS, Broken, Target

ROOT = Path(__file__).parents[2]
TRIED = 400


@pytest.mark.parametrize("name", TARGETS)
def test_what_was_found_once_stays_mended(name: str) -> None:
    target = TARGETS[name]
    for data in (*target.seeds(), *target.cases()):
        target.run(data)


@pytest.mark.parametrize("name", TARGETS)
def test_inputs_by_chance(name: str) -> None:
    assert plain.run(TARGETS[name], seed=1, seconds=60, most=TRIED) == TRIED


def test_a_bug_would_be_found_and_its_input_told() -> None:
    def run(data: bytes) -> None:
        if b"GGUF" not in data:
            raise Broken("no magic")

    target = Target("planted", run, lambda: [b"GGUF" * 3], (), words=(b"GG",))
    with pytest.raises(Broken, match="no magic") as caught:
        plain.run(target, seed=1, seconds=10)
    assert caught.value.__notes__[0].startswith("input: b")


@pytest.mark.parametrize("name", ["gguf", "template"])
def test_inputs_by_coverage(name: str, tmp_path: Path) -> None:
    pytest.importorskip("atheris", reason="atheris has no build for this platform")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tests.fuzz.guided", name, str(tmp_path / "corpus")),
            *("-seed=1", "-runs=300", "-print_final_stats=1"),
        ],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert re.search(r"stat::number_of_executed_units:\s*[1-9]", done.stderr)
