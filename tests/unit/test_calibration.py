"""What a calibration says between its measurements, how it is kept, and that it can be made."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from freehold.domain.engine import CacheType
from freehold.engines.llamacpp.calibrating import (
    Steps,
    elements_and_rows,
    narrow,
    row_of_prompt,
    type_cost,
    wide,
)
from freehold.engines.llamacpp.made_up import Shape
from freehold.machine.calibration import Calibration
from freehold.process.child import child_environment
from freehold.runtime.calibration import recall
from freehold.weights.gguf_types import TensorType
from tests.support.models_on_paper import calibration


@pytest.mark.parametrize(
    ("head_dim", "decode"), [(64, 1e-8), (96, 1.5e-8), (128, 2e-8), (192, 3e-8)]
)
def test_attention_lies_on_a_line_between_the_head_sizes(head_dim: int, decode: float) -> None:
    found = calibration().of_attention(False, CacheType.F16, head_dim)
    assert found is not None
    assert found.decode == pytest.approx(decode)


def test_what_was_not_measured_is_not_made_up() -> None:
    assert calibration().of_attention(True, CacheType.F16, 64) is None
    assert calibration().of_type("Q2_K") is None


def keep(home: Path, known: Calibration) -> Path:
    path = home / "state" / "calibration.json"
    path.parent.mkdir()
    path.write_bytes(msgspec.json.encode(known))
    return path


def test_a_calibration_holds_for_its_computer_and_build(tmp_path: Path) -> None:
    known = calibration()
    assert recall(tmp_path, "paper", "paper") is None
    path = keep(tmp_path, known)
    assert recall(tmp_path, "paper", "paper") == known
    assert recall(tmp_path, "another", "paper") is None
    assert recall(tmp_path, "paper", "another") is None
    path.write_bytes(path.read_bytes()[:-20])
    assert recall(tmp_path, "paper", "paper") is None


def test_two_shapes_tell_an_element_s_cost_from_a_row_s() -> None:
    def seconds(elements: int, rows: int) -> tuple[int, int, float]:
        return elements, rows, elements * 2e-11 + rows * 1e-8

    element, row = elements_and_rows(seconds(10**8, 80_000), seconds(10**8, 300_000))
    assert element == pytest.approx(2e-11)
    assert row == pytest.approx(1e-8)


def test_noise_in_one_format_moves_nothing_from_elements_to_rows() -> None:
    def steps(form: Callable[[TensorType, int], Shape], noise: float) -> Steps:
        shape = form(TensorType.Q8_0, 4)
        many = (shape.elements * 4e-12 + shape.rows * 1e-9) * noise
        return Steps(shape, one=1.0, few=1.0, many=many)

    quiet, noisy = (steps(wide, 1), steps(narrow, 1)), (steps(wide, 1), steps(narrow, 1.2))
    row = row_of_prompt([quiet, noisy, quiet])
    assert row == pytest.approx(1e-9)
    assert type_cost(*quiet, row).many == pytest.approx(4e-12)
    assert 4e-12 < type_cost(*noisy, row).many < 4e-12 * 1.3


def test_noise_makes_no_cost_negative() -> None:
    element, row = elements_and_rows((10**8, 80_000, 2e-3), (10**8, 300_000, 1.9e-3))
    assert element == pytest.approx(2e-11)
    assert row == 0
    element, row = elements_and_rows((10**8, 80_000, 2e-3), (10**8, 300_000, 1))
    assert element == pytest.approx(1e-11)
    assert row == pytest.approx(1e-3 / 80_000)


_SHORT = """
import msgspec, sys
from freehold.domain.engine import CacheType, Kernels
from freehold.engines.llamacpp import calibrating
from freehold.text.vocabulary import start_native
from freehold.weights.gguf_types import TensorType
calibrating._MOST_BYTES = calibrating._LEAST_BYTES
start_native()
said = []
found = calibrating.calibrate(
    2, Kernels.FAST, said.append, subjects=((False, CacheType.F16, 64), TensorType.Q8_0),
)
assert [each.done for each in said] == list(range(said[0].total))
print(msgspec.json.encode(found).decode())
"""


@pytest.mark.native
def test_what_is_measured_makes_sense() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _SHORT],
        env=child_environment(os.environ),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = msgspec.convert(json.loads(done.stdout.splitlines()[-1]), Calibration)
    (cost,), (look,) = found.types, found.attention
    assert 0 < cost.one < cost.few < 8 * cost.one * 8
    assert 0 < cost.many < cost.few
    assert 0 <= cost.row_one < 1e-6
    assert 0 <= cost.row_many <= 1e-6
    assert 1e9 < found.bandwidth < 5e12
    # One shape's rate beside what both shapes cost: as near as two measurements are.
    together = 2 / (cost.many + cost.row_many / 1300)
    assert together / 3 < found.matrix_rate < together * 3
    assert look.decode > 0
    assert look.prefill >= 0  # so small a model may be no slower behind other tokens
    assert found.layer > 0
    assert 0 < found.share <= 1
