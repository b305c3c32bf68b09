"""Where in a TOML file something is said: `tomllib` does not tell."""

from __future__ import annotations

import tomllib


def line_of(text: str, key: str, *inner: str) -> int | None:
    """The line, from 1, on which a top-level key or the table of that name begins; or, with
    ``inner``, what these keys lead to inside of it.

    ``text`` is valid TOML. A line begins a key if all before it is valid and lacks it, and the
    next beginning of the file that is valid has it. None: the key is spelt with escapes, or is
    not there.
    """
    path = (key, *inner)
    lines = text.splitlines(keepends=True)
    for number, line in enumerate(lines):
        before = _read(lines[:number])
        if path[-1] in line and before is not None and not _has(before, path):
            longer = (_read(lines[:end]) for end in range(number + 1, len(lines) + 1))
            if _has(next((read for read in longer if read is not None), {}), path):
                return number + 1
    return None


def _has(read: object, path: tuple[str, ...]) -> bool:
    for key in path:
        if not isinstance(read, dict) or key not in read:
            return False
        read = read[key]
    return True


def _read(lines: list[str]) -> dict[str, object] | None:
    try:
        return tomllib.loads("".join(lines))
    except tomllib.TOMLDecodeError:  # in the middle of a value
        return None
