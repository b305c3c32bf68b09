"""How the value of a setting is read, whether it comes as text or as TOML.

Each form raises `ValueError` with the end of a sentence that begins with the setting's name.
``metavar`` is what a flag's help calls the value.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from freehold.domain.durations import seconds

# Scheme, host, port: nothing after it, and no pattern.
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:[0-9]{1,5})?")


class PartError(ValueError):
    """A part of a value is wrong: ``path`` leads to it. ``value`` is quoted, unless it is None."""

    def __init__(self, message: str, path: tuple[str, ...], value: object = None) -> None:
        super().__init__(message)
        self.path = path
        self.value = value


class Form(Protocol):
    """What a value may be."""

    @property
    def metavar(self) -> str: ...

    def __call__(self, value: Any) -> Any: ...


@dataclass(frozen=True)
class Number:
    """A whole number, both ends allowed."""

    low: int
    high: int
    metavar: str = "N"

    def __call__(self, value: Any) -> int:
        if isinstance(value, bool | float):
            raise ValueError("must be a whole number")
        try:
            number = int(value)
        except (TypeError, ValueError):
            raise ValueError("must be a whole number") from None
        if not self.low <= number <= self.high:
            raise ValueError(f"must be between {self.low} and {self.high}")
        return number


@dataclass(frozen=True)
class Text:
    metavar: str = "TEXT"

    def __call__(self, value: Any) -> str:
        if not isinstance(value, str) or not value:
            raise ValueError("must be a non-empty text")
        return value


@dataclass(frozen=True)
class Switch:
    metavar: str = "true|false"

    def __call__(self, value: Any) -> bool:
        if isinstance(value, bool):
            return value
        known = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
        try:
            return known[str(value).lower()]
        except KeyError:
            raise ValueError("must be true or false") from None


@dataclass(frozen=True)
class Location:
    """A path; ``~`` is the home folder."""

    metavar: str = "PATH"

    def __call__(self, value: Any) -> Path:
        return Path(Text()(value)).expanduser().absolute()


@dataclass(frozen=True)
class OneOf:
    names: tuple[str, ...]

    @property
    def metavar(self) -> str:
        return "|".join(self.names)

    def __call__(self, value: Any) -> str:
        if value not in self.names:
            raise ValueError(f"must be {', '.join(self.names[:-1])} or {self.names[-1]}")
        return str(value)


@dataclass(frozen=True)
class Duration:
    """As `durations.seconds` reads it."""

    metavar: str = "DURATION"

    def __call__(self, value: Any) -> float:
        try:
            if isinstance(value, bool) or not isinstance(value, str | int | float):
                raise ValueError
            return seconds(value)
        except ValueError:
            raise ValueError('must be seconds, a duration such as 30m, or "forever"') from None


@dataclass(frozen=True)
class Names:
    """A list, or names with commas between several."""

    metavar: str = "NAME"

    def __call__(self, value: Any) -> tuple[str, ...]:
        if isinstance(value, str):
            value = [item.strip() for item in value.split(",") if item.strip()]
        fits = isinstance(value, list | tuple)
        if not fits or not all(isinstance(item, str) and item for item in value):
            raise ValueError("must be names, as in qwen3:4b")
        return tuple(value)


@dataclass(frozen=True)
class Origins:
    """A list of web origins, as browsers send them, or several with commas between."""

    metavar: str = "ORIGIN"

    def __call__(self, value: Any) -> tuple[str, ...]:
        origins = tuple(name.lower() for name in Names()(value))
        if not all(_ORIGIN.fullmatch(origin) for origin in origins):
            raise ValueError("must be exact origins, as in https://chat.example.org")
        return origins


@dataclass(frozen=True)
class Pairs:
    """A table, or ``name=model`` with commas between several."""

    metavar: str = "NAME=MODEL"

    def __call__(self, value: Any) -> Mapping[str, str]:
        if isinstance(value, str):
            value = [item for item in value.split(",") if item.strip()]
        if isinstance(value, list | tuple):
            split = [str(item).partition("=") for item in value]
            value = {name.strip(): model.strip() if sign else None for name, sign, model in split}
        whole = isinstance(value, Mapping) and all(
            isinstance(text, str) and text for pair in value.items() for text in pair
        )
        if not whole:
            raise ValueError("must be pairs of a name and a model, as in gpt-4o=qwen3:4b")
        if set(value) & set(value.values()):
            raise ValueError("must be names of models, not of each other")
        return dict(value)
