"""The GGUF reader against well-formed and damaged files. Those made to hurt: test_hostile_gguf."""

from __future__ import annotations

import math
import os
import random
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from freehold.domain.errors import InvalidModelFile, RefusedFile, UnsupportedFile
from freehold.engines.llamacpp.probe_model import VOCABULARY_SIZE, write_probe_model
from freehold.weights.gguf import (
    DataCheck,
    GgufArray,
    GgufHeader,
    Limits,
    TensorType,
    ValueType,
    read_header,
    read_split,
)
from freehold.weights.gguf_types import FILE_TYPES, VALUE_CODES
from freehold.weights.gguf_writer import Array, Tensor, Typed, Value, write_gguf
from tests.support.hostile_gguf import gguf, tensor
from tests.support.tiny_model import write_tiny_llama

ONE_OF_EACH: dict[str, Value] = {
    "general.architecture": "llama",
    "general.file_type": 15,
    "llama.context_length": 512,
    "llama.rope.freq_base": 10_000.0,
    "tokenizer.chat_template": "{{ messages }}",
    "a.bool": True,
    "a.int8": Typed(ValueType.INT8, -8),
    "a.uint64": Typed(ValueType.UINT64, 2**64 - 1),
    "a.float64": Typed(ValueType.FLOAT64, 0.1),
    "an.array.of.strings": Array(ValueType.STRING, ("", "ä", "Ġthe")),
    "an.array.of.bools": Array(ValueType.BOOL, (True, False)),
    "an.array.of.numbers": Array(ValueType.INT32, (1, -1)),
    "an.empty.array": Array(ValueType.FLOAT32, ()),
}
TWO_TENSORS = (
    Tensor("a.weight", (32, 2), TensorType.Q8_0, bytes(68)),
    Tensor("b.weight", (3,), TensorType.F32, bytes(12)),
)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    write_gguf(path, ONE_OF_EACH, TWO_TENSORS)
    return path


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedFile, match="is a directory"):
        read_header(tmp_path)
    with pytest.raises(UnsupportedFile, match="cannot be read: No such file"):
        read_header(tmp_path / "absent.gguf")
    with pytest.raises(UnsupportedFile, match="cannot be read"):
        read_header(tmp_path / "a\0b.gguf")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_refused_without_waiting_for_a_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.gguf")
    with pytest.raises(UnsupportedFile, match="not a regular file"):
        read_header(tmp_path / "pipe.gguf")


def test_header_says_what_was_written(model: Path) -> None:
    header = read_header(model)
    assert header.version == 3
    assert list(header.metadata) == list(ONE_OF_EACH)
    assert header.architecture == "llama"
    assert header.context_length == 512
    assert header.chat_template == "{{ messages }}"
    assert header.quantisation == "Q4_K_M"
    assert header.split_count == 1
    assert header.parameter_count == 67
    assert header.alignment == 32
    assert header.data_size == 96 + 12
    assert header.file_size == model.stat().st_size == header.data_offset + 128
    assert [(t.name, t.shape, t.type, t.offset, t.nbytes) for t in header.tensors] == [
        ("a.weight", (32, 2), TensorType.Q8_0, 0, 68),
        ("b.weight", (3,), TensorType.F32, 96, 12),
    ]


def test_accessors_give_none_for_what_is_absent_or_of_another_type(model: Path) -> None:
    header = read_header(model)
    assert header.number("llama.rope.freq_base") == 10_000.0
    assert header.number("llama.context_length") == 512
    assert header.integer("a.int8") == -8
    assert header.integer("a.uint64") == 2**64 - 1
    assert header.metadata["a.bool"] is True
    for missing in ("absent", "a.bool", "an.array.of.strings"):
        assert header.text(missing) is None
        assert header.integer(missing) is None
        assert header.number(missing) is None
    assert header.integer("llama.rope.freq_base") is None
    assert header.text("llama.context_length") is None


def items(header: GgufHeader, key: str) -> tuple[object, ...]:
    array = header.metadata[key]
    assert isinstance(array, GgufArray)
    values = array.read()
    assert len(values) == array.count
    return values


