"""Anthropic's routes: parse once, lease, generate, answer."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import AsyncGenerator, AsyncIterator

from fastapi import APIRouter, Request
from fastapi.responses import Response, StreamingResponse

from freehold.api.anthropic import convert
from freehold.api.anthropic.schema import (
    AnsweredMessage,
    ErrorEvent,
    MessageRequest,
    StreamEvent,
    TokenCount,
    TokenCountRequest,
)
from freehold.api.problem import problem_of
from freehold.api.routing import deadline_of, described_errors, runtime_of
from freehold.api.stream import EVENT_STREAM, event, until_client_leaves
from freehold.domain.answers import Part
from freehold.domain.errors import FreeholdError

PREFIX = "/v1/messages"
router = APIRouter(prefix=PREFIX)

_ERRORS = described_errors(ErrorEvent)


@router.post("", response_model=AnsweredMessage, responses={**_ERRORS, **EVENT_STREAM})
async def messages(body: MessageRequest, request: Request) -> Response:
    """Answer a conversation, whole or as server-sent events."""
    runtime = runtime_of(request)
    asked = convert.chat_request(body, cache_scope="local", deadline=deadline_of(runtime))
    identity = f"msg_{uuid.uuid4().hex}"
    async with contextlib.AsyncExitStack() as stack:
        generation = await until_client_leaves(
            request, stack.enter_async_context(runtime.chat.open(asked))
        )
        name = generation.model.name
        parts = await stack.enter_async_context(contextlib.aclosing(generation.parts()))
        # The first part decides the status: until it comes, a failure is no stream's.
        _, first = await until_client_leaves(request, anext(parts))
        if body.stream:
            return StreamingResponse(
                _stream(first, parts, convert.Events(identity, name), stack.pop_all()),
                media_type="text/event-stream",
                headers={"Cache-Control": "no-cache"},
            )
        whole = await until_client_leaves(request, _all(first, parts))
        answer = convert.message(identity, name, whole)
        return Response(answer.model_dump_json(), media_type="application/json")


@router.post("/count_tokens", responses=_ERRORS)
async def count_tokens(body: TokenCountRequest, request: Request) -> TokenCount:
    """How long the prompt of a conversation is. The model need not be loaded for it."""
    runtime = runtime_of(request)
    asked = convert.count_request(body, deadline=deadline_of(runtime))
    counted = await until_client_leaves(request, runtime.chat.count(asked))
    return TokenCount(input_tokens=counted)


async def _all(first: Part, parts: AsyncGenerator[tuple[int, Part], None]) -> list[Part]:
    return [first, *[part async for _, part in parts]]


async def _stream(
    first: Part,
    parts: AsyncGenerator[tuple[int, Part], None],
    events: convert.Events,
    held: contextlib.AsyncExitStack,
) -> AsyncIterator[bytes]:
    """The answer as it comes. An error after the first byte is an event, then the end."""
    async with held:
        for found in events.of(first):
            yield _named(found)
        try:
            async for _, part in parts:
                for found in events.of(part):
                    yield _named(found)
        except FreeholdError as error:
            yield _named(convert.error_body(problem_of(error)))


def _named(found: StreamEvent) -> bytes:
    return f"event: {found.type}\n".encode() + event(found.model_dump_json())
