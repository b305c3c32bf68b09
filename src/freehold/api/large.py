"""Answers that take a while to write down.

A serialiser holds the interpreter until it has done. One call for millions of numbers would
stop everybody's streams, in a thread as well; so it is a thread, and a call for each item.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel
from pydantic_core import to_json

# Written on the spot: a few milliseconds. Threads may be busy loading models.
SMALL_NUMBERS = 32 * 1024


async def as_json(frame: BaseModel, field: str, items: Iterable[Any], *, numbers: int) -> bytes:
    """``frame``, whose list ``field`` is empty, with ``items`` in it: JSON.

    ``numbers``: how many there are in all of them.
    """
    if numbers <= SMALL_NUMBERS:
        return written(frame, field, items)
    return await asyncio.to_thread(written, frame, field, items)


def written(frame: BaseModel, field: str, items: Iterable[Any]) -> bytes:
    # Nothing before it looks like it: in texts quotation marks are escaped.
    before, empty, after = to_json(frame).partition(f'"{field}":[]'.encode())
    assert empty
    return b"".join(
        (before, f'"{field}":['.encode(), b",".join(map(to_json, items)), b"]", after),
    )