def test_arrays_are_read_on_demand(model: Path) -> None:
    header = read_header(model)
    assert items(header, "an.array.of.strings") == ("", "ä", "Ġthe")
    assert items(header, "an.array.of.bools") == (True, False)
    assert items(header, "an.array.of.numbers") == (1, -1)
    assert items(header, "an.empty.array") == ()


def test_array_of_a_file_that_changed_is_refused(model: Path) -> None:
    header = read_header(model)
    content = model.read_bytes()
    os.truncate(model, 200)
    for key in ("an.array.of.strings", "an.array.of.numbers"):
        with pytest.raises(InvalidModelFile, match="changed after the header was read"):
            items(header, key)
    model.write_bytes(content.replace("Ġthe".encode(), "Ġth".encode() + b"\xff"))
    with pytest.raises(InvalidModelFile, match="not UTF-8"):
        items(header, "an.array.of.strings")
    model.unlink()
    with pytest.raises(UnsupportedFile, match="cannot be read"):
        items(header, "an.array.of.strings")


def test_version_2_is_read(tmp_path: Path) -> None:
    path = tmp_path / "v2.gguf"
    path.write_bytes(gguf(tensor(), tensors=1, data=32, version=2))
    assert read_header(path).version == 2


def test_last_tensor_may_end_the_file_without_padding(model: Path) -> None:
    header = read_header(model)
    end = header.data_offset + header.data_size
    os.truncate(model, end)
    assert read_header(model).tensors == header.tensors
    os.truncate(model, end - 1)
    with pytest.raises(InvalidModelFile, match="the last 1 are missing"):
        read_header(model)


def test_file_without_tensors_is_read(tmp_path: Path) -> None:
    path = tmp_path / "vocabulary.gguf"
    write_gguf(path, ONE_OF_EACH, ())
    header = read_header(path)
    assert header.tensors == ()
    assert header.parameter_count == 0


@pytest.mark.parametrize("alignment", [8, 64, 4_096])
def test_alignment_is_obeyed(alignment: int, tmp_path: Path) -> None:
    path = tmp_path / "aligned.gguf"
    write_gguf(path, {"general.alignment": alignment}, TWO_TENSORS)
    header = read_header(path)
    assert header.alignment == alignment
    assert header.data_offset % alignment == 0
    assert header.tensors[1].offset == math.ceil(68 / alignment) * alignment


def test_header_only_wants_the_header_and_nothing_more(model: Path) -> None:
    header = read_header(model)
    end_of_header = len(model.read_bytes()[: header.data_offset].rstrip(b"\0"))
    os.truncate(model, header.data_offset)
    assert read_header(model, data=DataCheck.HEADER_ONLY).tensors == header.tensors
    os.truncate(model, end_of_header - 1)
    with pytest.raises(InvalidModelFile, match="ends before"):
        read_header(model, data=DataCheck.HEADER_ONLY)


def test_header_only_still_refuses_trailing_bytes(model: Path) -> None:
    with model.open("ab") as file:
        file.write(b"\0")
    with pytest.raises(InvalidModelFile, match="1 bytes follow"):
        read_header(model, data=DataCheck.HEADER_ONLY)


def test_header_budget_is_kept(model: Path) -> None:
    with pytest.raises(InvalidModelFile, match="header is longer than 256 bytes"):
        read_header(model, limits=Limits(header_bytes=256))


def test_a_vocabulary_is_walked_quickly(tmp_path: Path) -> None:
    words = tuple(f"word{number}" for number in range(150_000))
    path = tmp_path / "large.gguf"
    write_gguf(path, {"tokens": Array(ValueType.STRING, words)}, ())
    begun = time.process_time()
    header = read_header(path)
    assert time.process_time() - begun < 0.3  # about 0.01 s on a machine at rest
    assert items(header, "tokens") == words


# Split models.


