"""A bounded reader of safetensors headers.

Freehold runs GGUF files; this says of a safetensors file whether it is one, and a sound one, so
that a pickle with another ending or a header made to hurt is refused by name. Nothing the
file says is believed, and of the tensor data only the extent is looked at.

The format is that of the safetensors project: eight bytes with the length of a JSON object, the
object, and then the data, which the tensors fill without gaps. As there, a key must not
come twice.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from freehold.domain.errors import InvalidModelFile, UnsupportedFile
from freehold.weights.gguf_cursor import mapped
from freehold.weights.gguf_foreign import FETCH_AGAIN, SAFETENSORS, SNIFFED, recognise
from freehold.weights.gguf_types import MAGIC

MAX_HEADER_BYTES: Final = 25 << 20
MAX_TENSORS: Final = 50_000
MAX_METADATA: Final = 4_096  # entries
MAX_NAME: Final = 1_024
MAX_DIMENSIONS: Final = 16

_LENGTH: Final = struct.Struct("<Q")
_MAX_INT64: Final = 2**63 - 1
_METADATA: Final = "__metadata__"

# Bits of one element.
_DTYPES: Final[Mapping[str, int]] = MappingProxyType(
    {
        **dict.fromkeys(("F4",), 4),
        **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
        **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 8),
        **dict.fromkeys(("F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
        **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
        **dict.fromkeys(("U32", "I32", "F32"), 32),
        **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
    }
)
_DECODER: Final = json.JSONDecoder()
_SPACE: Final = re.compile(r"[ \t\n\r]*")
# Nothing in an entry is an object, so the first brace ends it.
_ENTRY: Final = re.compile(r"\{[^{}]{0,2000}\}")
_KEYS: Final = {"dtype", "shape", "data_offsets"}


@dataclass(frozen=True)
class Tensor:
    """One tensor as the header declares it; ``begin`` and ``end`` are bytes of the data section."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class SafetensorsHeader:
    """A header that passed every check. ``tensors`` are in the order of their data."""

    path: Path
    metadata: Mapping[str, str]
    tensors: tuple[Tensor, ...]
    data_offset: int
    file_size: int


def read_header(path: Path) -> SafetensorsHeader:
    """Read and check the header of one file.

    Raises `UnsupportedFile` when the file is something else or unreadable, and
    `InvalidModelFile` when it is not well formed or its tensor data is not all there.
    """
    buffer, file_size = mapped(path, _LENGTH.size + MAX_HEADER_BYTES)
    with buffer:
        _refuse_foreign(path, buffer[:SNIFFED])
        if len(buffer) < _LENGTH.size:
            raise _malformed(path, f"it ends after {len(buffer)} bytes")
        length: int = _LENGTH.unpack_from(buffer)[0]
        if length > MAX_HEADER_BYTES:
            raise _malformed(
                path, f"its header takes {length:,} bytes, but {MAX_HEADER_BYTES:,} are the limit"
            )
        if length > file_size - _LENGTH.size:
            raise _malformed(path, "it ends before its header does")
        raw = buffer[_LENGTH.size : _LENGTH.size + length]
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise _malformed(path, "its header is not UTF-8") from None
    metadata, tensors = _Reader(path, text).entries()
    offset = _LENGTH.size + length
    ordered = tuple(sorted(tensors, key=lambda tensor: (tensor.begin, tensor.end)))
    _check_extent(path, ordered, file_size - offset)
    return SafetensorsHeader(path, MappingProxyType(metadata), ordered, offset, file_size)


