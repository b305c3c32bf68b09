"""From bytes to our types, in any thread.

msgspec (0.22.0) works out what a type consists of when it first meets it, and in the middle of
that a second thread that meets the same type reads what is not there yet: the process dies of
SIGSEGV. So all first meetings happen here, one at a time; nobody else calls msgspec's decoders.
"""

from __future__ import annotations

import threading
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")

_meeting = threading.Lock()
_met: set[Any] = set()


def from_json(data: bytes | str, kind: type[T]) -> T:
    """Raises `msgspec.DecodeError`, or `msgspec.ValidationError` where it is another type's."""
    known: type[T] = _known(kind)
    return msgspec.json.decode(data, type=known)


def from_values(values: object, kind: type[T]) -> T:
    """The same from dictionaries and lists, as TOML gives them."""
    known: type[T] = _known(kind)
    return msgspec.convert(values, known)


def json_decoder(kind: type[T]) -> msgspec.json.Decoder[T]:
    """For many texts of one type."""
    return msgspec.json.Decoder(_known(kind))


def msgpack_decoder(kind: Any) -> msgspec.msgpack.Decoder[Any]:
    """The same for msgpack. ``kind`` may be a union."""
    return msgspec.msgpack.Decoder(_known(kind))


def _known(kind: Any) -> Any:
    if kind not in _met:
        with _meeting:
            msgspec.json.Decoder(kind)
            _met.add(kind)
    return kind
