"""Anthropic's routes: parse once, lease, generate, answer."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, aclosing

from fastapi import APIRouter, Request
from fastapi.responses import Response

from freehold.api.anthropic import convert
from freehold.api.anthropic.schema import (
    AnsweredMessage,
    ErrorEvent,
    MessageRequest,
    Ping,
    StreamEvent,
    TokenCount,
    TokenCountRequest,
)
from freehold.api.problem import Problem
from freehold.api.routing import deadline_of, described_errors, runtime_of, scope_of
from freehold.api.stream import EVENT_STREAM, Form, event, streamed, until_client_leaves
from freehold.runtime.chat import Generation

PREFIX = "/v1/messages"
router = APIRouter(prefix=PREFIX)

_ERRORS = described_errors(ErrorEvent)


@router.post("", response_model=AnsweredMessage, responses={**_ERRORS, **EVENT_STREAM})
async def messages(body: MessageRequest, request: Request) -> Response:
    """Answer a conversation, whole or as server-sent events."""
    runtime = runtime_of(request)
    asked = convert.chat_request(body, cache_scope=scope_of(), deadline=deadline_of(runtime))
    opening = runtime.chat.open(asked)
    if body.stream:
        return await streamed(request, _told(opening), _EVENTS, _failed, model=body.model)
    answer = await until_client_leaves(request, _whole(opening))
    return Response(answer.model_dump_json(), media_type="application/json")


@router.post("/count_tokens", responses=_ERRORS)
async def count_tokens(body: TokenCountRequest, request: Request) -> TokenCount:
    """How long the prompt of a conversation is. The model need not be loaded for it."""
    runtime = runtime_of(request)
    asked = convert.count_request(body, deadline=deadline_of(runtime))
    counted = await until_client_leaves(request, runtime.chat.count(asked))
    return TokenCount(input_tokens=counted)


async def _whole(opening: AbstractAsyncContextManager[Generation]) -> AnsweredMessage:
    async with opening as generation, aclosing(generation.parts()) as parts:
        said = [part async for _, part in parts]
        return convert.message(_identity(generation), generation.name, said)


async def _told(opening: AbstractAsyncContextManager[Generation]) -> AsyncGenerator[bytes, None]:
    """The answer as it comes."""
    async with opening as generation, aclosing(generation.parts()) as parts:
        events = convert.Events(_identity(generation), generation.name)
        async for _, part in parts:
            for found in events.of(part):
                yield _named(found)


def _failed(problem: Problem) -> list[bytes]:
    return [_named(convert.error_body(problem))]


def _identity(generation: Generation) -> str:
    return f"msg_{generation.request_id}"


def _named(found: StreamEvent) -> bytes:
    return f"event: {found.type}\n".encode() + event(found.model_dump_json())


_EVENTS = Form("text/event-stream", beat=_named(Ping()))