class _Reader:
    """A walk over the header's JSON, which has two shapes of entry and no others."""

    def __init__(self, path: Path, text: str) -> None:
        self._path = path
        self._text = text
        self._at = 0

    def entries(self) -> tuple[dict[str, str], list[Tensor]]:
        metadata: dict[str, str] = {}
        tensors: list[Tensor] = []
        names: set[str] = set()
        if not self._text.startswith("{"):
            raise self._malformed("its header does not begin with a brace")
        for name in self._keys():
            if len(name) > MAX_NAME:
                raise self._malformed(f"a name has more than {MAX_NAME:,} characters")
            if name in names:
                raise self._malformed(f"{_shown(name)} appears twice")
            names.add(name)
            if name == _METADATA:
                metadata = self._metadata()
                continue
            if len(tensors) == MAX_TENSORS:
                raise self._malformed(f"it declares more than {MAX_TENSORS:,} tensors")
            tensors.append(self._tensor(name))
        if self._text[self._at :].strip(" "):
            raise self._malformed("something follows its header's last brace")
        return metadata, tensors

    def _keys(self) -> Iterator[str]:
        """The keys of the object that begins here; whoever asks has read each value."""
        self._expect("{")
        if self._skip() == "}":
            self._at += 1
            return
        while True:
            key = self._string()
            self._expect(":")
            yield key
            if self._skip() == "}":
                self._at += 1
                return
            self._expect(",")

    def _metadata(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for key in self._keys():
            if key in found:
                raise self._malformed(f"{_shown(key)} appears twice in its metadata")
            if len(found) == MAX_METADATA:
                raise self._malformed(f"its metadata has more than {MAX_METADATA:,} entries")
            found[key] = self._string()
        return found

    def _tensor(self, name: str) -> Tensor:
        self._skip()
        match = _ENTRY.match(self._text, self._at)
        if match is None:
            raise self._malformed(f"{_shown(name)} is not described by a flat object")
        try:
            pairs: list[tuple[str, Any]] = json.loads(match[0], object_pairs_hook=list)
        except (ValueError, RecursionError):
            raise self._malformed(f"the description of {_shown(name)} is not JSON") from None
        self._at = match.end()
        described = dict(pairs)
        if len(pairs) != len(_KEYS) or described.keys() != _KEYS:
            raise self._malformed(f"{_shown(name)} needs dtype, shape and data_offsets, each once")
        return self._checked(name, **described)

    def _checked(self, name: str, dtype: Any, shape: Any, data_offsets: Any) -> Tensor:
        bits = _DTYPES.get(dtype) if isinstance(dtype, str) else None
        if bits is None:
            raise self._malformed(f"{_shown(name)} is of the unknown type {_shown(str(dtype))}")
        if not _are_sizes(shape) or len(shape) > MAX_DIMENSIONS:
            raise self._malformed(f"the shape of {_shown(name)} is none")
        if not _are_sizes(data_offsets) or len(data_offsets) != 2:
            raise self._malformed(f"the offsets of {_shown(name)} are none")
        begin, end = data_offsets
        size, rest = divmod(prod(shape) * bits, 8)
        if rest or max(size, end) > _MAX_INT64 or end - begin != size:
            raise self._malformed(f"the offsets of {_shown(name)} do not fit its shape")
        return Tensor(name, dtype, tuple(shape), begin, end)

    def _string(self) -> str:
        if self._skip() != '"':
            raise self._malformed(f"its header is not JSON at character {self._at:,}")
        try:
            # What begins with a quotation mark is decoded as a string or not at all.
            text, self._at = _DECODER.raw_decode(self._text, self._at)
        except ValueError:
            raise self._malformed("a string in its header is none") from None
        return str(text)

    def _expect(self, character: str) -> None:
        if self._skip() != character:
            raise self._malformed(f"its header is not JSON at character {self._at:,}")
        self._at += 1

    def _skip(self) -> str:
        """Step over white space; the character that follows, empty at the end."""
        match = _SPACE.match(self._text, self._at)
        if match is not None:
            self._at = match.end()
        return self._text[self._at : self._at + 1]

    def _malformed(self, problem: str) -> InvalidModelFile:
        return _malformed(self._path, problem)


def _refuse_foreign(path: Path, head: bytes) -> None:
    if head.startswith(MAGIC):
        raise UnsupportedFile(
            f"{path.name} is a GGUF file, not a safetensors file.", hint="Call it .gguf."
        )
    kind, hint = recognise(head)
    if kind not in (None, SAFETENSORS):
        raise UnsupportedFile(f"{path.name} is {kind}, not a safetensors file.", hint=hint)


def _check_extent(path: Path, tensors: tuple[Tensor, ...], available: int) -> None:
    at = 0
    for tensor in tensors:
        if tensor.begin < at:
            raise _malformed(path, f"{_shown(tensor.name)} overlaps another tensor")
        if tensor.begin > at:
            gap = f"{tensor.begin - at:,} bytes before {_shown(tensor.name)} belong to no tensor"
            raise _malformed(path, gap)
        at = tensor.end
    if at > available:
        raise InvalidModelFile(
            f"{path.name} is cut short: of the {at:,} bytes of data its header promises, the last "
            f"{at - available:,} are missing.",
            hint="Fetch it again; the download did not finish.",
        )
    if at < available:
        raise _malformed(path, f"{available - at:,} bytes follow the end of its tensors")


def _are_sizes(value: Any) -> bool:
    # `type` and not `isinstance`: True is an int too.
    return isinstance(value, list) and all(
        type(each) is int and 0 <= each <= _MAX_INT64 for each in value
    )


def _malformed(path: Path, problem: str) -> InvalidModelFile:
    return InvalidModelFile(
        f"{path.name} is not a well-formed safetensors file: {problem}.", hint=FETCH_AGAIN
    )


def _shown(name: str) -> str:
    plain = "".join(c if c.isprintable() else repr(c)[1:-1] for c in name[:61])
    return plain if len(plain) <= 60 else f"{plain[:57]}..."
