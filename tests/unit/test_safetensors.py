"""safetensors headers: sound ones are read, all others refused by name."""

from __future__ import annotations

import os
import pickle
import tracemalloc
from pathlib import Path

import pytest

from freehold.domain.errors import InvalidModelFile, RefusedFile, UnsupportedFile
from freehold.weights.importing import Find, take
from freehold.weights.safetensors import read_header
from freehold.weights.store import Store
from tests.support.hostile_safetensors import FOREIGN, HOSTILE, SOUND, safetensors, tensor
from tests.support.quick import cpu_seconds
from tests.support.watching import Recorder


def written(folder: Path, content: bytes, name: str = "model.safetensors") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def refusal(path: Path) -> InvalidModelFile:
    with pytest.raises(InvalidModelFile) as refused:
        read_header(path)
    return refused.value


def test_a_sound_header_is_read(tmp_path: Path) -> None:
    header = read_header(written(tmp_path, SOUND))
    assert dict(header.metadata) == {"format": "pt", "ä": "\n"}
    assert [(each.name, each.dtype, each.shape) for each in header.tensors] == [
        ("a", "F32", (2,)),
        ("b", "I64", ()),
        ("none", "F32", (0, 3)),
        ("half", "F4", (2,)),
    ]
    assert header.data_offset + 17 == header.file_size == len(SOUND)


@pytest.mark.parametrize("content", [b"{}", b"{}     ", b"{ \n}"])
def test_a_file_may_hold_nothing(tmp_path: Path, content: bytes) -> None:
    assert read_header(written(tmp_path, safetensors(content))).tensors == ()


@pytest.mark.parametrize("length", [640, 768 + 128, 1024 + 128, 1280 + 128, 35_615, 0x4B50])
def test_a_length_that_looks_like_another_format_is_only_a_length(
    tmp_path: Path, length: int
) -> None:
    raw = b"{}".ljust(length)
    assert read_header(written(tmp_path, safetensors(raw))).data_offset == 8 + length


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_file_is_refused_at_once(tmp_path: Path, case: str) -> None:
    content, problem = HOSTILE[case]
    path = written(tmp_path, content)
    refused = refusal(path)
    assert problem in refused.message
    assert refused.message.isprintable()
    assert len(refused.message) < 400
    assert refused.hint
    if len(content) < 1_000_000:  # beyond, 50,000 sound tensors are listed first
        assert cpu_seconds(lambda: refusal(path)) < 0.1


def test_no_hostile_header_takes_much_memory(tmp_path: Path) -> None:
    small = [content for content, _ in HOSTILE.values() if len(content) < 2_000_000]
    tracemalloc.start()
    try:
        for content in small:
            with pytest.raises(RefusedFile):
                read_header(written(tmp_path, content))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2**24


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, SOUND)
    for size in reversed(range(len(SOUND))):
        os.truncate(path, size)
        with pytest.raises(RefusedFile):
            read_header(path)


@pytest.mark.parametrize("case", FOREIGN)
def test_another_format_with_this_ending_is_named(tmp_path: Path, case: str) -> None:
    content, kind = FOREIGN[case]
    with pytest.raises(UnsupportedFile) as refused:
        read_header(written(tmp_path, content))
    assert kind in refused.value.message
    assert refused.value.hint


def test_the_library_agrees_about_what_is_sound(tmp_path: Path) -> None:
    theirs = pytest.importorskip("safetensors", reason="the safetensors package is not installed")
    # It has no F4 in older versions, and the tensor of no elements is not worth a difference.
    content = safetensors({"a": tensor(0, 8), "b": tensor(8, 16, dtype="I64", shape=[])}, 16)
    path = written(tmp_path, content)
    with theirs.safe_open(str(path), framework="numpy") as opened:
        assert sorted(opened.keys()) == [each.name for each in read_header(path).tensors]
    stricter = {  # limits of ours, and fields that library passes over
        *("26 MB of header", "metadata of 4,097 entries", "50,001 tensors", "a name of 1,025"),
        *("17 dimensions", "an entry of 3,000 bytes", "a field too many", "space before"),
        *("a metadata key twice", "metadata twice", "a tensor twice", "a key spelt otherwise"),
    }
    for case, (hostile, _) in HOSTILE.items():
        if case in stricter:
            continue
        path = written(tmp_path, hostile)
        with (
            pytest.raises((theirs.SafetensorError, OSError)),
            theirs.safe_open(str(path), framework="numpy"),
        ):
            pytest.fail(f"the library opens {case}")


# What the store says to such files


def imported(path: Path, folder: Path) -> None:
    find = Find("mine:imported", "file", (path,), path.stat().st_size)
    take(Store.open(folder / "home"), find, Recorder())


def test_a_sound_file_is_named_for_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedFile, match="a sound safetensors file of 4 tensors"):
        imported(written(tmp_path, SOUND), tmp_path)


def test_a_pickle_with_this_ending_is_named_and_not_opened(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "run",))

    with pytest.raises(UnsupportedFile, match="is a Python pickle") as refused:
        imported(written(tmp_path, pickle.dumps(Evil())), tmp_path)
    assert "can run code" in (refused.value.hint or "")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "ending",
    [
        *("bin", "pt", "pth", "pkl", "ckpt", "npz", "pt2", "keras", "nemo", "PT", "pickle", "h5"),
        *("py", "joblib"),
    ],
)
def test_formats_that_may_run_code_are_refused_whatever_is_in_them(
    tmp_path: Path, ending: str
) -> None:
    path = written(tmp_path, SOUND, f"model.{ending}")
    with pytest.raises(UnsupportedFile, match="may run code of its own"):
        imported(path, tmp_path)
