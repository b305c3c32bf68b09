"""One answer in the terminal: asked with the run's options, stopped by Ctrl-C."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable
from dataclasses import dataclass

from freehold.cli.backend import Backend
from freehold.domain.chat import ChatRequest, Message, Role
from freehold.domain.events import Finished, TextDelta
from freehold.domain.sampling import Sampling


@dataclass(frozen=True)
class Options:
    """What the flags say about every answer of this run."""

    model: str
    system: str | None
    sampling: Sampling
    max_tokens: int | None

    def request(self, messages: tuple[Message, ...], system: str | None) -> ChatRequest:
        head = (Message(Role.SYSTEM, system),) if system else ()
        return ChatRequest(
            model=self.model,
            messages=(*head, *messages),
            sampling=self.sampling,
            max_tokens=self.max_tokens,
        )


@dataclass(frozen=True)
class Answer:
    """``finished`` None: the person stopped it."""

    text: str
    finished: Finished | None


async def answering(backend: Backend, request: ChatRequest, write: Callable[[str], None]) -> Answer:
    """Stream an answer to ``write``. Ctrl-C ends the answer, not the program."""
    pieces: list[str] = []

    async def stream() -> Finished | None:
        finished = None
        async with contextlib.aclosing(backend.answer(request)) as events:
            async for event in events:
                if isinstance(event, TextDelta):
                    pieces.append(event.text)
                    write(event.text)
                elif isinstance(event, Finished):
                    finished = event
        return finished

    loop = asyncio.get_running_loop()
    task = asyncio.create_task(stream(), name="answer")
    stopped = False

    def stop() -> None:
        nonlocal stopped
        stopped = True
        task.cancel()

    loop.add_signal_handler(signal.SIGINT, stop)
    try:
        finished = await task
    except asyncio.CancelledError:
        if not stopped:
            raise
        finished = None
    finally:
        loop.remove_signal_handler(signal.SIGINT)
    return Answer("".join(pieces), finished)
