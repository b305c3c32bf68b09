"""What the tests of the API have in common: a gateway for each module, over scripted engines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.gateway import Gateway, Scripts, gateway
from tests.support.tiny_model import write_tiny_llama


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("models") / "tiny.gguf")


@pytest.fixture(scope="module")
def models(tiny: Path) -> tuple[Path, ...]:
    """What is served; modules that need other models have a fixture of their own."""
    return (tiny,)


@pytest.fixture(scope="module")
def scripts() -> Scripts:
    return Scripts()


@pytest.fixture(scope="module")
def shared(
    tmp_path_factory: pytest.TempPathFactory, models: tuple[Path, ...], scripts: Scripts
) -> Iterator[Gateway]:
    with gateway(tmp_path_factory.mktemp("home"), models, script=scripts, context=256) as running:
        yield running


@pytest.fixture
def server(shared: Gateway, scripts: Scripts) -> Gateway:
    scripts.reset()
    return shared