def write_part(folder: Path, number: int, count: int = 3, total: int = 3, **more: Value) -> Path:
    path = folder / f"part-{number}-of-{count}.gguf"
    metadata: dict[str, Value] = {
        "split.no": Typed(ValueType.UINT16, number),
        "split.count": Typed(ValueType.UINT16, count),
        "split.tensors.count": Typed(ValueType.INT32, total),
        **more,
    }
    if number == 0:
        metadata["general.architecture"] = "llama"
    write_gguf(path, metadata, [Tensor(f"t{number}", (8,), TensorType.F32, bytes(32))])
    return path


@pytest.fixture
def parts(tmp_path: Path) -> list[Path]:
    return [write_part(tmp_path, number) for number in range(3)]


def test_split_model_is_one_model_in_any_order(parts: list[Path]) -> None:
    model = read_split([parts[2], parts[0], parts[1]])
    assert model.header.architecture == "llama"
    assert model.header.split_count == 3
    assert model.paths == tuple(parts)
    assert model.tensor_count == 3
    assert model.parameter_count == 24
    assert model.total_bytes == sum(part.stat().st_size for part in parts)


def test_single_file_is_a_model_of_one_part(model: Path) -> None:
    assert read_split([model]).header.architecture == "llama"
    with pytest.raises(ValueError, match="at least one"):
        read_split([])


Spoil = Callable[[list[Path], Path], list[Path]]


def twin_of_a_tensor(parts: list[Path], folder: Path) -> list[Path]:
    parts[2].write_bytes(parts[2].read_bytes().replace(b"t2", b"t1"))
    return parts


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda parts, _: parts[:2], "part-0-of-3.gguf is one of 3 parts; missing: 3"),
        (lambda parts, _: parts[1:2], "missing: 1, 3"),
        (lambda parts, _: [*parts, parts[1]], "is part 2 of 3, and so is"),
        (lambda parts, folder: [*parts, write_part(folder, 3, 4)], "is not one of the 3 parts"),
        (lambda parts, folder: [*parts[:2], write_part(folder, 2, 2)], "is not one of the 3 parts"),
        (lambda parts, folder: [*parts[:2], write_part(folder, 3, 3)], "is not one of the 3 parts"),
        (lambda parts, folder: [*parts[:2], write_part(folder, 2, total=4)], "counts 4 tensors"),
        (twin_of_a_tensor, "hold one tensor twice"),
    ],
)
def test_split_that_does_not_add_up_is_refused(
    spoil: Spoil, problem: str, parts: list[Path], tmp_path: Path
) -> None:
    with pytest.raises(InvalidModelFile, match=problem):
        read_split(spoil(parts, tmp_path))


def test_file_from_elsewhere_is_no_part(parts: list[Path], model: Path) -> None:
    with pytest.raises(InvalidModelFile, match="is not one of the 3 parts"):
        read_split([*parts[:2], model])
    with pytest.raises(InvalidModelFile, match="is not one of the 1 parts"):
        read_split([model, *parts])


# The writer.


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (-1, "cannot be written as UINT32"),
        (1e300, "cannot be written as FLOAT32"),
        (Typed(ValueType.UINT8, 256), "cannot be written as UINT8"),
        (Typed(ValueType.INT32, 1.5), "cannot be written as INT32"),
        (Typed(ValueType.STRING, 1), "cannot be written as STRING"),
        (Typed(ValueType.ARRAY, 1), "cannot be written as ARRAY"),
        (Array(ValueType.INT32, ("1",)), "cannot be written as INT32"),
    ],
)
def test_writer_refuses_values_that_do_not_fit(value: Value, problem: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=problem):
        write_gguf(tmp_path / "no.gguf", {"k": value}, ())
    assert not (tmp_path / "no.gguf").exists()


def test_writer_refuses_data_that_is_not_the_shape(tmp_path: Path) -> None:
    path = tmp_path / "no.gguf"
    with pytest.raises(ValueError, match="31 bytes of data, not 32"):
        write_gguf(path, {}, [Tensor("t", (8,), TensorType.F32, bytes(31))])
    with pytest.raises(ValueError, match="not whole blocks of 32"):
        write_gguf(path, {}, [Tensor("t", (8,), TensorType.Q8_0, bytes(34))])
    with pytest.raises(ValueError, match="positive whole number"):
        write_gguf(path, {"general.alignment": 0}, [])


