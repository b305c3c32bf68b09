"""The gateway's side of measuring, comparing and requantising: children, and what they answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TypeVar

from freehold.domain.engine import Affinity
from freehold.domain.errors import EngineCrashed, EngineError, LoadFailed
from freehold.engines.base import EngineConfig
from freehold.engines.llamacpp.affinity import variables
from freehold.engines.llamacpp.messages import Ready, Refused
from freehold.engines.llamacpp.tuning_messages import (
    Compare,
    FromMeasuring,
    FromQuantising,
    Open,
    Opened,
    Quantise,
    Time,
    Timed,
    Window,
    Written,
)
from freehold.process.child import Child, describe_exit, last_line
from freehold.process.frames import Message, WireError

START_SECONDS = 60.0

Reply = TypeVar("Reply", bound=Message)


class Measurer:
    """One model, loaded in a child of its own, to be timed. Used from one event loop."""

    def __init__(self, child: Child[FromMeasuring]) -> None:
        self._child = child

    @classmethod
    async def open(cls, config: EngineConfig) -> Measurer:
        """Raises `LoadFailed` or `EngineCrashed`."""
        child = await _measuring(config.affinity)
        try:
            child.channel.send_soon(Open(config))
            await _answer(child, Opened)
        except BaseException as error:
            await child.discard()
            if isinstance(error, EngineError) and not isinstance(error, EngineCrashed):
                raise LoadFailed(error.message, hint=error.hint) from error
            raise
        return cls(child)

    async def time(self, order: Time) -> Timed:
        """Raises `EngineError` or `EngineCrashed`."""
        self._child.channel.send_soon(order)
        return await _answer(self._child, Timed)

    async def close(self) -> None:
        await self._child.discard()


async def compare(order: Compare) -> AsyncIterator[Window]:
    """The windows as they are done. Raises `EngineError` or `EngineCrashed`."""
    child = await _measuring()
    try:
        child.channel.send_soon(order)
        while True:
            window = await _answer(child, Window)
            yield window
            if window.last:
                return
    finally:
        await child.discard()


async def quantise(source: Path, target: Path, file_type: int, threads: int) -> None:
    """Write ``target``, which must be there and is replaced. Raises `EngineError`."""
    child: Child[FromQuantising] = await Child.start(
        "quantising",
        "freehold.engines.llamacpp.quantising",
        str(target),
        incoming=FromQuantising,
    )
    try:
        await _ready(child)
        child.channel.send_soon(Quantise(str(source), file_type, threads))
        await _answer(child, Written)
    finally:
        await child.discard()


async def _measuring(affinity: Affinity = Affinity.FREE) -> Child[FromMeasuring]:
    child: Child[FromMeasuring] = await Child.start(
        "measuring",
        "freehold.engines.llamacpp.measuring",
        incoming=FromMeasuring,
        variables=variables(affinity),
    )
    try:
        await _ready(child)
    except BaseException:
        await child.discard()
        raise
    return child


async def _ready(child: Child[FromMeasuring] | Child[FromQuantising]) -> None:
    try:
        async with asyncio.timeout(START_SECONDS):
            await _answer(child, Ready)
    except TimeoutError:
        raise LoadFailed(f"The {child.name} process did not start properly.") from None


async def _answer(child: Child[FromMeasuring] | Child[FromQuantising], kind: type[Reply]) -> Reply:
    try:
        reply = await child.channel.receive()
    except WireError as error:
        raise EngineCrashed(f"The {child.name} process spoke nonsense.") from error
    if isinstance(reply, kind):
        return reply
    if isinstance(reply, Refused):
        raise EngineError(reply.message, hint=reply.hint)
    status = await child.wait()
    raise EngineCrashed(
        f"llama.cpp {describe_exit(status)} while {child.name}.",
        hint=last_line(words) if (words := child.last_words()).strip() else None,
    )
