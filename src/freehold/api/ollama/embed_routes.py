"""Ollama's routes for embeddings."""

from __future__ import annotations

import asyncio
import time

from fastapi import APIRouter, Request
from fastapi.responses import Response

from freehold.api.large import as_json
from freehold.api.ollama import embed_convert as convert
from freehold.api.ollama.embed_schema import (
    EmbeddingsRequest,
    EmbeddingsResponse,
    EmbedRequest,
    EmbedResponse,
)
from freehold.api.ollama.names import known_name
from freehold.api.ollama.routes import ERRORS
from freehold.api.routing import deadline_of, runtime_of, scope_of
from freehold.api.stream import until_client_leaves
from freehold.domain.embedding import Embeddings
from freehold.domain.errors import PromptTooLong
from freehold.runtime.embedding import embed as compute

router = APIRouter(prefix="/api")


@router.post("/embed", response_model=EmbedResponse, responses=ERRORS)
async def embed(body: EmbedRequest, request: Request) -> Response:
    """Vectors for texts, all of length 1."""
    began = time.monotonic()
    found = await until_client_leaves(request, _found(body, request))
    frame = convert.frame(found, body, time.monotonic() - began)
    answer = await as_json(frame, "embeddings", found.vectors, numbers=sum(map(len, found.vectors)))
    return Response(answer, media_type="application/json")


@router.post("/embeddings", response_model=EmbeddingsResponse, responses=ERRORS)
async def embeddings(body: EmbeddingsRequest, request: Request) -> Response:
    """As clients asked before there was ``/api/embed``: one text, one vector."""
    found = await until_client_leaves(request, _found(body, request))
    answer = convert.embeddings_response(found)
    return Response(answer.model_dump_json(), media_type="application/json")


async def _found(body: EmbedRequest | EmbeddingsRequest, request: Request) -> Embeddings:
    runtime = runtime_of(request)
    manager = runtime.manager
    model = await asyncio.to_thread(known_name, runtime, body.model)
    deadline = deadline_of(runtime)
    asked = convert.embedding_request(body, model, cache_scope=scope_of(), deadline=deadline)
    if convert.least_context(body) is not None:  # of an upstream nobody knows it: it is refused
        lease = await manager.load(model, deadline=deadline)
        convert.require_context(body, lease.supervisor.capabilities.context)
    try:
        return await compute(manager, runtime.text, runtime.admission, asked)
    except PromptTooLong as error:
        raise convert.too_long(body, error) from error
