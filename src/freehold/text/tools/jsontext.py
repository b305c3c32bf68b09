"""JSON objects in text that is still coming, and the calls in them."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Generator
from typing import Any, NoReturn

from freehold.text.answer import Call
from freehold.text.tools.reading import Cursor, Mismatch

# Between brackets and strings: numbers, true, false, null, commas, colons, whitespace. Whether they
# are in order is for `json` to say; what is none of them ends the object early.
_BETWEEN = re.compile(r"[-+.0-9eEtrufalsn,: \t\r\n]*")
_CHARACTERS = re.compile(r'(?:[^"\\\x00-\x1f]|\\["\\/bfnrtu])*')
_SPACE = re.compile(r"[ \t\r\n]*")
_CLOSING = {"{": "}", "[": "]"}

# What may stand in a call beside its name and its arguments, and says nothing.
_IDLE = frozenset({"id", "type"})


def _no_constant(_: str) -> NoReturn:
    raise ValueError


_DECODER = json.JSONDecoder(parse_constant=_no_constant)


def take_object(
    cursor: Cursor, first_keys: Collection[str] | None = None
) -> Generator[None, None, str]:
    """Up to where an object ends: its text, which need not be JSON yet.

    ``first_keys``: an object whose first key is another one is a `Mismatch` at once.
    """
    start = cursor.at
    yield from cursor.take("{")
    open_ = ["}"]
    keys = first_keys
    while open_:
        yield from cursor.run(_BETWEEN)
        character = yield from cursor.peek()
        if character == '"':
            inside = yield from _take_string(cursor)
            if keys is not None and inside not in keys:
                raise Mismatch
            keys = None
        elif character in _CLOSING:
            cursor.at += 1
            open_.append(_CLOSING[character])
        elif character == open_[-1]:
            cursor.at += 1
            open_.pop()
        else:
            raise Mismatch
    return cursor.text[start : cursor.at]


def _take_string(cursor: Cursor) -> Generator[None, None, str]:
    cursor.at += 1
    start = cursor.at
    while True:
        yield from cursor.run(_CHARACTERS)
        character = yield from cursor.peek()
        if character == '"':
            cursor.at += 1
            return cursor.text[start : cursor.at - 1]
        if character != "\\" or len(cursor.text) > cursor.at + 1:
            raise Mismatch
        yield from cursor.wait()


def members(text: str) -> dict[str, tuple[Any, str]]:
    """The values of a JSON object, each also as it is written.

    ``text`` is what `take_object` has found; `Mismatch` if it is not JSON.
    """
    found: dict[str, tuple[Any, str]] = {}
    at = _after(text, 0, "{")
    if at == len(text) - 1:
        return found
    while True:
        key, at = _value(text, at)
        at = _after(text, at, ":")
        value, end = _value(text, at)
        if not isinstance(key, str) or key in found:
            raise Mismatch
        found[key] = value, text[at:end]
        at = _skip(text, end)
        if at == len(text) - 1:
            return found
        at = _after(text, at, ",")


def _value(text: str, at: int) -> tuple[Any, int]:
    try:
        found = _DECODER.raw_decode(text, at)
        json.dumps(found[0], ensure_ascii=False).encode()  # JSON can spell half a character
        return found
    except (ValueError, RecursionError):  # no JSON, a number of 5,000 digits, or nested too deeply
        raise Mismatch from None


def _skip(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    assert found is not None
    return found.end()


def _after(text: str, at: int, sign: str) -> int:
    at = _skip(text, at)
    if not text.startswith(sign, at):
        raise Mismatch
    return _skip(text, at + len(sign))


def named_call(text: str, tools: Collection[str], arguments: Collection[str]) -> Call:
    """The call that an object of a name and arguments is; `Mismatch` if it is none.

    ``arguments`` are the keys the arguments may have.
    """
    found = members(text)
    keys = found.keys() - _IDLE - {"name"}
    name = found.get("name", (None, ""))[0]
    if len(keys) != 1 or not isinstance(name, str) or name not in tools:
        raise Mismatch
    (key,) = keys
    value, written = found[key]
    if key not in arguments or not isinstance(value, dict):
        raise Mismatch
    return Call(name, written)


def direct_call(name: str, arguments: str) -> Call:
    """The call of ``name`` with an object; `Mismatch` if the object is not JSON."""
    if _value(arguments, 0)[1] != len(arguments):
        raise Mismatch
    return Call(name, arguments)


def first_keys(arguments: Collection[str]) -> frozenset[str]:
    """What an object read by `named_call` can begin with."""
    return frozenset({"name", *arguments}) | _IDLE
