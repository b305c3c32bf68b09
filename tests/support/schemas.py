"""JSON schemas of growing nastiness, seeded: what clients send, and what nobody should."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

Schema = dict[str, Any]


def simple(dice: random.Random, depth: int) -> Schema:
    """A schema whose answers are short."""
    leaves: list[Callable[[], Schema]] = [
        lambda: {"type": "boolean"},
        lambda: {"type": "null"},
        lambda: {"type": "integer", "minimum": dice.randint(-9, 0), "maximum": dice.randint(1, 99)},
        lambda: {"type": "number", "exclusiveMinimum": 0, "maximum": dice.randint(1, 9)},
        lambda: {"type": "string", "minLength": dice.randint(0, 3), "maxLength": 8},
        lambda: {"enum": dice.sample(["red", "green", 7, None, True, "ü\n", {"a": 1}, [1]], 3)},
        lambda: {"const": dice.choice(["x", 0, False, {"b": []}])},
        lambda: {"type": "string", "pattern": dice.choice([r"^[a-c]{2,4}$", r"^\d{3}-\d{2}$"])},
        lambda: {"type": "string", "format": dice.choice(["date", "time", "uuid", "ipv4"])},
        lambda: {"type": dice.sample(["boolean", "null", "integer"], 2), "maximum": 50},
    ]
    if depth == 0:
        return dice.choice(leaves)()
    branches: list[Callable[[], Schema]] = [
        lambda: {
            "type": "array",
            "items": simple(dice, depth - 1),
            "minItems": dice.randint(0, 1),
            "maxItems": 2,
        },
        lambda: _object(dice, depth),
        lambda: {"anyOf": [simple(dice, depth - 1) for _ in range(2)]},
        lambda: {
            "type": "array",
            "prefixItems": [simple(dice, depth - 1), simple(dice, 0)],
            "items": False,
            "minItems": 2,
        },
        lambda: {"allOf": [{"type": "object", "required": ["a"]}, _object(dice, depth, "a")]},
        lambda: {
            "$defs": {"inner": simple(dice, depth - 1)},
            "type": "object",
            "properties": {"it": {"$ref": "#/$defs/inner"}},
            "required": ["it"],
            "additionalProperties": False,
        },
    ]
    return dice.choice(branches)()


def _object(dice: random.Random, depth: int, *names: str) -> Schema:
    keys = [*names, *dice.sample(["name", "ü", "a b", 'quo"te', "$x", ""], 2)]
    return {
        "type": "object",
        "properties": {key: simple(dice, depth - 1) for key in keys},
        "required": [key for key in keys if key in names or dice.random() < 0.6],
        "additionalProperties": False,
    }


def _deep(count: int) -> Schema:
    schema: Schema = {"type": "null"}
    for _ in range(count):
        schema = {"type": "array", "items": schema, "minItems": 1, "maxItems": 1}
    return schema


NASTY: tuple[Schema, ...] = (
    {"type": "strange"},
    {"type": 7},
    {"type": "string", "pattern": "("},
    {"type": "string", "pattern": "(a+)+$(b|c)*?[^\\d]{1000}"},
    {"type": "string", "pattern": "^(?=x)y"},
    {"type": "string", "pattern": "(a{1,100}){1,100}"},
    {"$ref": "#/$defs/nowhere"},
    {"$ref": "https://example.org/schema.json"},
    {"$defs": {"x": {"$ref": "#/$defs/x"}}, "$ref": "#/$defs/x"},
    {"type": "array", "items": {"type": "integer"}, "minItems": 10**9},
    {"type": "array", "minItems": 5, "maxItems": 2},
    {"type": "integer", "minimum": 5, "maximum": 2},
    {"type": "integer", "multipleOf": 0},
    {"type": "number", "multipleOf": 0.1, "minimum": 1e300},
    {"type": "string", "minLength": 10**7},
    {"type": "string", "format": "no-such-format"},
    {"not": {}},
    {"not": {"type": "string"}},
    {"if": {"type": "string"}, "then": {"minLength": 3}, "else": {"type": "null"}},
    {"oneOf": [{"type": "integer"}, {"type": "number"}]},
    {"allOf": [{"type": "string"}, {"type": "integer"}]},
    {"type": "object", "patternProperties": {"^x": {"type": "integer"}}, "maxProperties": 2},
    {"type": "object", "propertyNames": {"pattern": "^[a-z]$"}, "minProperties": 1},
    {"type": "object", "dependentRequired": {"a": ["b"]}},
    {"type": "array", "uniqueItems": True, "items": {"enum": [1, 2]}, "maxItems": 2},
    {"type": "array", "contains": {"const": 3}},
    {"enum": []},
    {"enum": [f"value {number}" for number in range(3000)]},
    {"anyOf": [{"const": "x" * 3000}, {"const": "y"}]},
    {"type": "object", "required": ["missing"], "additionalProperties": False},
    {"properties": {f"key {n}": {"type": "null"} for n in range(500)}, "type": "object"},
    {"$schema": "http://json-schema.org/draft-04/schema#", "type": "boolean"},
    {"$id": "x", "definitions": {"a": {"type": "null"}}, "$ref": "#/definitions/a"},
    {"type": "object", "unevaluatedProperties": False},
    {"\x00": "\ud7ff", "type": "null"},
    _deep(20),
    _deep(400),
    {},
)


def schemas(count: int) -> list[Schema]:
    """``count`` of them, the nasty ones in between."""
    dice = random.Random(4)
    growing = [simple(dice, number * 4 // count) for number in range(count - len(NASTY))]
    mixed = [*growing, *NASTY]
    dice.shuffle(mixed)
    return mixed
