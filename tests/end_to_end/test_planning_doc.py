"""docs/planning.md works one model through by hand; the planner must come to the same numbers."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from freehold.machine.candidates import Local, of_local
from freehold.machine.computer import Computer
from freehold.machine.plan import Choice, Given, weigh
from freehold.machine.wishes import Wishes
from freehold.weights.gguf import read_header

pytestmark = pytest.mark.weights
ROOT = Path(__file__).parents[2]


def test_the_worked_example(weights: Path) -> None:
    header = read_header(weights)
    one = of_local(Local("it", "a" * 64, header.file_size, header, header.tensors), None)
    data = (ROOT / "tests/data/machines/container-4gb.json").read_bytes()
    chosen = weigh(one, Given(msgspec.json.decode(data, type=Computer), Wishes()))
    assert isinstance(chosen, Choice)
    needs = chosen.footprint
    text = (ROOT / "docs" / "planning.md").read_text()
    rows = re.findall(r"^\| \**([\w ]+?)\** \|.*\| \**([\d,]+)\** \|$", text, re.MULTILINE)
    assert {name: int(number.replace(",", "")) for name, number in rows} == {
        "weights": needs.weights,
        "repacked copy": needs.repacked,
        "cache": needs.cache,
        "buffers": needs.buffers,
        "vocabulary": needs.vocabulary,
        "process": needs.process,
        "in all": needs.total,
    }
