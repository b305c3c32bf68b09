"""The roofline of a measured server: there where the machine was calibrated, and by hand."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from freehold.domain.settings import resolve
from freehold.lab.bench.ceiling import ceiling
from freehold.lab.bench.records import Limits, Outcome, Record
from freehold.lab.bench.report import Run, StageResult
from freehold.lab.bench.summary import middles, summarise
from freehold.lab.bench.watch import Client
from freehold.lab.bench.workload import Kind, Stage, Workload
from freehold.machine.calibration import Calibration
from freehold.machine.dissect import anatomy_of_header
from freehold.runtime.profiles import Here
from freehold.weights.gguf import read_header
from tests.support.tiny_model import write_tiny_llama

WORKLOAD = Workload(users=(1,), rates=(), seed=1, prompt=100, answer=3)


def one_user(users: float = 1) -> StageResult:
    """First token after 100 ms, then one every 10 ms."""
    record = Record(
        number=0,
        outcome=Outcome.COMPLETED,
        sent_s=0.0,
        ended_s=1.0,
        wanted_tokens=3,
        ttft_ms=100.0,
        gaps_ms=(10.0, 10.0),
        completion_tokens=3,
    )
    run = Run(summarise([record], Limits()), 1, Client(0.0, 0.0), (record,))
    return StageResult(Stage(Kind.USERS, users, 1), (run,), middles([run.summary]))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_tiny_llama(tmp_path / "tiny.gguf")


def calibrate(home: Path, bandwidth: float, matrix_rate: float) -> None:
    here = Here.now(home)
    made = Calibration(
        computer=here.computer,
        build=here.build,
        measured_at="2026-01-01T00:00:00+00:00",
        seconds=1.0,
        threads=2,
        bandwidth=bandwidth,
        matrix_rate=matrix_rate,
        step=0.0,
        layer=0.0,
        logit=0.0,
        yardstick=3e-3,
        reading_yardstick=3e-2,
    )
    (home / "state").mkdir(parents=True, exist_ok=True)
    (home / "state" / "calibration.json").write_bytes(msgspec.json.encode(made))


def test_a_single_user_is_set_against_the_calibrated_machine(tmp_path: Path, model: Path) -> None:
    home = tmp_path / "home"
    settings = resolve({"home": str(home)}, environ={})
    assert ceiling(settings, str(model), WORKLOAD, [one_user()]) is None  # not calibrated
    # 100 tokens a second read the weights as often, and their keys and values: two layers of one
    # head with 32 numbers each, of two bytes, for 101 tokens.
    anatomy = anatomy_of_header(read_header(model))
    read = sum(part.bytes for part in anatomy.read(1)) + anatomy.output.bytes
    moved = 100 * (read + 2 * 2 * 32 * 2 * 101)
    calibrate(home, bandwidth=2.0 * moved, matrix_rate=1e12)
    found = ceiling(settings, str(model), WORKLOAD, [one_user()])
    assert found is not None
    assert found.startswith(
        "Roofline, 1 user: decode at 50% of the memory bandwidth, prefill at 0%"
    )
    assert ceiling(settings, str(model), WORKLOAD, [one_user(users=2)]) is None
