"""OpenAI's route for embeddings."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request
from fastapi.responses import Response

from freehold.api.openai import embeddings_convert as convert
from freehold.api.openai.embeddings_schema import EmbeddingList, EmbeddingsRequest
from freehold.api.openai.schema import ErrorResponse
from freehold.api.stream import until_client_leaves
from freehold.runtime.embedding import embed
from freehold.runtime.wiring import Runtime

router = APIRouter(prefix="/v1")

_ERRORS: dict[int | str, dict[str, type[ErrorResponse]]] = {
    status: {"model": ErrorResponse} for status in (400, 401, 403, 404, 413, 415, 429, 500, 503)
}


@router.post("/embeddings", response_model=EmbeddingList, responses=_ERRORS)
async def embeddings(body: EmbeddingsRequest, request: Request) -> Response:
    """Vectors for texts, all of length 1."""
    runtime: Runtime = request.app.state.runtime
    asked = convert.embedding_request(
        body,
        cache_scope="local",
        deadline=asyncio.get_running_loop().time() + runtime.settings.deadline,
    )
    found = await until_client_leaves(request, embed(runtime.manager, runtime.text, asked))
    answer = convert.embedding_list(found, body)
    return Response(answer.model_dump_json(), media_type="application/json")
