"""Coroutines inside plain test functions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any, TypeVar

from freehold.domain.events import Event

T = TypeVar("T")


def run(coroutine: Coroutine[Any, Any, T], *, seconds: float = 30.0) -> T:
    """Run it in an event loop of its own; a test that hangs fails instead."""
    return asyncio.run(asyncio.wait_for(coroutine, seconds))


async def collect(events: AsyncGenerator[Event, None]) -> list[Event]:
    """All events of one answer."""
    return [event async for event in events]


async def until(condition: Callable[[], bool], *, seconds: float = 5.0) -> None:
    """Poll: for what other processes do, which no event of ours announces."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)
