"""Sentences for people that programs can word in another language.

A `Sentence` is its English text, and is used as that everywhere. Beside it stands which sentence it
is (``code``, which stays the same from version to version) and what it says it about (``values``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Union

# A sentence can quote others.
Value = Union[str, int, float, "Sentence", tuple["Sentence", ...]]


class Sentence(str):
    """A text that compares, sorts and prints as any other."""

    code: str
    values: Mapping[str, Value]

    def __new__(
        cls, text: str, code: str = "", values: Mapping[str, Value] | None = None
    ) -> Sentence:
        """``code`` empty: a text that nobody can word otherwise."""
        made = super().__new__(cls, text)
        made.code = code
        made.values = {} if values is None else values
        return made


def said(code: str, template: str, **values: Value) -> Sentence:
    """``template`` with ``values`` in their places, as `str.format` puts them."""
    shown = {name: _joined(value) for name, value in values.items()}
    return Sentence(template.format(**shown), code, values)


def _joined(value: Value) -> str | int | float:
    return " ".join(value) if isinstance(value, tuple) else value


def as_data(told: Sentence) -> dict[str, Any]:
    """For JSON; `from_data` reads it."""
    return {
        "text": str(told),
        "code": told.code,
        "values": {name: _value_data(value) for name, value in told.values.items()},
    }


def _value_data(value: Value) -> Any:
    if isinstance(value, tuple):
        return [as_data(each) for each in value]
    return as_data(value) if isinstance(value, Sentence) else value


def from_data(data: Mapping[str, Any]) -> Sentence:
    """Of another process of ours: raises `KeyError` and the like for anything else."""
    values = {name: _value_of(value) for name, value in data["values"].items()}
    return Sentence(data["text"], data["code"], values)


def _value_of(value: Any) -> Value:
    if isinstance(value, list):
        return tuple(from_data(each) for each in value)
    return from_data(value) if isinstance(value, dict) else value


def as_sentence(text: str) -> Sentence:
    """``text``, with a code if it has one."""
    return text if isinstance(text, Sentence) else Sentence(text)
