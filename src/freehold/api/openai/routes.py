"""OpenAI's routes: parse once, lease, generate, answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, aclosing
from datetime import datetime

from fastapi import APIRouter, Request
from fastapi.responses import Response

from freehold.api.openai import convert
from freehold.api.openai.profiles import ProfileShown, profile_shown
from freehold.api.openai.schema import (
    ChatCompletion,
    ChatCompletionRequest,
    Elsewhere,
    ErrorResponse,
    Licence,
    Model,
    ModelDetails,
    ModelList,
)
from freehold.api.problem import Problem
from freehold.api.routing import deadline_of, described_errors, reworded, runtime_of, scope_of
from freehold.api.stream import EVENT_STREAM, EVENTS, event, streamed, until_client_leaves
from freehold.domain.upstreams import Upstream, host_of, leaves
from freehold.runtime.chat import Generation
from freehold.runtime.names import Described
from freehold.runtime.wiring import Runtime
from freehold.weights.registry import Manifest

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
        cache_scope=scope_of(),
        deadline=deadline_of(runtime),
    )
    opening = runtime.chat.open(asked)
    if body.stream:
        counts = body.stream_options is not None and body.stream_options.include_usage
        told = _told(opening, include_usage=counts)
        return await streamed(request, told, EVENTS, _failed, model=body.model)
    completion = await until_client_leaves(request, _whole(opening))
    return Response(completion.model_dump_json(), media_type="application/json")


async def _whole(opening: AbstractAsyncContextManager[Generation]) -> ChatCompletion:
    with reworded(convert.in_own_words):
        async with opening as generation:
            answers = await generation.whole()
            return convert.completion(_identity(generation), _now(), generation.name, answers)


async def _told(
    opening: AbstractAsyncContextManager[Generation], *, include_usage: bool
) -> AsyncGenerator[bytes, None]:
    """The answers as they come."""
    with reworded(convert.in_own_words):
        async with opening as generation, aclosing(generation.parts()) as parts:
            identity, name = _identity(generation), generation.name
            chunks = convert.Chunks(identity, _now(), name, include_usage=include_usage)
            async for number, part in parts:
                for chunk in chunks.of(number, part):
                    yield event(chunk)
    for chunk in chunks.last():
        yield event(chunk)
    yield event("[DONE]")


def _failed(problem: Problem) -> list[bytes]:
    return [event(convert.error_body(problem).model_dump_json())]


def _identity(generation: Generation) -> str:
    return f"chatcmpl-{generation.request_id}"


def _now() -> int:
    return int(time.time())


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
        owned_by=_owner(described),
        freehold=ModelDetails(
            loaded=described.loaded,
            aliases=list(described.aliases),
            alias_of=described.alias_of,
            size_bytes=manifest.size if manifest else None,
            licence=_licence(runtime, manifest) if manifest else None,
            profile=_profile(runtime, described),
            upstream=_elsewhere(described.upstream) if described.upstream else None,
        ),
    )


def _profile(runtime: Runtime, described: Described) -> ProfileShown | None:
    """Of the weights as they are, whether they are loaded or not."""
    digest = runtime.manager.known.digest(described)
    held = runtime.holding.of(digest) if digest else None
    return profile_shown(held.profile, held.objection) if held else None


def _owner(described: Described) -> str:
    if described.upstream is not None:
        return "upstream"
    return described.manifest.origin if described.manifest else "file"


def _elsewhere(upstream: Upstream) -> Elsewhere:
    """Those that data leaves for, if it does for any."""
    there = [url for url in upstream.urls if leaves(url)]
    hosts = dict.fromkeys(host_of(url) for url in there or upstream.urls)
    return Elsewhere(hosts=list(hosts), leaves_machine=bool(there))


def _licence(runtime: Runtime, manifest: Manifest) -> Licence:
    (verdict,) = runtime.dossiers.verdicts([manifest])
    return Licence(
        concluded=verdict.concluded,
        run=verdict.run.outcome,
        serve=verdict.serve.outcome,
        duties=[duty.text for duty in verdict.serve.duties],
    )
