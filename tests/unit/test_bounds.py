"""JSON from outside: how deep it may be, and that it can be told again."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from freehold.api.bounds import MAX_DEPTH, JsonObject

CHECK: TypeAdapter[Any] = TypeAdapter(JsonObject)


def nested(depth: int, *, lists: bool = False) -> dict[str, Any]:
    value: Any = {}
    for _ in range(depth - 2):
        value = [value] if lists else {"x": value}
    return {"x": value}


@pytest.mark.parametrize("lists", [False, True])
def test_depth(lists: bool) -> None:
    deepest = nested(MAX_DEPTH, lists=lists)
    assert CHECK.validate_python(deepest) == deepest
    for depth in (MAX_DEPTH + 1, 900, 100_000):
        with pytest.raises(ValidationError, match="deep"):
            CHECK.validate_python(nested(depth, lists=lists))


def test_half_a_character() -> None:
    with pytest.raises(ValidationError, match="half a character"):
        CHECK.validate_python({"x": "\ud83d"})
