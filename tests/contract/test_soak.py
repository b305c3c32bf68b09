"""A short soak; `make soak` runs the long one."""

from __future__ import annotations

from pathlib import Path

import pytest

from freehold.domain.engine import CacheLayout
from tests.support.soak import soak
from tests.support.tiny_model import write_tiny_llama

pytestmark = pytest.mark.native


@pytest.mark.parametrize("layout", CacheLayout)
@pytest.mark.parametrize("seed", [1, 2])
def test_random_load_leaves_nothing_behind(tmp_path: Path, layout: CacheLayout, seed: int) -> None:
    model = write_tiny_llama(tmp_path / "tiny.gguf")
    outcome = soak(model, layout, seed=seed, go_on=lambda steps: steps < 1500)
    assert outcome.finished > 100
    assert outcome.cancelled > 10
    assert outcome.failed == 0
