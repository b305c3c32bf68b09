"""OpenAI's routes for responses: parse once, lease, generate, answer, keep."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass

from fastapi import APIRouter, Request
from fastapi.responses import Response, StreamingResponse

from freehold.api.openai import responses_convert as convert
from freehold.api.openai.convert import error_body
from freehold.api.openai.responses_events import Event, Making
from freehold.api.openai.responses_schema import (
    DeletedResponse,
    ResponseObject,
    ResponsesRequest,
)
from freehold.api.openai.responses_store import Kept, ResponseStore
from freehold.api.openai.schema import ErrorResponse
from freehold.api.problem import problem_of
from freehold.api.routing import deadline_of, described_errors, reworded, runtime_of
from freehold.api.stream import EVENT_STREAM, event, until_client_leaves
from freehold.domain.answers import Part
from freehold.domain.chat import Message
from freehold.domain.errors import FreeholdError, InvalidRequest

_SCOPE = "local"
_PREVIOUS = "previous_response_id"
_ID = "response_id"
_ERRORS = described_errors(ErrorResponse)

_Parts = AsyncGenerator[tuple[int, Part], None]


def responses_router() -> APIRouter:
    """The routes, with a store of their own behind them."""
    routes = _Routes(ResponseStore())
    router = APIRouter(prefix="/v1/responses")
    router.post("", response_model=ResponseObject, responses={**_ERRORS, **EVENT_STREAM})(
        routes.create_response
    )
    router.get("/{response_id}", response_model=ResponseObject, responses=_ERRORS)(
        routes.get_response
    )
    router.delete("/{response_id}", responses=_ERRORS)(routes.delete_response)
    return router


@dataclass(frozen=True)
class _Run:
    """One response on its way. ``said`` is the conversation it answers to."""

    store: ResponseStore
    said: tuple[Message, ...]
    keeps: bool
    making: Making

    def take(self, part: Part) -> list[Event]:
        """Keep the response when it is whole: before its client hears that it is."""
        events = self.making.of(part)
        response = self.making.response
        if self.keeps and response.status in ("completed", "incomplete"):
            messages = convert.remembered(self.said, response.output)
            self.store.put(_SCOPE, response.id, Kept(response.model_dump_json(), messages))
        return events


class _Routes:
    def __init__(self, store: ResponseStore) -> None:
        self._store = store

    async def create_response(self, body: ResponsesRequest, request: Request) -> Response:
        """Answer an input, whole or as server-sent events."""
        runtime = runtime_of(request)
        said = convert.said(body, self._before(body))
        asked = convert.chat_request(
            body,
            said,
            cache_scope=_SCOPE,
            deadline=deadline_of(runtime),
        )
        identity, created = f"resp_{uuid.uuid4().hex}", int(time.time())
        async with contextlib.AsyncExitStack() as stack:
            with reworded(convert.in_own_words):
                generation = await until_client_leaves(
                    request, stack.enter_async_context(runtime.chat.open(asked))
                )
                blank = convert.blank(identity, created, generation.model.name, body)
                run = _Run(self._store, said, convert.keeps(body), Making(blank))
                parts = await stack.enter_async_context(contextlib.aclosing(generation.parts()))
                # The first part decides the status: until it comes, a failure is no stream's.
                _, first = await until_client_leaves(request, anext(parts))
                if body.stream:
                    return StreamingResponse(
                        _stream(first, parts, run, stack.pop_all()),
                        media_type="text/event-stream",
                        headers={"Cache-Control": "no-cache"},
                    )
                await until_client_leaves(request, _all(first, parts, run))
            return _json(run.making.response.model_dump_json())

    async def get_response(self, response_id: str, request: Request) -> Response:
        """A response that was kept, as it was told at its end."""
        for name in request.query_params:
            raise InvalidRequest(f"A kept response is not shaped by {name}.", field=name)
        return _json(self._store.get(_SCOPE, response_id, field=_ID).body)

    async def delete_response(self, response_id: str) -> DeletedResponse:
        """Forget a response. Those that follow it keep what they have of it."""
        self._store.delete(_SCOPE, response_id, field=_ID)
        return DeletedResponse(id=response_id)

    def _before(self, body: ResponsesRequest) -> tuple[Message, ...]:
        if body.previous_response_id is None:
            return ()
        return self._store.get(_SCOPE, body.previous_response_id, field=_PREVIOUS).messages


async def _all(first: Part, parts: _Parts, run: _Run) -> None:
    run.take(first)
    async for _, part in parts:
        run.take(part)


async def _stream(
    first: Part, parts: _Parts, run: _Run, held: contextlib.AsyncExitStack
) -> AsyncIterator[bytes]:
    """The response as it comes. An error after the first byte is an event, then the end."""
    async with held:
        for found in run.take(first):
            yield _named(found)
        try:
            with reworded(convert.in_own_words):
                async for _, part in parts:
                    for found in run.take(part):
                        yield _named(found)
        except FreeholdError as error:
            problem = problem_of(error)
            for found in run.making.failed(problem, error_body(problem).error.type):
                yield _named(found)


def _named(found: Event) -> bytes:
    return f"event: {found.type}\n".encode() + event(found.model_dump_json())


def _json(text: str) -> Response:
    return Response(text, media_type="application/json")
