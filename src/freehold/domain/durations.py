"""How long something lasts, as people and Ollama's clients write it: ``5m``, ``1h30m``, ``300``."""

from __future__ import annotations

import math
import re

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"([0-9]{1,9}(?:\.[0-9]{0,9})?)(ns|us|µs|ms|s|m|h)")
DURATION = re.compile(rf"[+-]?(?:[0-9]{{1,9}}|(?:{_PART.pattern}){{1,7}})")
FOREVER = "forever"


def seconds(value: str | float) -> float:
    """Seconds; infinity for ``forever`` and for everything below zero. Raises `ValueError`."""
    if isinstance(value, str):
        if value == FOREVER:
            return math.inf
        value = _spelled(value)
    if math.isnan(value):
        raise ValueError("it is no duration")
    return math.inf if value < 0 else value


def _spelled(text: str) -> float:
    if DURATION.fullmatch(text) is None:
        raise ValueError("it is no duration")
    sign = -1 if text.startswith("-") else 1
    digits = text.lstrip("+-")
    if digits.isdigit():
        return sign * float(digits)
    return sign * sum(float(count) * _UNITS[unit] for count, unit in _PART.findall(digits))


def spelled(length: float) -> str:
    """``forever``, ``90s``, ``5m``, ``1h30m``: as `seconds` reads it, to the second."""
    if math.isinf(length):
        return FOREVER
    minutes, rest = divmod(round(length), 60)
    hours, minutes = divmod(minutes, 60)
    parts = ((hours, "h"), (minutes, "m"), (rest, "s"))
    return "".join(f"{count}{unit}" for count, unit in parts if count) or "0s"
