"""Ollama's generate and chat: parse once, lease, generate, answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel

from freehold.api.ollama import convert
from freehold.api.ollama import lines as words
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
from freehold.api.problem import Problem
from freehold.api.routing import deadline_of, described_errors, reworded, runtime_of, scope_of
from freehold.api.stream import JSON_LINES, Form, streamed, until_client_leaves
from freehold.domain import chat as domain
from freehold.domain.errors import Unavailable
from freehold.runtime.chat import Generation
from freehold.runtime.wiring import Runtime

router = APIRouter(prefix="/api")

# Every line says something: clients take each for a part of the answer.
LINES = Form("application/x-ndjson", beat=None)
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
    asked = _Asked(request, runtime, body, name, words.generated)
    ours = convert.generate_request(body, name, cache_scope=scope_of(), deadline=asked.deadline)
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
    asked = _Asked(request, runtime, body, name, words.chatted)
    ours = convert.chat_request(body, name, cache_scope=scope_of(), deadline=asked.deadline)
    if convert.only_loads(body):
        return await _only_load(asked)
    return await _answer(asked, runtime.chat.open(ours))


async def _answer(asked: _Asked, opening: AbstractAsyncContextManager[Generation]) -> Response:
    opened = _opened(asked, opening)
    if asked.body.streams:
        return await streamed(asked.request, _told(asked, opened), LINES, failed)
    return _json(await until_client_leaves(asked.request, _whole(asked, opened)))


@asynccontextmanager
async def _opened(
    asked: _Asked, opening: AbstractAsyncContextManager[Generation]
) -> AsyncIterator[tuple[Generation, Speaker]]:
    async with AsyncExitStack() as held:
        held.enter_context(reworded(lambda error: convert.in_own_words(error, asked.body.model)))
        generation = await held.enter_async_context(opening)
        convert.require_context(asked.body, generation.context)
        yield generation, Speaker(asked.wording, asked.body.model, asked.now().passed)


async def _whole(
    asked: _Asked, opened: AbstractAsyncContextManager[tuple[Generation, Speaker]]
) -> str:
    async with opened as (generation, speaker):
        (whole,) = await generation.whole()
        return as_json(speaker.whole(whole, asked.now()))


async def _told(
    asked: _Asked, opened: AbstractAsyncContextManager[tuple[Generation, Speaker]]
) -> AsyncGenerator[bytes, None]:
    """The answer as it comes."""
    async with opened as (generation, speaker), aclosing(generation.parts()) as parts:
        lines = Lines(speaker)
        async for _, part in parts:
            for line in lines.of(part, asked.now()):
                yield line_of(line)


async def _only_load(asked: _Asked) -> Response:
    """Load the model, or with ``keep_alive`` 0 unload it."""
    unloads = convert.unloads(asked.body)
    await until_client_leaves(asked.request, _unload(asked) if unloads else _load(asked))
    at = asked.now()
    speaker = Speaker(asked.wording, asked.body.model, at.passed)
    return _json(as_json(speaker.nothing("unload" if unloads else "load", at)))


async def _load(asked: _Asked) -> None:
    if asked.runtime.manager.known.upstream(asked.model) is not None:
        return  # its server has it, or loads it when it is asked
    lease = await asked.runtime.manager.load(
        asked.model, keep_alive=convert.keep_alive(asked.body), deadline=asked.deadline
    )
    convert.require_context(asked.body, lease.supervisor.capabilities.context)


async def _unload(asked: _Asked) -> None:
    manager = asked.runtime.manager
    described = await asyncio.to_thread(manager.describe, asked.model)  # raises if there is none
    if described.upstream is not None:
        return  # nothing of it is here
    if not await manager.unload(asked.model):
        raise Unavailable(
            f"{asked.body.model} is in use or pinned, and stays loaded.",
            hint="Ask again when its answers have ended; `freehold stop` unloads a pinned one.",
        )


def failed(problem: Problem) -> list[bytes]:
    """The last line of a stream that failed."""
    return [line_of(convert.error_body(problem))]


def line_of(said: BaseModel) -> bytes:
    return f"{as_json(said)}\n".encode()


def _json(text: str) -> Response:
    return Response(text, media_type="application/json")
