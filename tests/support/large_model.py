"""A hub with one model that takes a while to come."""

from __future__ import annotations

from tests.support.fake_hub import FakeFile, FakeRepository
from tests.support.metered_hub import MeteredHub
from tests.support.models import model_bytes

LARGE = FakeFile(model_bytes("large", elements=1 << 20))
NAME = "hf:maker/Tiny-GGUF:large.gguf"


def hub_of_a_large_model() -> MeteredHub:
    return MeteredHub([FakeRepository("maker/Tiny-GGUF", {"large.gguf": LARGE})])
