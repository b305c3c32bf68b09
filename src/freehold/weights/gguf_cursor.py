"""A walk over the bytes of a GGUF header that cannot leave them.

Every read says what it is for, so that a file that ends or lies too early is
refused with the place and the thing; every declared number is held against a
limit and against the bytes that remain before anyone acts on it.
"""

from __future__ import annotations

import mmap
import stat
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from freehold.domain.errors import InvalidModelFile, UnsupportedFile
from freehold.weights.gguf_foreign import BAD_DOWNLOAD, FETCH_AGAIN, FETCH_GGUF
from freehold.weights.gguf_types import VALUE_CODES, VALUE_TYPES, ValueType

Scalar = bool | int | float | str

U32: Final = struct.Struct("<I")
U64: Final = struct.Struct("<Q")
_SIZES: Final = {kind: struct.calcsize("<" + code) for kind, code in VALUE_CODES.items()}


@dataclass(frozen=True)
class Limits:
    """What a header may declare at most. Lengths are bytes.

    Far above real files (about 30 metadata entries, 6 MB of header for a
    vocabulary of 150,000), far below what would hurt.
    """

    metadata_entries: int = 4_096
    key_length: int = 65_535
    string_length: int = 1 << 20
    array_items: int = 2_000_000
    tensors: int = 50_000
    tensor_name_length: int = 64
    dimensions: int = 4
    smallest_alignment: int = 8
    largest_alignment: int = 4_096
    header_bytes: int = 64 << 20


DEFAULT_LIMITS: Final = Limits()


@dataclass(frozen=True)
class ArraySpan:
    """Where the items of a checked array lie. ``offset`` and ``nbytes`` are bytes of the file."""

    item_type: ValueType
    count: int
    offset: int
    nbytes: int


class Cursor:
    """``position`` is the next byte to read. Every method raises `InvalidModelFile`."""

    def __init__(
        self, path: Path, buffer: mmap.mmap, *, file_size: int, limits: Limits, position: int
    ) -> None:
        self.path = path
        self.limits = limits
        self.position = position
        self._buffer = buffer
        self._end = len(buffer)
        self._file_size = file_size

    def malformed(self, problem: str) -> InvalidModelFile:
        return malformed(self.path, f"{problem} (byte {self.position:,})")

    def take(self, size: int, what: str) -> int:
        """Step over ``size`` bytes and return where they start."""
        start = self.position
        if size > self._end - start:
            raise self._runs_out(what)
        self.position = start + size
        return start

    def u32(self, what: str) -> int:
        value: int = U32.unpack_from(self._buffer, self.take(4, what))[0]
        return value

    def u64(self, what: str) -> int:
        value: int = U64.unpack_from(self._buffer, self.take(8, what))[0]
        return value

    def count(self, what: str, *, limit: int, least: int) -> int:
        """A declared number of things, each of which takes at least ``least`` bytes."""
        declared = self.u64(f"the number of {what}")
        if declared > limit:
            raise self.malformed(f"it declares {declared:,} {what}, but {limit:,} are the limit")
        if declared * least > self._end - self.position:
            raise self._runs_out(f"the {declared:,} {what} it declares")
        return declared

    def string(self, what: str, *, limit: int) -> str:
        length = self.u64(f"the length of {what}")
        if length > limit:
            raise self.malformed(f"{what} takes {length:,} bytes, but {limit:,} are the limit")
        start = self.take(length, what)
        try:
            return self._buffer[start : start + length].decode()
        except UnicodeDecodeError:
            raise self.malformed(f"{what} is not UTF-8") from None

    def scalar(self, kind: ValueType, what: str) -> Scalar:
        if kind is ValueType.STRING:
            return self.string(what, limit=self.limits.string_length)
        start = self.take(_SIZES[kind], what)
        if kind is ValueType.BOOL and self._buffer[start] > 1:
            raise self.malformed(f"{what} is neither true nor false")
        value: Scalar = struct.unpack_from("<" + VALUE_CODES[kind], self._buffer, start)[0]
        return value

    def array(self, what: str) -> ArraySpan:
        """Step over an array, checking every item without decoding it."""
        number = self.u32(f"the item type of {what}")
        kind = VALUE_TYPES.get(number)
        if kind is None:
            raise self.malformed(f"{what} has items of the unknown type {number}")
        if kind is ValueType.ARRAY:
            raise self.malformed(f"{what} is an array of arrays")
        size = _SIZES.get(kind, U64.size)  # a string takes at least its length
        count = self.count(f"items in {what}", limit=self.limits.array_items, least=size)
        start = self.position
        if kind is ValueType.STRING:
            self._skip_strings(count, what)
        else:
            self.take(count * size, what)
        # `strip` leaves nothing if, and only if, every byte is one of the two.
        if kind is ValueType.BOOL and self._buffer[start : self.position].strip(b"\0\1"):
            raise self.malformed(f"{what} has an item that is neither true nor false")
        return ArraySpan(kind, count, start, self.position - start)

    def _skip_strings(self, count: int, what: str) -> None:
        # The one hot loop: a vocabulary and its merges are some 300,000 strings.
        unpack, buffer, limit = U64.unpack_from, self._buffer, self.limits.string_length
        position = self.position
        try:
            for _ in range(count):
                (length,) = unpack(buffer, position)
                if length > limit:
                    self.position = position
                    raise self.malformed(f"a string in {what} claims {length:,} bytes")
                position += 8 + length
        except struct.error:
            raise self._runs_out(what) from None
        self.take(position - self.position, what)

    def _runs_out(self, what: str) -> InvalidModelFile:
        if self._end < self._file_size:
            return self.malformed(f"its header is longer than {self._end:,} bytes")
        return self.malformed(f"it ends before {what}")


def mapped(path: Path, budget: int) -> tuple[mmap.mmap, int]:
    """The first ``budget`` bytes of the file, unread, and the size of the whole.

    The caller closes the map. Raises `UnsupportedFile` for anything but a
    regular, readable file that holds something.
    """
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise UnsupportedFile(
                f"{path.name} is a directory, not a model file.",
                hint="Name the GGUF file inside it.",
            )
        # Opening a pipe would wait for a writer, so this comes before the opening.
        if not stat.S_ISREG(status.st_mode):
            raise UnsupportedFile(f"{path.name} is not a regular file.", hint=FETCH_GGUF)
        if status.st_size == 0:
            raise UnsupportedFile(f"{path.name} is empty.", hint=BAD_DOWNLOAD)
        length = min(status.st_size, budget)
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), length, access=mmap.ACCESS_READ), status.st_size
    except (OSError, ValueError) as error:
        # ValueError: the file shrank between the two looks, or its name holds a NUL.
        raise unreadable(path, error) from error


def unreadable(path: Path, error: OSError | ValueError) -> UnsupportedFile:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return UnsupportedFile(
        f"{path.name} cannot be read: {reason}.", hint="Check the path and its permissions."
    )


def malformed(path: Path, problem: str) -> InvalidModelFile:
    return InvalidModelFile(
        f"{path.name} is not a well-formed GGUF file: {problem}.", hint=FETCH_AGAIN
    )
