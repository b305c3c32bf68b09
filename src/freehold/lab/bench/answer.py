"""One streamed chat completion, with the moment each piece of it came."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from freehold.domain.errors import ServerMisbehaved
from freehold.lab.bench.endpoint import Endpoint, Response, exchange
from freehold.lab.bench.sse import Events
from freehold.process.decoding import json_decoder

# What is said instead of a body of HTML.
BROWSER_PAGE = "a page for a browser"
_LONGEST_MESSAGE = 300  # characters of a server's sentence that are kept


class _Details(msgspec.Struct, frozen=True):
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None


class _Usage(msgspec.Struct, frozen=True):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None
    completion_tokens_details: _Details | None = None


class _Delta(msgspec.Struct, frozen=True):
    """``reasoning`` is what some servers call ``reasoning_content``."""

    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None


class _Choice(msgspec.Struct, frozen=True):
    delta: _Delta | None = None
    finish_reason: str | None = None


class _Event(msgspec.Struct, frozen=True):
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: Any = None


_EVENTS = json_decoder(_Event)


def _nothing() -> None:
    pass


@dataclass
class Answer:
    """One answer as it comes in. Times by `time.perf_counter`.

    ``chunks``: when each piece with text came, reasoning included. ``first_content``: when the
    first came that is no reasoning. ``sent`` None: the request was not sent yet.
    """

    on_chunk: Callable[[], None] = _nothing
    connecting: float = 0.0
    sent: float | None = None
    chunks: list[float] = field(default_factory=list)
    first_content: float | None = None
    reasoned: bool = False
    text: list[str] = field(default_factory=list)
    finish: str | None = None
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    completion_tokens: int | None = None
    reasoning_tokens: int | None = None

    def feed(self, data: bytes, now: float) -> None:
        """Take one event in. Raises `ServerMisbehaved` for an error in the stream, or nonsense."""
        if data == b"[DONE]":
            return
        try:
            event = _EVENTS.decode(data)
        except msgspec.DecodeError as error:
            raise ServerMisbehaved(f"The server streamed what is no chunk: {error}.") from None
        if event.error is not None:
            raise ServerMisbehaved(f"The server ended an answer: {sentence_of(event.error)}")
        if event.usage is not None:
            self._count(event.usage)
        for choice in event.choices or ():
            self.finish = choice.finish_reason or self.finish
            if choice.delta is not None:
                self._take(choice.delta, now)

    def _take(self, delta: _Delta, now: float) -> None:
        if delta.content:
            self.text.append(delta.content)
            if self.first_content is None:
                self.first_content = now
        thought = delta.reasoning_content or delta.reasoning
        self.reasoned = self.reasoned or bool(thought)
        if delta.content or thought:
            self.chunks.append(now)
            self.on_chunk()

    def _count(self, usage: _Usage) -> None:
        self.prompt_tokens = usage.prompt_tokens
        self.completion_tokens = usage.completion_tokens
        if usage.prompt_tokens_details is not None:
            self.cached_tokens = usage.prompt_tokens_details.cached_tokens
        if usage.completion_tokens_details is not None:
            self.reasoning_tokens = usage.completion_tokens_details.reasoning_tokens


@dataclass(frozen=True)
class Refusal:
    """An answer with another status than 200. ``retry_after`` is in seconds."""

    status: int
    message: str
    retry_after: float | None = None

    def __str__(self) -> str:
        return f"status {self.status}: {self.message}"


async def ask(endpoint: Endpoint, body: bytes, answer: Answer, silence: float) -> Refusal | None:
    """Post ``body`` and fill ``answer``; None if it came to its end.

    Raises `ServerUnreachable` without a connection, `ServerMisbehaved` where an answer breaks off,
    stalls for ``silence`` seconds or makes no sense.
    """
    began = time.perf_counter()
    async with exchange(endpoint, "POST", "/chat/completions", body, silence) as response:
        answer.sent = response.sent
        answer.connecting = response.sent - began
        if response.status != 200:
            return await _refusal(response)
        events = Events()
        async with contextlib.aclosing(response.pieces()) as pieces:
            async for piece in pieces:
                now = time.perf_counter()
                for event in events.feed(piece):
                    answer.feed(event, now)
    if answer.finish is None:
        raise ServerMisbehaved(
            "The server closed the connection before the answer was complete."
            if answer.chunks
            else "The server did not stream an answer."
        )
    return None


async def _refusal(response: Response) -> Refusal:
    wait = response.headers.get("retry-after", "")
    return Refusal(
        response.status,
        sentence_in(await response.read()),
        float(wait) if wait.isdigit() else None,
    )


def sentence_in(body: bytes) -> str:
    """What the body of an error says."""
    try:
        return sentence_of(msgspec.json.decode(body))
    except msgspec.DecodeError:
        return sentence_of(body.decode("utf-8", "replace"))


def sentence_of(said: Any) -> str:
    """What a server says of an error, out of whatever it wraps that in; one line, cut to length."""
    while isinstance(said, dict):
        inner = said.get("error") or said.get("message") or said.get("detail")
        if inner is None:
            break
        said = inner
    text = str(said).encode("utf-8", "replace").decode()  # a lone surrogate cannot be written
    line = " ".join(text.split()) or "nothing said"
    if line[:15].lower().startswith(("<!doctype html", "<html")):
        return BROWSER_PAGE
    return line if len(line) <= _LONGEST_MESSAGE else line[:_LONGEST_MESSAGE] + "…"
