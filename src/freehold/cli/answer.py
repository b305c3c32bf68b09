"""One answer in the terminal: asked with the run's options, stopped by Ctrl-C."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from dataclasses import dataclass
from typing import Protocol

from freehold.cli.backend import Backend
from freehold.domain.answers import ContentDelta, Ended, ReasoningDelta
from freehold.domain.chat import ChatRequest, Conversation, Message, Role
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
            conversation=Conversation((*head, *messages)),
            sampling=self.sampling,
            max_tokens=self.max_tokens,
        )


@dataclass(frozen=True)
class Answer:
    """``ended`` None: the person stopped it."""

    text: str
    reasoning: str
    ended: Ended | None


class Listener(Protocol):
    """Where an answer goes as it comes."""

    def write(self, text: str) -> None: ...

    def reason(self, text: str) -> None:
        """What the model thinks before it answers."""
        ...


class Silence:
    """Listens, and shows nothing yet."""

    def write(self, text: str) -> None: ...

    def reason(self, text: str) -> None: ...


async def answering(backend: Backend, request: ChatRequest, listener: Listener) -> Answer:
    """Stream an answer to ``listener``. Ctrl-C ends the answer, not the program."""
    pieces: list[str] = []
    thoughts: list[str] = []

    async def stream() -> Ended | None:
        ended = None
        async with contextlib.aclosing(backend.answer(request)) as parts:
            async for part in parts:
                match part:
                    case ContentDelta(text):
                        pieces.append(text)
                        listener.write(text)
                    case ReasoningDelta(text):
                        thoughts.append(text)
                        listener.reason(text)
                    case Ended():
                        ended = part
        return ended

    loop = asyncio.get_running_loop()
    task = asyncio.create_task(stream(), name="answer")
    stopped = False

    def stop() -> None:
        nonlocal stopped
        stopped = True
        task.cancel()

    loop.add_signal_handler(signal.SIGINT, stop)
    try:
        ended = await task
    except asyncio.CancelledError:
        if not stopped:
            raise
        ended = None
    finally:
        loop.remove_signal_handler(signal.SIGINT)
    return Answer("".join(pieces), "".join(thoughts), ended)
