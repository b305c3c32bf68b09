"""OpenAI's route for embeddings."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response

from freehold.api.large import as_json
from freehold.api.openai import embeddings_convert as convert
from freehold.api.openai.embeddings_schema import EmbeddingList, EmbeddingsRequest
from freehold.api.openai.schema import ErrorResponse
from freehold.api.routing import deadline_of, described_errors, runtime_of, scope_of
from freehold.api.stream import until_client_leaves
from freehold.runtime.embedding import embed

router = APIRouter(prefix="/v1")

_ERRORS = described_errors(ErrorResponse)


@router.post("/embeddings", response_model=EmbeddingList, responses=_ERRORS)
async def embeddings(body: EmbeddingsRequest, request: Request) -> Response:
    """Vectors for texts, all of length 1."""
    runtime = runtime_of(request)
    asked = convert.embedding_request(
        body,
        cache_scope=scope_of(),
        deadline=deadline_of(runtime),
    )
    finding = embed(runtime.manager, runtime.text, runtime.admission, asked)
    found = await until_client_leaves(request, finding)
    items = convert.embeddings(found, body)
    answer = await as_json(
        convert.frame(found), "data", items, numbers=sum(map(len, found.vectors))
    )
    return Response(answer, media_type="application/json")
