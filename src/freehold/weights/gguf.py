"""A bounded reader of GGUF headers.

It decides whether a file may be shown to native code, so it believes nothing
the file says. It reads the header only; of the tensor data it checks the extent.

The format is that of ggml's ``docs/gguf.md``, versions 2 and 3, little endian.
Where llama.cpp's own reader (``ggml/src/gguf.cpp``) is stricter than that text,
so is this one: tensors follow each other in the order of the header, without gaps.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import Final

from freehold.domain.errors import InvalidModelFile, UnsupportedFile
from freehold.weights.gguf_cursor import (
    DEFAULT_LIMITS,
    Cursor,
    Limits,
    Scalar,
    malformed,
    mapped,
)
from freehold.weights.gguf_foreign import FETCH_AGAIN, FETCH_GGUF, SNIFFED, refuse_foreign
from freehold.weights.gguf_header import (
    GgufArray,
    GgufHeader,
    MetadataValue,
    SplitModel,
    TensorInfo,
)
from freehold.weights.gguf_types import (
    DEFAULT_ALIGNMENT,
    MAGIC,
    REMOVED_TENSOR_TYPES,
    TENSOR_TYPES,
    VALUE_TYPES,
    TensorType,
    ValueType,
    padded,
)

__all__ = [
    "DEFAULT_LIMITS",
    "DataCheck",
    "GgufArray",
    "GgufHeader",
    "Limits",
    "MetadataValue",
    "Scalar",
    "SplitModel",
    "TensorInfo",
    "TensorType",
    "ValueType",
    "read_header",
    "read_split",
]

_MAX_INT64: Final = 2**63 - 1

# The least one entry can take: what a declared number of them costs before it is believed.
_LEAST_PAIR: Final = 8 + 1 + 4 + 1  # length and one letter of the key, type, one-byte value
_LEAST_TENSOR: Final = 8 + 1 + 4 + 8 + 4 + 8  # name, number of dimensions, one, type, offset

# The types llama.cpp insists on; with another it refuses the file or stops the process.
_WELL_KNOWN: Final = MappingProxyType(
    {
        "general.alignment": ValueType.UINT32,
        "general.architecture": ValueType.STRING,
        "tokenizer.chat_template": ValueType.STRING,
        "split.no": ValueType.UINT16,
        "split.count": ValueType.UINT16,
        "split.tensors.count": ValueType.INT32,
    }
)
_NAMED_TEMPLATE: Final = "tokenizer.chat_template."


class DataCheck(enum.Enum):
    """Whether the tensor data must be in the file."""

    REQUIRE_TENSORS = "require_tensors"
    HEADER_ONLY = "header_only"
    """The file may end anywhere after its header, as during a download."""


def read_header(
    path: Path,
    *,
    data: DataCheck = DataCheck.REQUIRE_TENSORS,
    limits: Limits = DEFAULT_LIMITS,
) -> GgufHeader:
    """Read and check the header of one GGUF file.

    Raises `UnsupportedFile` when the file is something else (the message says
    what), of another version, or unreadable, and `InvalidModelFile` when it is
    not well formed or its tensor data is not all there.
    """
    buffer, file_size = mapped(path, limits.header_bytes)
    with buffer:
        refuse_foreign(path, buffer[:SNIFFED])
        cursor = Cursor(path, buffer, file_size=file_size, limits=limits, position=len(MAGIC))
        version = _read_version(cursor)
        tensor_count = cursor.count("tensors", limit=limits.tensors, least=_LEAST_TENSOR)
        metadata = _read_metadata(cursor)
        alignment = _alignment(cursor, metadata)
        tensors = _read_tensors(cursor, tensor_count, alignment)
        end = cursor.position
    header = GgufHeader(
        path=path,
        version=version,
        metadata=MappingProxyType(metadata),
        tensors=tensors,
        alignment=alignment,
        data_offset=padded(end, alignment) if tensors else end,
        file_size=file_size,
    )
    _check_extent(header, data)
    return header


def read_split(
    paths: Sequence[Path],
    *,
    data: DataCheck = DataCheck.REQUIRE_TENSORS,
    limits: Limits = DEFAULT_LIMITS,
) -> SplitModel:
    """Read the parts of a model, given in any order, and check that they belong together.

    A single file that is not split is a model of one part. Raises what
    `read_header` raises, and `InvalidModelFile` when a part is missing, doubled
    or one too many, or when the parts disagree.
    """
    if not paths:
        raise ValueError("a model has at least one file")
    headers = [read_header(path, data=data, limits=limits) for path in paths]
    split = len(headers) > 1 or headers[0].split_count > 1
    parts = _in_order(headers) if split else headers
    names = [tensor.name for part in parts for tensor in part.tensors]
    if split:
        _check_tensors_of_parts(parts, names)
    return SplitModel(
        header=parts[0],
        paths=tuple(part.path for part in parts),
        total_bytes=sum(part.file_size for part in parts),
        tensor_count=len(names),
        parameter_count=sum(part.parameter_count for part in parts),
    )


def _read_version(cursor: Cursor) -> int:
    version = cursor.u32("its version")
    name = cursor.path.name
    if version in (2, 3):
        return version
    if version == 0:
        raise cursor.malformed("its version is 0")
    if version == 1:
        raise UnsupportedFile(
            f"{name} is GGUF version 1, which llama.cpp no longer reads.", hint=FETCH_GGUF
        )
    if version & 0xFFFF == 0:
        raise UnsupportedFile(
            f"{name} is a big-endian GGUF file; freehold reads little-endian ones.",
            hint="Look for a conversion for ordinary machines (x86, ARM).",
        )
    raise UnsupportedFile(
        f"{name} says it is GGUF version {version}; freehold reads versions 2 and 3.",
        hint="Fetch the file again, or look for a newer freehold.",
    )


def _read_metadata(cursor: Cursor) -> dict[str, MetadataValue]:
    limits = cursor.limits
    count = cursor.count("metadata entries", limit=limits.metadata_entries, least=_LEAST_PAIR)
    metadata: dict[str, MetadataValue] = {}
    for index in range(count):
        key = cursor.string(f"metadata key {index + 1}", limit=limits.key_length)
        if not key or not key.isascii() or not key.isprintable():
            raise cursor.malformed(f"metadata key {index + 1} is not printable ASCII")
        if key in metadata:
            raise cursor.malformed(f"the metadata key {_shown(key)} appears twice")
        metadata[key] = _read_value(cursor, key)
    return metadata


def _read_value(cursor: Cursor, key: str) -> MetadataValue:
    what = f"the value of {_shown(key)}"
    number = cursor.u32(f"the type of {_shown(key)}")
    kind = VALUE_TYPES.get(number)
    if kind is None:
        raise cursor.malformed(f"{what} has the unknown type {number}")
    wanted = ValueType.STRING if key.startswith(_NAMED_TEMPLATE) else _WELL_KNOWN.get(key, kind)
    if kind is not wanted:
        raise cursor.malformed(f"{what} is of type {kind.name}, not {wanted.name}")
    if kind is not ValueType.ARRAY:
        return cursor.scalar(kind, what)
    span = cursor.array(what)
    return GgufArray(cursor.path, span.item_type, span.count, span.offset, span.nbytes)


def _alignment(cursor: Cursor, metadata: Mapping[str, MetadataValue]) -> int:
    alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    least, most = cursor.limits.smallest_alignment, cursor.limits.largest_alignment
    # A power of two has one bit set, none of it below.
    if not isinstance(alignment, int) or alignment & (alignment - 1):
        raise cursor.malformed(f"its alignment of {alignment:,} is no power of two")
    if not least <= alignment <= most:
        raise cursor.malformed(f"its alignment of {alignment:,} is not within {least} and {most:,}")
    return alignment


def _read_tensors(cursor: Cursor, count: int, alignment: int) -> tuple[TensorInfo, ...]:
    tensors: list[TensorInfo] = []
    names: set[str] = set()
    expected = 0
    for index in range(count):
        tensor = _read_tensor(cursor, index)
        if tensor.name in names:
            raise cursor.malformed(f"the tensor {tensor.name} appears twice")
        _check_offset(cursor, tensor, expected, alignment)
        expected = padded(tensor.offset + tensor.nbytes, alignment)
        names.add(tensor.name)
        tensors.append(tensor)
    return tuple(tensors)


def _read_tensor(cursor: Cursor, index: int) -> TensorInfo:
    limits = cursor.limits
    name = cursor.string(f"the name of tensor {index + 1}", limit=limits.tensor_name_length)
    # llama.cpp compares names as C strings: a NUL would make two names one.
    if not name or not name.isprintable():
        raise cursor.malformed(f"the name of tensor {index + 1} is not printable")
    what = f"the description of tensor {name}"
    dimensions = cursor.u32(what)
    if not 1 <= dimensions <= limits.dimensions:
        raise cursor.malformed(f"the tensor {name} has {dimensions:,} dimensions")
    shape = tuple(cursor.u64(what) for _ in range(dimensions))
    kind = _tensor_type(cursor, name, cursor.u32(what))
    return TensorInfo(name, shape, kind, cursor.u64(what), _nbytes(cursor, name, shape, kind))


def _tensor_type(cursor: Cursor, name: str, number: int) -> TensorType:
    kind = TENSOR_TYPES.get(number)
    if kind is not None:
        return kind
    if number in REMOVED_TENSOR_TYPES:
        problem = f"the tensor {name} is of type {REMOVED_TENSOR_TYPES[number]}, which ggml removed"
    else:
        problem = f"the tensor {name} is of the unknown type {number}"
    raise cursor.malformed(problem)


def _nbytes(cursor: Cursor, name: str, shape: tuple[int, ...], kind: TensorType) -> int:
    elements = prod(shape)
    if 0 in shape:
        raise cursor.malformed(f"the tensor {name} has a dimension of no elements")
    if shape[0] % kind.block_size:
        raise cursor.malformed(
            f"the rows of tensor {name} are not a multiple of {kind.block_size} elements"
        )
    nbytes = elements // kind.block_size * kind.block_bytes
    if max(elements, nbytes) > _MAX_INT64:
        raise cursor.malformed(f"the tensor {name} is larger than any memory")
    return nbytes


def _check_offset(cursor: Cursor, tensor: TensorInfo, expected: int, alignment: int) -> None:
    if tensor.offset % alignment:
        problem = f"starts at {tensor.offset:,}, which is not a multiple of {alignment}"
    elif tensor.offset < expected:
        problem = f"starts at {tensor.offset:,} and overlaps the one before, up to {expected:,}"
    elif tensor.offset > expected:
        problem = f"starts at {tensor.offset:,} and leaves a gap from {expected:,}"
    elif tensor.offset + tensor.nbytes > _MAX_INT64:
        problem = "ends beyond the size of any file"
    else:
        return
    raise cursor.malformed(f"the tensor {tensor.name} {problem}")


def _check_extent(header: GgufHeader, data: DataCheck) -> None:
    promised = header.data_offset + header.data_size
    missing = promised - header.file_size
    if missing > 0 and data is DataCheck.REQUIRE_TENSORS:
        raise InvalidModelFile(
            f"{header.path.name} is cut short: of the {promised:,} bytes its header promises, "
            f"the last {missing:,} are missing.",
            hint="Fetch it again; the download did not finish.",
        )
    surplus = header.file_size - padded(promised, header.alignment)
    if surplus > 0:
        problem = f"{surplus:,} bytes follow the end of its tensors at byte {promised:,}"
        raise malformed(header.path, problem)


def _in_order(headers: Sequence[GgufHeader]) -> list[GgufHeader]:
    first = headers[0]
    count = first.split_count
    found: dict[int, GgufHeader] = {}
    for header in headers:
        number = header.integer("split.no")
        if number is None or number >= count or header.split_count != count:
            raise _mismatch(header, f"is not one of the {count} parts {first.path.name} counts")
        if number in found:
            same = found[number].path.name
            raise _mismatch(header, f"is part {number + 1} of {count}, and so is {same}")
        found[number] = header
    missing = [str(number + 1) for number in range(count) if number not in found]
    if missing:
        raise InvalidModelFile(
            f"{first.path.name} is one of {count} parts; missing: {', '.join(missing[:8])}"
            f"{' and more' if len(missing) > 8 else ''}.",
            hint="Fetch the missing parts as well.",
        )
    return [found[number] for number in range(count)]


def _check_tensors_of_parts(parts: Sequence[GgufHeader], names: Sequence[str]) -> None:
    if len(set(names)) != len(names):
        raise _mismatch(parts[0], "and its other parts hold one tensor twice")
    for part in parts:
        declared = part.integer("split.tensors.count")
        if declared != len(names):
            raise _mismatch(part, f"counts {declared} tensors, but the parts hold {len(names)}")


def _mismatch(header: GgufHeader, problem: str) -> InvalidModelFile:
    return InvalidModelFile(f"{header.path.name} {problem}.", hint=FETCH_AGAIN)


def _shown(key: str) -> str:
    """A key of 65,535 letters belongs in no message."""
    return key if len(key) <= 80 else f"{key[:77]}..."
