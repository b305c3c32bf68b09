"""Ollama's generate and chat: parse once, lease, generate, answer."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

from fastapi import APIRouter, Request
from fastapi.responses import Response, StreamingResponse

from freehold.api.ollama import convert, lines
from freehold.api.ollama.lines import Lines, Moment, Speaker, Wording, as_json
from freehold.api.ollama.names import known_name
from freehold.api.ollama.schema import (
    Ask,
    ChatRequest,
    ChatResponse,
    ErrorResponse,
    GenerateRequest,
    GenerateResponse,
)
from freehold.api.problem import problem_of
from freehold.api.routing import deadline_of, described_errors, reworded, runtime_of
from freehold.api.stream import JSON_LINES, until_client_leaves
from freehold.domain import chat as domain
from freehold.domain.answers import Part
from freehold.domain.errors import FreeholdError, Unavailable
from freehold.engines.base import begun_before
from freehold.runtime.answering import collect
from freehold.runtime.chat import Generation
from freehold.runtime.wiring import Runtime

router = APIRouter(prefix="/api")

NDJSON = "application/x-ndjson"
ERRORS = described_errors(ErrorResponse)


@dataclass(frozen=True)
class _Asked:
    """One request on its way. ``model`` is our name for what ``body`` asks for."""

    request: Request
    runtime: Runtime
    body: Ask
    model: str
    wording: Wording
    began: float = field(default_factory=time.monotonic)

    @property
    def deadline(self) -> float:
        return deadline_of(self.runtime)

    def now(self) -> Moment:
        return Moment(datetime.now(UTC), time.monotonic() - self.began)


@router.post("/generate", response_model=GenerateResponse, responses={**ERRORS, **JSON_LINES})
async def generate(body: GenerateRequest, request: Request) -> Response:
    """Answer a prompt, as lines of JSON or whole. Without a prompt the model is only loaded."""
    runtime = runtime_of(request)
    name = await asyncio.to_thread(known_name, runtime, body.model)
    asked = _Asked(request, runtime, body, name, lines.generated)
    ours = convert.generate_request(body, name, cache_scope="local", deadline=asked.deadline)
    if convert.only_loads(body):
        return await _only_load(asked)
    if isinstance(ours, domain.ChatRequest):
        return await _answer(asked, runtime.chat.open(ours))
    return await _answer(asked, runtime.chat.open_completion(ours))


@router.post("/chat", response_model=ChatResponse, responses={**ERRORS, **JSON_LINES})
async def chat(body: ChatRequest, request: Request) -> Response:
    """Answer a conversation, as lines of JSON or whole. Without messages the model is only
    loaded.
    """
    runtime = runtime_of(request)
    name = await asyncio.to_thread(known_name, runtime, body.model)
    asked = _Asked(request, runtime, body, name, lines.chatted)
    ours = convert.chat_request(body, name, cache_scope="local", deadline=asked.deadline)
    if convert.only_loads(body):
        return await _only_load(asked)
    return await _answer(asked, runtime.chat.open(ours))


async def _answer(
    asked: _Asked, opening: contextlib.AbstractAsyncContextManager[Generation]
) -> Response:
    async with contextlib.AsyncExitStack() as stack:
        if convert.unloads(asked.body):
            stack.push_async_callback(asked.runtime.manager.unload, asked.model)
        with reworded(lambda error: convert.in_own_words(error, asked.body.model)):
            generation = await until_client_leaves(
                asked.request, stack.enter_async_context(opening)
            )
            convert.require_context(asked.body, generation.context)
            speaker = Speaker(asked.wording, asked.body.model, asked.now().passed)
            parts = await stack.enter_async_context(contextlib.aclosing(generation.parts()))
            # The first part decides the status: until it comes, a failure is no stream's.
            first = await until_client_leaves(asked.request, anext(parts))
        if asked.body.streams:
            told = _stream(asked, first, parts, Lines(speaker), stack.pop_all())
            return streamed(told)
        (whole,) = await until_client_leaves(asked.request, collect(first, parts, 1))
        return _whole(as_json(speaker.whole(whole, asked.now())))


async def _stream(
    asked: _Asked,
    first: tuple[int, Part],
    parts: AsyncGenerator[tuple[int, Part], None],
    told: Lines,
    held: contextlib.AsyncExitStack,
) -> AsyncIterator[bytes]:
    """The answer as it comes. An error after the first byte is a line, the last."""
    async with held:
        for line in told.of(first[1], asked.now()):
            yield line_of(as_json(line))
        try:
            async for _, part in parts:
                for line in told.of(part, asked.now()):
                    yield line_of(as_json(line))
        except FreeholdError as error:
            yield line_of(as_json(convert.error_body(problem_of(error))))


async def _only_load(asked: _Asked) -> Response:
    """Load the model, or with ``keep_alive`` 0 unload it."""
    unloads = convert.unloads(asked.body)
    await until_client_leaves(asked.request, _unload(asked) if unloads else _load(asked))
    at = asked.now()
    speaker = Speaker(asked.wording, asked.body.model, at.passed)
    return _whole(as_json(speaker.nothing("unload" if unloads else "load", at)))


async def _load(asked: _Asked) -> None:
    async with contextlib.AsyncExitStack() as held:
        async with begun_before(asked.deadline):
            lease = await held.enter_async_context(asked.runtime.manager.lease(asked.model))
        convert.require_context(asked.body, lease.supervisor.capabilities.context)


async def _unload(asked: _Asked) -> None:
    manager = asked.runtime.manager
    await asyncio.to_thread(manager.describe, asked.model)  # raises if there is no such model
    if not await manager.unload(asked.model):
        raise Unavailable(
            f"{asked.body.model} is in use and stays loaded.",
            hint="Ask again when its answers have ended.",
        )


def streamed(told: AsyncIterator[bytes]) -> StreamingResponse:
    return StreamingResponse(told, media_type=NDJSON, headers={"Cache-Control": "no-cache"})


def line_of(text: str) -> bytes:
    return f"{text}\n".encode()


def _whole(text: str) -> Response:
    return Response(text, media_type="application/json")
