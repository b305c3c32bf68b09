"""What a GGUF header says, as data: the result of `gguf.read_header`."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

from freehold.weights.gguf_cursor import U64, Scalar, malformed, unreadable
from freehold.weights.gguf_types import FILE_TYPES, VALUE_CODES, TensorType, ValueType


@dataclass(frozen=True)
class TensorInfo:
    """One tensor as the header declares it.

    ``shape`` is in ggml's order, the fastest dimension first. ``offset`` is in
    bytes from the start of the data section; ``nbytes`` excludes padding.
    """

    name: str
    shape: tuple[int, ...]
    type: TensorType
    offset: int
    nbytes: int

    @property
    def elements(self) -> int:
        return prod(self.shape)


@dataclass(frozen=True)
class GgufArray:
    """A metadata array, left in the file until `read`.

    ``offset`` and ``nbytes`` say where its items lie in ``path``.
    """

    path: Path
    item_type: ValueType
    count: int
    offset: int
    nbytes: int

    def read(self) -> tuple[Scalar, ...]:
        """Decode the items from the file.

        Raises `InvalidModelFile` when a string is not UTF-8 or the file has
        changed since its header was read, `UnsupportedFile` when it cannot be read.
        """
        try:
            with self.path.open("rb") as file:
                file.seek(self.offset)
                data = file.read(self.nbytes)
        except OSError as error:
            raise unreadable(self.path, error) from error
        where = f"the array at byte {self.offset:,}"
        try:
            if self.item_type is ValueType.STRING:
                return tuple(_strings(data, self.count))
            return struct.unpack(f"<{self.count}{VALUE_CODES[self.item_type]}", data)
        except UnicodeDecodeError as error:
            raise malformed(self.path, f"{where} holds text that is not UTF-8") from error
        except struct.error as error:
            raise malformed(self.path, f"{where} changed after the header was read") from error


MetadataValue = Scalar | GgufArray


@dataclass(frozen=True)
class GgufHeader:
    """A header that passed every check.

    ``metadata`` keeps the order of the file. ``alignment``, ``data_offset``
    (where the data section starts) and ``file_size`` are bytes.
    """

    path: Path
    version: int
    metadata: Mapping[str, MetadataValue]
    tensors: tuple[TensorInfo, ...]
    alignment: int
    data_offset: int
    file_size: int

    def text(self, key: str) -> str | None:
        """The string at ``key``; None when it is absent or of another type."""
        value = self.metadata.get(key)
        return value if isinstance(value, str) else None

    def integer(self, key: str) -> int | None:
        """The whole number at ``key``; None when it is absent or of another type."""
        value = self.metadata.get(key)
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    def number(self, key: str) -> int | float | None:
        """The number at ``key``, whole or not; None when it is absent or of another type."""
        value = self.metadata.get(key)
        return value if isinstance(value, int | float) and not isinstance(value, bool) else None

    @property
    def architecture(self) -> str | None:
        """``llama``, ``qwen2`` …; None in the later parts of a split model."""
        return self.text("general.architecture")

    @property
    def context_length(self) -> int | None:
        """The context the model was trained for, in tokens."""
        return self.integer(f"{self.architecture}.context_length")

    @property
    def chat_template(self) -> str | None:
        """The Jinja source of the default chat template."""
        return self.text("tokenizer.chat_template")

    @property
    def quantisation(self) -> str | None:
        """The usual name of the file type, such as ``Q4_K_M``; None when the file says none."""
        file_type = self.integer("general.file_type")
        return None if file_type is None else FILE_TYPES.get(file_type)

    @property
    def parameter_count(self) -> int:
        """Elements of all tensors in this file."""
        return sum(tensor.elements for tensor in self.tensors)

    @property
    def split_count(self) -> int:
        """How many files the model comes in; 1 when it is not split."""
        return max(1, self.integer("split.count") or 1)

    @property
    def data_size(self) -> int:
        """Bytes of the data section, without the padding after its last tensor."""
        return self.tensors[-1].offset + self.tensors[-1].nbytes if self.tensors else 0


@dataclass(frozen=True)
class SplitModel:
    """The parts of one model, checked against each other.

    ``header`` is that of the first part, the only one that carries the metadata;
    ``paths`` are in the order of the parts; ``total_bytes`` is the sum of the files.
    """

    header: GgufHeader
    paths: tuple[Path, ...]
    total_bytes: int
    tensor_count: int
    parameter_count: int


def _strings(data: bytes, count: int) -> Iterator[str]:
    position = 0
    for _ in range(count):
        start = position + U64.size
        position = start + U64.unpack_from(data, position)[0]
        yield data[start:position].decode()
    if position != len(data):
        raise struct.error("the items do not fill the array")