# The models we write ourselves.


def test_probe_model_has_what_the_fast_kernels_want(tmp_path: Path) -> None:
    path = tmp_path / "probe.gguf"
    write_probe_model(path)
    header = read_header(path)
    matrices = [tensor for tensor in header.tensors if len(tensor.shape) == 2]
    assert {t.type.name for t in matrices} == {"Q4_0", "Q8_0", "Q4_K", "Q6_K"}
    assert all(t.shape[0] % 256 == 0 and t.shape[1] % 32 == 0 for t in matrices)
    assert path.stat().st_size < 1_000_000
    first = path.read_bytes()
    write_probe_model(path)
    assert path.read_bytes() == first


@pytest.mark.parametrize("weights", [TensorType.F32, TensorType.Q4_0, TensorType.Q8_0])
def test_tiny_llama_is_well_formed(weights: TensorType, tmp_path: Path) -> None:
    path = write_tiny_llama(tmp_path / "tiny.gguf", weights=weights, context_length=128)
    header = read_header(path)
    assert header.architecture == "llama"
    assert header.context_length == 128
    assert header.quantisation == weights.name
    tokens = items(header, "tokenizer.ggml.tokens")
    assert len(set(tokens)) == len(tokens) == VOCABULARY_SIZE == 288
    assert tokens[-3:] == ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    for merge in items(header, "tokenizer.ggml.merges"):
        left, right = str(merge).split(" ")
        assert {left, right, left + right} <= set(tokens)


def test_seed_changes_the_weights_and_nothing_else(tmp_path: Path) -> None:
    one = write_tiny_llama(tmp_path / "1.gguf", seed=1)
    two = write_tiny_llama(tmp_path / "2.gguf", seed=2)
    start = read_header(one).data_offset
    assert one.read_bytes()[:start] == two.read_bytes()[:start]
    assert one.read_bytes()[start:] != two.read_bytes()[start:]


