"""OpenAI's routes for responses: parse once, lease, generate, answer, keep."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator, Iterator
from contextlib import AbstractAsyncContextManager, aclosing

from fastapi import APIRouter, Request
from fastapi.responses import Response

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
from freehold.api.problem import Problem
from freehold.api.routing import deadline_of, described_errors, reworded, runtime_of, scope_of
from freehold.api.stream import EVENT_STREAM, EVENTS, event, streamed, until_client_leaves
from freehold.domain.answers import Part
from freehold.domain.chat import Message
from freehold.domain.errors import InvalidRequest
from freehold.runtime.chat import Generation

_PREVIOUS = "previous_response_id"
_ID = "response_id"
_ERRORS = described_errors(ErrorResponse)


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


class _Run:
    """One response on its way. ``said`` is the conversation it answers to."""

    def __init__(
        self,
        store: ResponseStore,
        said: tuple[Message, ...],
        body: ResponsesRequest,
        opening: AbstractAsyncContextManager[Generation],
    ) -> None:
        self._store = store
        self._scope = scope_of()
        self._said = said
        self._body = body
        self._opening = opening
        self._making: Making | None = None

    async def told(self) -> AsyncGenerator[bytes, None]:
        """The response as it comes."""
        async with aclosing(self._events()) as events:
            async for found in events:
                yield _named(found)

    async def whole(self) -> str:
        """The response as JSON."""
        async with aclosing(self._events()) as events:
            async for _ in events:
                pass
        assert self._making is not None
        return self._making.response.model_dump_json()

    def failed(self, problem: Problem) -> Iterator[bytes]:
        """The end of what was told."""
        if self._making is None:  # and so was not even begun
            self._making = self._blank(uuid.uuid4().hex, self._body.model)
        return map(_named, self._making.failed(problem, error_body(problem).error.type))

    async def _events(self) -> AsyncGenerator[Event, None]:
        with reworded(convert.in_own_words):
            async with self._opening as generation, aclosing(generation.parts()) as parts:
                self._making = self._blank(generation.request_id, generation.name)
                async for _, part in parts:
                    for found in self._take(part, self._making):
                        yield found

    def _blank(self, identity: str, model: str) -> Making:
        return Making(convert.blank(f"resp_{identity}", int(time.time()), model, self._body))

    def _take(self, part: Part, making: Making) -> list[Event]:
        """Keep the response when it is whole: before its client hears that it is."""
        events = making.of(part)
        response = making.response
        if convert.keeps(self._body) and response.status in ("completed", "incomplete"):
            messages = convert.remembered(self._said, response.output)
            self._store.put(self._scope, response.id, Kept(response.model_dump_json(), messages))
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
            cache_scope=scope_of(),
            deadline=deadline_of(runtime),
        )
        run = _Run(self._store, said, body, runtime.chat.open(asked))
        if body.stream:
            return await streamed(request, run.told(), EVENTS, run.failed, model=body.model)
        return _json(await until_client_leaves(request, run.whole()))

    async def get_response(self, response_id: str, request: Request) -> Response:
        """A response that was kept, as it was told at its end."""
        for name in request.query_params:
            raise InvalidRequest(f"A kept response is not shaped by {name}.", field=name)
        return _json(self._store.get(scope_of(), response_id, field=_ID).body)

    async def delete_response(self, response_id: str) -> DeletedResponse:
        """Forget a response. Those that follow it keep what they have of it."""
        self._store.delete(scope_of(), response_id, field=_ID)
        return DeletedResponse(id=response_id)

    def _before(self, body: ResponsesRequest) -> tuple[Message, ...]:
        if body.previous_response_id is None:
            return ()
        return self._store.get(scope_of(), body.previous_response_id, field=_PREVIOUS).messages


def _named(found: Event) -> bytes:
    return f"event: {found.type}\n".encode() + event(found.model_dump_json())


def _json(text: str) -> Response:
    return Response(text, media_type="application/json")
