"""Five hundred people at once, and everything going wrong at once: short versions.

The long ones are commands: ``python -m tests.support.crowd`` and ``python -m tests.support.chaos``.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.chaos import chaos
from tests.support.crowd import CLIENTS, PARALLEL, crowd_of

pytestmark = pytest.mark.native


def test_five_hundred_streams_are_all_answered_in_their_order(tmp_path: Path) -> None:
    seen, _ = crowd_of(tmp_path, "scripted", None, seconds=6)
    assert not seen.wrong
    assert seen.refused == 0  # fewer than may wait
    assert seen.answers > 0
    assert seen.asked >= CLIENTS
    # First come first served, but for those that arrived in the same instant.
    assert seen.overtaken <= 2 * PARALLEL


def test_whatever_goes_wrong_every_answer_is_whole_or_says_so(tmp_path: Path) -> None:
    outcome = chaos(tmp_path, seconds=6, seed=7)
    assert outcome.wrong == []
    assert outcome.faults.total() > 0
    assert outcome.ends["whole"] > 0
