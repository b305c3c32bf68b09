"""The part of the API's description that the page uses, for its types: `make web-types`."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from freehold.api.app import build_app
from freehold.api.guard import Rules
from freehold.domain.settings import resolve
from freehold.runtime.wiring import open_runtime

ROOT = Path(__file__).parents[2]
STORED = ROOT / "web" / "openapi.json"

# Where an address ends with a star, everything below it.
USED = (
    *(
        "/freehold/v1/conversations*",
        "/freehold/v1/catalogue",
        "/freehold/v1/papers*",
        "/freehold/v1/plan",
        "/freehold/v1/tuning*",
    ),
    *(
        "/freehold/v1/activity*",
        "/freehold/v1/models*",
        "/freehold/v1/keys*",
        "/freehold/v1/disk",
        "/freehold/v1/pulls",
        "/freehold/v1/session*",
    ),
    *("/v1/models", "/v1/chat/completions", "/tokenize", "/api/delete", "/api/ps"),
)


def _wanted(path: str) -> bool:
    return any(path == used or (used[-1] == "*" and path.startswith(used[:-1])) for used in USED)


def _named(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"].rpartition("/")[2]
        for each in value.values():
            yield from _named(each)
    elif isinstance(value, list):
        for each in value:
            yield from _named(each)


def used_part(description: Mapping[str, Any]) -> dict[str, Any]:
    """The routes of `USED`, and the objects they need. Errors are all alike and left out."""
    paths = {
        path: {
            method: {
                **operation,
                "responses": {k: v for k, v in operation["responses"].items() if k < "300"},
            }
            for method, operation in operations.items()
        }
        for path, operations in description["paths"].items()
        if _wanted(path)
    }
    schemas, todo, kept = description["components"]["schemas"], [*_named(paths)], {}
    while todo:
        name = todo.pop()
        if name not in kept:
            kept[name] = schemas[name]
            todo += _named(schemas[name])
    return {
        "openapi": description["openapi"],
        "info": {"title": "freehold", "version": "0"},
        "paths": paths,
        "components": {"schemas": kept},
    }


async def present() -> dict[str, Any]:
    """As the application describes itself now."""
    with tempfile.TemporaryDirectory() as home:
        settings = resolve({"home": home}, environ={})
        async with open_runtime(settings, notice=print) as runtime:
            return used_part(build_app(runtime, Rules(port=1), "0").openapi())


def text(description: Mapping[str, Any]) -> str:
    return json.dumps(description, indent=1, sort_keys=True) + "\n"


if __name__ == "__main__":
    import asyncio

    STORED.write_text(text(asyncio.run(present())))
    sys.stderr.write(f"{STORED}\n")
