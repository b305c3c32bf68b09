"""How a server has vLLM load a model: on which cards, and what it says of that."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from freehold.domain.settings import resolve
from freehold.engines.vllm.installation import VERSION, Build, Installed, Place
from freehold.engines.vllm.launch import VllmConfig
from freehold.machine.vllm_need import PROCESSES
from freehold.runtime.chat import vocabulary_source
from freehold.runtime.vllm import Vllm
from freehold.text.client import TextService
from freehold.weights.library import Library
from freehold.weights.progress import Silent
from tests.support.fake_hub import FakeHub
from tests.support.running import run
from tests.unit.test_checkpoint import REFERENCE, files, repository
from tests.unit.test_vllm_need import computer

(CARD,) = computer("rtx-4090").gpus


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A store with a model in safetensors; the hub is gone."""
    home = tmp_path / "home"
    with FakeHub([repository(files(tmp_path))]) as hub:
        environ = {"HF_ENDPOINT": hub.endpoint}
        Library.open(resolve({"home": str(home)}, environ=environ)).pull(REFERENCE, Silent())
    return home


def install(home: Path, build: Build) -> None:
    """As far as anybody looks before it is started."""
    place = Place.of(home)
    place.python.parent.mkdir(parents=True)
    place.python.touch()
    record = Installed(build, VERSION, "2", "2026-11-30T00:00:00+00:00", 1)
    place.record.write_bytes(msgspec.json.encode(record))


def loading(
    home: Path, build: Build = Build.CUDA, **values: object
) -> tuple[VllmConfig, list[str], int]:
    """How it is loaded beside three cards, what is said, and the memory it needs."""
    install(home, build)
    settings = resolve({"home": str(home), "vllm": (REFERENCE,), **values}, environ={})
    library, said = Library.open(settings), list[str]()
    model = library.local(REFERENCE)
    vllm = Vllm(
        library,
        TextService(),
        settings,
        frozenset({REFERENCE}),
        say=said.append,
        cards=lambda: (CARD,) * 3,
    )
    engine = run(vllm.builder(model, vocabulary_source(model)))()
    return engine.config, said, vllm.needed(model)


def test_as_few_cards_as_hold_it(home: Path) -> None:
    config, said, needed = loading(home)
    assert (config.tensor_parallel, config.pipeline_parallel) == (1, 1)
    assert config.cards == (0,)
    assert config.context == 512  # its own
    assert said == [
        f"{REFERENCE} is put on NVIDIA GeForce RTX 4090 of 3 cards, "
        "with 512 tokens of context for each of 4."
    ]
    assert needed == PROCESSES  # its weights and cache are not in ordinary memory


def test_what_was_set_goes_before_the_plan(home: Path) -> None:
    config, said, _ = loading(home, tensor_parallel=2, context=256)
    assert (config.tensor_parallel, config.pipeline_parallel) == (2, 1)
    assert config.cards == (0, 1)
    assert config.context == 256
    assert "256 tokens of context for each of 4, of 512 that it was trained for." in said[0]


def test_more_cards_than_there_are_here_are_left_to_vllm(home: Path) -> None:
    config, said, _ = loading(home, tensor_parallel=2, pipeline_parallel=4)
    assert (config.tensor_parallel, config.pipeline_parallel) == (2, 4)
    assert config.cards == ()
    assert said == []


def test_the_cpu_build_uses_no_card(home: Path) -> None:
    config, said, needed = loading(home, Build.CPU)
    assert (config.tensor_parallel, config.cards) == (1, ())
    # What it computes in depends on this machine's processor.
    assert [line for line in said if "computed in float32" not in line] == []
    assert needed > PROCESSES