def test_tiny_llama_refuses_types_it_cannot_fill(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no random weights of type IQ1_S"):
        write_tiny_llama(tmp_path / "no.gguf", weights=TensorType.IQ1_S)
    with pytest.raises(ValueError, match="whole blocks of 256"):
        write_tiny_llama(tmp_path / "no.gguf", weights=TensorType.Q4_K, embedding=64)


def test_names_of_file_types_are_tensor_types_or_mixes() -> None:
    plain = {name for name in FILE_TYPES.values() if not name.endswith(("_S", "_M", "_L", "_XS"))}
    assert plain - {"MXFP4_MOE"} <= {kind.name for kind in TensorType}


# Properties.

FIXED_WIDTH = {
    ValueType.UINT8: st.integers(0, 2**8 - 1),
    ValueType.INT8: st.integers(-(2**7), 2**7 - 1),
    ValueType.UINT16: st.integers(0, 2**16 - 1),
    ValueType.INT16: st.integers(-(2**15), 2**15 - 1),
    ValueType.UINT32: st.integers(0, 2**32 - 1),
    ValueType.INT32: st.integers(-(2**31), 2**31 - 1),
    ValueType.UINT64: st.integers(0, 2**64 - 1),
    ValueType.INT64: st.integers(-(2**63), 2**63 - 1),
    ValueType.FLOAT32: st.floats(width=32, allow_nan=False),
    ValueType.FLOAT64: st.floats(allow_nan=False),
    ValueType.BOOL: st.booleans(),
}
SCALARS = {**FIXED_WIDTH, ValueType.STRING: st.text(max_size=20)}


def typed_scalars(kind: ValueType) -> st.SearchStrategy[Value]:
    return st.builds(Typed, st.just(kind), SCALARS[kind])


def arrays(kind: ValueType) -> st.SearchStrategy[Value]:
    return st.builds(Array, st.just(kind), st.lists(SCALARS[kind], max_size=5).map(tuple))


VALUES = st.sampled_from(sorted(SCALARS)).flatmap(lambda k: st.one_of(typed_scalars(k), arrays(k)))
KEYS = st.text("abc_.09", min_size=1, max_size=12).map(lambda name: f"x.{name}")


@st.composite
def tensors(draw: st.DrawFn) -> list[Tensor]:
    drawn = []
    for name in draw(st.lists(st.text("ab.ü", min_size=1, max_size=8), max_size=4, unique=True)):
        kind = draw(st.sampled_from(sorted(TensorType)))
        blocks, *rest = draw(st.lists(st.integers(1, 3), min_size=1, max_size=4))
        size = blocks * math.prod(rest) * kind.block_bytes
        shape = (blocks * kind.block_size, *rest)
        drawn.append(Tensor(name, shape, kind, bytes(size)))
    return drawn


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gguf") / "scratch.gguf"


@pytest.fixture(scope="module")
def intact(scratch: Path) -> bytes:
    write_gguf(scratch, ONE_OF_EACH, TWO_TENSORS)
    return scratch.read_bytes()


def plain(value: object) -> object:
    return value.read() if isinstance(value, GgufArray) else value


@settings(max_examples=150, deadline=None, database=None)
@given(metadata=st.dictionaries(KEYS, VALUES, max_size=6), tensors=tensors())
def test_what_is_written_is_read(
    metadata: dict[str, Value], tensors: list[Tensor], scratch: Path
) -> None:
    write_gguf(scratch, metadata, tensors)
    header = read_header(scratch)
    assert {key: plain(value) for key, value in header.metadata.items()} == {
        key: value.items if isinstance(value, Array) else value.value
        for key, value in metadata.items()
        if isinstance(value, Array | Typed)
    }
    assert [(t.name, t.shape, t.type) for t in header.tensors] == [
        (t.name, t.shape, t.type) for t in tensors
    ]
    assert [t.nbytes for t in header.tensors] == [len(t.data) for t in tensors]


def read_or_refuse(path: Path, content: bytes) -> None:
    """Anything but a header or a printable refusal, within 100 ms, fails the test."""
    path.write_bytes(content)
    begun = time.process_time()
    try:
        header = read_header(path)
        for value in header.metadata.values():
            plain(value)
    except RefusedFile as refused:
        message = refused.message
    else:
        message = ""
    assert message.isprintable()
    assert time.process_time() - begun < 0.1


@settings(max_examples=300, deadline=None, database=None)
@given(
    flips=st.lists(st.tuples(st.integers(0, 2_000), st.integers(0, 255)), min_size=1, max_size=8)
)
def test_changed_bytes_are_read_or_refused(
    flips: list[tuple[int, int]], intact: bytes, scratch: Path
) -> None:
    content = bytearray(intact)
    for place, byte in flips:
        content[place % len(content)] = byte
    read_or_refuse(scratch, bytes(content))


@settings(max_examples=150, deadline=None, database=None)
@given(tail=st.binary(max_size=200), keep=st.integers(4, 600))
def test_any_bytes_after_a_good_beginning_are_read_or_refused(
    tail: bytes, keep: int, intact: bytes, scratch: Path
) -> None:
    read_or_refuse(scratch, intact[:keep] + tail)


def interesting_numbers() -> Iterator[int]:
    for bits in (8, 16, 31, 32, 33, 40, 62, 63, 64):
        yield from (2**bits - 1, (2**bits) % 2**64)


def test_every_field_overwritten_with_numbers_that_overflow(intact: bytes, scratch: Path) -> None:
    """At each byte of the header, eight bytes of some dangerous number."""
    numbers = list(interesting_numbers())
    rng = random.Random(0)
    for place in range(len(intact) - 8):
        number = struct.pack("<Q", rng.choice(numbers))
        read_or_refuse(scratch, intact[:place] + number + intact[place + 8 :])


def test_codes_are_those_of_the_fixed_width_types() -> None:
    assert set(VALUE_CODES) == set(FIXED_WIDTH)
