"""Values as TOML, exactly: what `tomllib` reads back is equal."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from freehold.domain.durations import seconds, spelled
from freehold.domain.errors import InvalidSetting

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_SHORT = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t"}


def document(values: Mapping[str, Any]) -> str:
    """A file with these top-level values; tables come last, as TOML wants it."""
    plain = [f"{_key(name)} = {value(each)}" for name, each in values.items() if not _tables(each)]
    tables = [line for name, each in values.items() if _tables(each) for line in _table(name, each)]
    return "".join(f"{line}\n" for line in (*plain, *tables))


def value(each: Any) -> str:
    """What stands behind the equals sign."""
    match each:
        case bool():
            return str(each).lower()
        case int():
            return str(each)
        case float():
            return _duration(each)
        case str() | Path():
            return _text(str(each))
        case list() | tuple():
            return f"[{', '.join(map(value, each))}]"
        case _:
            raise TypeError(f"no TOML is known for {type(each).__name__}")


def _tables(each: Any) -> bool:
    return isinstance(each, Mapping)


def _table(path: str, rows: Mapping[str, Any]) -> Iterator[str]:
    """``[path]`` and what is in it; a table within goes after it."""
    plain = {name: each for name, each in rows.items() if not _tables(each)}
    if plain or not rows:
        yield from ("", f"[{path}]")
        yield from (f"{_key(name)} = {value(each)}" for name, each in plain.items())
    for name, each in rows.items():
        if _tables(each):
            yield from _table(f"{path}.{_key(name)}", each)


def _duration(length: float) -> str:
    """The only floats among settings: ``"30m"`` where that is exact, seconds where it is not."""
    text = spelled(length)
    if math.isinf(length) or seconds(text) == length:
        return _text(text)
    return repr(length)


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else _text(name)


def _text(text: str) -> str:
    return f'"{"".join(map(_character, text))}"'


def _character(each: str) -> str:
    if each in _SHORT:
        return _SHORT[each]
    code = ord(each)
    if 0xD800 <= code <= 0xDFFF:
        raise InvalidSetting("A setting has bytes that are no text, which no file can carry.")
    if each.isprintable():
        return each
    return f"\\u{code:04X}" if code <= 0xFFFF else f"\\U{code:08X}"
