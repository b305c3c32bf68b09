"""What every dialect asks of JSON from outside, before anything walks through it."""

from __future__ import annotations

import json
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, Field

T = TypeVar("T")

# Deeper than any schema people write, far from where recursion ends.
MAX_DEPTH = 64


def writable(value: T) -> T:
    """What is told again has to be writable: JSON can spell half a character, UTF-8 cannot."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except (UnicodeEncodeError, RecursionError):
        raise ValueError("it has half a character in it, or is nested too deeply") from None
    return value


def _shallow(value: dict[str, Any]) -> dict[str, Any]:
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        level = [
            item
            for each in level
            for item in (each.values() if isinstance(each, dict) else each)
            if isinstance(item, dict | list)
        ]
        if not level:
            return value
    raise ValueError(f"it is nested more than {MAX_DEPTH} deep")


def given(value: T | None, default: T) -> T:
    """What the caller said, or ours where nothing was said."""
    return default if value is None else value


JsonObject = Annotated[dict[str, Any], AfterValidator(_shallow), AfterValidator(writable)]

ErrorValues = Annotated[
    dict[str, str | int | float | list[str]],
    Field(
        description="What an error is about, by name: a model, a limit, a host. Never text of a "
        "prompt. Which there can be depends on its `code`; more may be added.",
        examples=[{"prompt_tokens": 9000, "context_tokens": 8192}],
    ),
]
