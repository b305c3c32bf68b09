"""GGUF files made to hurt are refused at once, in a sentence, in little memory, before any load."""

from __future__ import annotations

import os
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from freehold.domain.chat import GenerateRequest
from freehold.domain.errors import InvalidModelFile, RefusedFile, UnsupportedFile
from freehold.domain.settings import Settings
from freehold.engines.scripted import Script
from freehold.weights.gguf import read_header
from freehold.weights.importing import Find, take
from freehold.weights.library import Library
from freehold.weights.store import Store
from tests.support.gateway import gateway
from tests.support.hostile_gguf import FOREIGN, HOSTILE, gguf, u32_pair, write_corpus
from tests.support.models import write_model, write_parts
from tests.support.quick import cpu_seconds
from tests.support.watching import Recorder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


def refusal(path: Path) -> RefusedFile:
    with pytest.raises(RefusedFile) as refused:
        read_header(path)
    return refused.value


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_file_is_refused_at_once(case: str, tmp_path: Path) -> None:
    content, problem = HOSTILE[case]
    path = tmp_path / "hostile.gguf"
    path.write_bytes(content)
    refused = refusal(path)
    assert isinstance(refused, InvalidModelFile)
    assert problem in refused.message
    assert refused.message.startswith("hostile.gguf ")
    assert refused.message.isprintable()
    assert len(refused.message) < 400
    assert refused.hint
    assert cpu_seconds(lambda: refusal(path)) < 0.1


@pytest.mark.parametrize("case", FOREIGN)
def test_foreign_file_is_named(case: str, tmp_path: Path) -> None:
    content, kind = FOREIGN[case]
    path = tmp_path / "foreign.gguf"
    path.write_bytes(content)
    with pytest.raises(UnsupportedFile) as refused:
        read_header(path)
    assert kind in refused.value.message
    assert refused.value.hint


def test_no_hostile_number_is_allocated(corpus: tuple[Path, ...]) -> None:
    tracemalloc.start()
    try:
        for path in corpus:
            with pytest.raises(RefusedFile):
                read_header(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2**20


READ_ALL = """
import re, sys
from pathlib import Path
from freehold.domain.errors import RefusedFile
from freehold.weights.gguf import read_header
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        read_header(path)
    except RefusedFile:
        continue
    raise SystemExit(f"{path} was read")
print(re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_whole_process_stays_small(corpus: tuple[Path, ...]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", READ_ALL, str(corpus[0].parent)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert int(done.stdout) < 200 * 1024


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model.gguf", elements=64)
    header = read_header(model)
    for size in reversed(range(header.data_offset + header.data_size)):
        os.truncate(model, size)
        assert refusal(model).message.isprintable()


# What stands between such a file and native code


def test_the_library_hands_out_none_of_them(corpus: tuple[Path, ...], tmp_path: Path) -> None:
    library = Library.open(Settings(home=tmp_path / "home"))
    for path in corpus:
        with pytest.raises(RefusedFile):
            library.local(str(path))


def test_the_store_takes_in_none_of_them(corpus: tuple[Path, ...], tmp_path: Path) -> None:
    store = Store.open(tmp_path / "home")
    for path in corpus:
        find = Find("mine:imported", "file", (path,), path.stat().st_size)
        with pytest.raises(RefusedFile):
            take(store, find, Recorder())
    assert store.blobs() == ()
    assert [path for path in store.partials() if path.suffix != ".lock"] == []


def script(_: GenerateRequest | None) -> Script:
    return Script()


def test_no_engine_is_made_for_any_of_them(corpus: tuple[Path, ...], tmp_path: Path) -> None:
    good = write_model(tmp_path / "good.gguf")
    with gateway(tmp_path / "home", (good, *corpus), script=script, context=256) as running:
        for path in corpus[::3]:
            answer = running.client.post(
                "/v1/completions", json={"model": path.stem, "prompt": "Hello"}
            )
            assert answer.status_code in (404, 422, 500, 503), (path, answer.text)
            assert "Traceback" not in answer.text
            assert str(path.parent) not in answer.text
        assert running.engines == []
        assert running.client.get("/healthz").status_code == 200


Spoil = Callable[[tuple[Path, ...]], object]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda parts: parts[1].unlink(),
        lambda parts: parts[1].write_bytes(parts[2].read_bytes()),
        lambda parts: parts[1].write_bytes(b""),
        lambda parts: parts[2].write_bytes(gguf()),
        lambda parts: parts[0].write_bytes(gguf(u32_pair("split.count", 3), pairs=1)),
        lambda parts: parts[0].write_bytes(parts[0].read_bytes().replace(b"\3\0", b"\xff\xff")),
    ],
    ids=["missing", "twice", "empty", "unnumbered", "another type", "65,535 parts"],
)
def test_no_split_model_is_taken_at_its_word(spoil: Spoil, tmp_path: Path) -> None:
    parts = write_parts(tmp_path, "whole", 3)
    library = Library.open(Settings(home=tmp_path / "home"))
    library.local(str(parts[0]))
    spoil(parts)
    with pytest.raises(RefusedFile):
        library.local(str(parts[0]))
