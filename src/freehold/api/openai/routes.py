"""OpenAI's routes: parse once, lease, generate, answer."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from datetime import datetime

from fastapi import APIRouter, Request
from fastapi.responses import Response, StreamingResponse

from freehold.api.openai import convert
from freehold.api.openai.schema import (
    ChatCompletion,
    ChatCompletionRequest,
    ErrorResponse,
    Model,
    ModelDetails,
    ModelList,
)
from freehold.api.problem import problem_of
from freehold.api.routing import deadline_of, described_errors, reworded, runtime_of
from freehold.api.stream import EVENT_STREAM, event, until_client_leaves
from freehold.domain.answers import Part
from freehold.domain.errors import FreeholdError
from freehold.runtime.answering import collect
from freehold.runtime.wiring import Runtime

router = APIRouter(prefix="/v1")

_ERRORS = described_errors(ErrorResponse)


@router.post(
    "/chat/completions", response_model=ChatCompletion, responses={**_ERRORS, **EVENT_STREAM}
)
async def chat_completions(body: ChatCompletionRequest, request: Request) -> Response:
    """Answer a conversation, whole or as server-sent events."""
    runtime = runtime_of(request)
    asked = convert.chat_request(
        body,
        cache_scope="local",
        deadline=deadline_of(runtime),
    )
    identity = f"chatcmpl-{uuid.uuid4().hex}"
    created = int(time.time())
    async with contextlib.AsyncExitStack() as stack:
        with reworded(convert.in_own_words):
            generation = await until_client_leaves(
                request, stack.enter_async_context(runtime.chat.open(asked))
            )
            name = generation.model.name
            parts = await stack.enter_async_context(contextlib.aclosing(generation.parts()))
            # The first part decides the status: until it comes, a failure is no stream's.
            first = await until_client_leaves(request, anext(parts))
        if body.stream:
            include_usage = body.stream_options is not None and body.stream_options.include_usage
            chunks = convert.Chunks(identity, created, name, include_usage=include_usage)
            return StreamingResponse(
                _stream(first, parts, chunks, stack.pop_all()),
                media_type="text/event-stream",
                headers={"Cache-Control": "no-cache"},
            )
        whole = await until_client_leaves(request, collect(first, parts, len(generation.answers)))
        completion = convert.completion(identity, created, name, whole)
        return Response(completion.model_dump_json(), media_type="application/json")


async def _stream(
    first: tuple[int, Part],
    parts: AsyncGenerator[tuple[int, Part], None],
    chunks: convert.Chunks,
    held: contextlib.AsyncExitStack,
) -> AsyncIterator[bytes]:
    """The answers as they come. An error after the first byte is an event, then the end."""
    async with held:
        for chunk in chunks.of(*first):
            yield event(chunk)
        try:
            async for number, part in parts:
                for chunk in chunks.of(number, part):
                    yield event(chunk)
        except FreeholdError as error:
            yield event(convert.error_body(problem_of(error)).model_dump_json())
            return
        for chunk in chunks.last():
            yield event(chunk)
        yield event("[DONE]")


@router.get("/models", response_model=ModelList, responses=_ERRORS)
async def list_models(request: Request) -> ModelList:
    """Every model that can be asked for: those in the store and the files served."""
    runtime = runtime_of(request)
    names = await asyncio.to_thread(runtime.manager.names)
    models = [await asyncio.to_thread(_model, runtime, name) for name in names]
    return ModelList(data=models)


@router.get("/models/{name:path}", response_model=Model, responses=_ERRORS)
async def get_model(name: str, request: Request) -> Model:
    """One model by any spelling a request may use."""
    runtime = runtime_of(request)
    return await asyncio.to_thread(_model, runtime, name)


def _model(runtime: Runtime, name: str) -> Model:
    described = runtime.manager.describe(name)
    manifest = described.manifest
    return Model(
        id=described.name,
        created=int(datetime.fromisoformat(manifest.fetched_at).timestamp()) if manifest else 0,
        owned_by=manifest.origin if manifest else "file",
        freehold=ModelDetails(
            loaded=described.loaded,
            aliases=list(described.aliases),
            alias_of=described.alias_of,
            size_bytes=manifest.size if manifest else None,
            licence_declared=manifest.licence if manifest else None,
        ),
    )
