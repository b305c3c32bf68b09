"""A small writer of GGUF files, version 3, little endian (ggml's ``docs/gguf.md``).

It writes the tiny models that the start-up probe and the tests run. It checks
that values fit their types and data its shape; the full check is the reader's.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

from freehold.weights.gguf_types import (
    DEFAULT_ALIGNMENT,
    MAGIC,
    VALUE_CODES,
    TensorType,
    ValueType,
    padded,
)

Scalar = bool | int | float | str


@dataclass(frozen=True)
class Typed:
    """A scalar of an explicit type, for where the default of `Value` is not the right one."""

    type: ValueType
    value: Scalar


@dataclass(frozen=True)
class Array:
    """An array; all items have the one type, which is not ``ARRAY``."""

    item_type: ValueType
    items: Sequence[Scalar]


Value = Scalar | Typed | Array
"""A metadata value. Plain ones become BOOL, UINT32, FLOAT32 and STRING, llama.cpp's usual types."""


@dataclass(frozen=True)
class Tensor:
    """One tensor: ``shape`` fastest dimension first, ``data`` in the encoding of ``type``."""

    name: str
    shape: tuple[int, ...]
    type: TensorType
    data: bytes


def write_gguf(path: Path, metadata: Mapping[str, Value], tensors: Sequence[Tensor]) -> None:
    """Write a model file, replacing ``path``.

    ``general.alignment`` is obeyed when ``metadata`` holds it, and is 32 bytes
    otherwise. Raises `ValueError` when a value does not fit its type or a
    tensor's data is not as long as its shape says, `OSError` when writing fails.
    """
    alignment = _alignment(metadata)
    header = _header(metadata, tensors, alignment)
    with path.open("wb") as file:
        file.write(_fill(header, alignment))
        for tensor in tensors:
            file.write(_fill(tensor.data, alignment))


def _header(metadata: Mapping[str, Value], tensors: Sequence[Tensor], alignment: int) -> bytes:
    chunks = [MAGIC, struct.pack("<IQQ", 3, len(tensors), len(metadata))]
    for key, value in metadata.items():
        chunks += (_string(key), _value(value))
    offset = 0
    for tensor in tensors:
        _check_length(tensor)
        dimensions = len(tensor.shape)
        shape = struct.pack(f"<I{dimensions}Q", dimensions, *tensor.shape)
        chunks += (_string(tensor.name), shape, struct.pack("<IQ", tensor.type, offset))
        offset += padded(len(tensor.data), alignment)
    return b"".join(chunks)


def _alignment(metadata: Mapping[str, Value]) -> int:
    value = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    alignment = value.value if isinstance(value, Typed) else value
    if not isinstance(alignment, int) or alignment < 1:
        raise ValueError(f"general.alignment must be a positive whole number, not {alignment!r}")
    return alignment


def _check_length(tensor: Tensor) -> None:
    if not tensor.shape or tensor.shape[0] % tensor.type.block_size:
        raise ValueError(f"{tensor.name}: rows are not whole blocks of {tensor.type.block_size}")
    expected = prod(tensor.shape) // tensor.type.block_size * tensor.type.block_bytes
    if len(tensor.data) != expected:
        raise ValueError(f"{tensor.name}: {len(tensor.data)} bytes of data, not {expected}")


def _value(value: Value) -> bytes:
    if isinstance(value, Array):
        preamble = struct.pack("<IIQ", ValueType.ARRAY, value.item_type, len(value.items))
        return preamble + b"".join(_scalar(value.item_type, item) for item in value.items)
    typed = value if isinstance(value, Typed) else Typed(_default_type(value), value)
    return struct.pack("<I", typed.type) + _scalar(typed.type, typed.value)


def _default_type(value: Scalar) -> ValueType:
    # bool before int: True is an int too.
    if isinstance(value, bool):
        return ValueType.BOOL
    if isinstance(value, int):
        return ValueType.UINT32
    return ValueType.FLOAT32 if isinstance(value, float) else ValueType.STRING


def _scalar(kind: ValueType, value: Scalar) -> bytes:
    if isinstance(value, str) != (kind is ValueType.STRING) or kind is ValueType.ARRAY:
        raise ValueError(f"{value!r} cannot be written as {kind.name}")
    if isinstance(value, str):
        return _string(value)
    try:
        return struct.pack("<" + VALUE_CODES[kind], value)
    except (struct.error, OverflowError) as error:
        raise ValueError(f"{value!r} cannot be written as {kind.name}: {error}") from error


def _string(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack("<Q", len(encoded)) + encoded


def _fill(data: bytes, alignment: int) -> bytes:
    return data + bytes(padded(len(data), alignment) - len(data))
