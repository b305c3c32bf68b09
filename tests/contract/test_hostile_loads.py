"""Hostile files against the real worker: refused before it starts, and harmless if it does."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from freehold.domain.errors import EngineError, RefusedFile
from freehold.engines.base import EngineConfig
from freehold.engines.llamacpp.client import LlamaCppEngine
from freehold.weights.gguf import read_header
from tests.support.gateway import Gateway, gateway
from tests.support.hostile_gguf import FOREIGN, HOSTILE, write_corpus
from tests.support.running import run
from tests.support.tiny_model import write_tiny_llama

pytestmark = pytest.mark.native


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, corpus: tuple[Path, ...]) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("models")
    tiny = write_tiny_llama(folder / "tiny.gguf")
    odd = write_tiny_llama(
        folder / "odd.gguf", metadata={"tokenizer.chat_template": "{{ range(10**9) }}"}
    )
    third = write_tiny_llama(folder / "third.gguf", seed=3)
    served = (tiny, odd, third, *corpus)
    with gateway(tmp_path_factory.mktemp("home"), served, context=256) as running:
        yield running


def workers() -> set[psutil.Process]:
    found = set()
    for child in psutil.Process().children(recursive=True):
        try:
            if "freehold.engines.llamacpp.worker" in child.cmdline():
                found.add(child)
        except psutil.NoSuchProcess:
            continue
    return found


def test_no_worker_starts_for_a_hostile_file(server: Gateway, corpus: tuple[Path, ...]) -> None:
    before = workers()
    for path in corpus[::6]:
        answer = server.client.post("/v1/completions", json={"model": path.stem, "prompt": "Hi"})
        assert answer.is_error, path
        assert "Traceback" not in answer.text
        assert workers() == before


def test_a_template_nobody_can_render_harms_nothing_else(server: Gateway) -> None:
    raw = {"model": "odd", "prompt": "Hi", "max_tokens": 2}
    assert server.client.post("/v1/completions", json=raw).status_code == 200
    refused = server.chat(model="odd")
    assert refused.status_code == 400
    assert "the power operator" in refused.json()["error"]["message"]
    assert server.chat(max_tokens=2).status_code == 200


def test_a_worker_that_dies_while_it_loads_takes_only_itself_down(server: Gateway) -> None:
    before = workers()
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(server.chat, model="third", max_tokens=2)
        while not (started := workers() - before):
            assert not asked.done()
        for worker in started:
            worker.send_signal(signal.SIGSEGV)
        answer = asked.result()
    assert answer.status_code in (500, 503)
    assert "Traceback" not in answer.text
    assert server.client.get("/healthz").status_code == 200
    assert server.chat(model="third", max_tokens=2).status_code == 200


# Files that llama.cpp is shown all the same: as if the reader had let them through.
SLIPPED_THROUGH = ("2^63 pairs", "arrays in arrays", "dimensions of 2^33", "overlap", "JSON")


@pytest.mark.parametrize("case", SLIPPED_THROUGH)
def test_a_worker_that_is_shown_one_takes_only_itself_down(case: str, tmp_path: Path) -> None:
    content, _ = {**HOSTILE, **FOREIGN}[case]
    path = tmp_path / "hostile.gguf"
    path.write_bytes(content)
    with pytest.raises(RefusedFile):
        read_header(path)

    async def load() -> None:
        config = EngineConfig("hostile", (str(path),), context=256, parallel=1, threads=1)
        engine = LlamaCppEngine(config)
        try:
            with pytest.raises(EngineError):
                await engine.load()
        finally:
            await engine.close()

    before = workers()
    run(load())
    assert workers() == before
