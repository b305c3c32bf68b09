"""Between OpenAI's words for embeddings and ours. Pure."""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterator

from freehold.api.openai.embeddings_schema import (
    Embedding,
    EmbeddingList,
    EmbeddingsRequest,
    Usage,
)
from freehold.domain.embedding import EmbeddingRequest, Embeddings, Vector


def embedding_request(
    body: EmbeddingsRequest, *, cache_scope: str, deadline: float
) -> EmbeddingRequest:
    return EmbeddingRequest(
        model=body.model,
        inputs=body.input,
        dimensions=body.dimensions,
        cache_scope=cache_scope,
        deadline=deadline,
    )


def embeddings(found: Embeddings, body: EmbeddingsRequest) -> Iterator[Embedding]:
    """In the format that ``body`` asks for."""
    packed = body.encoding_format == "base64"
    for number, vector in enumerate(found.vectors):
        yield Embedding(index=number, embedding=_packed(vector) if packed else list(vector))


def frame(found: Embeddings) -> EmbeddingList:
    """What stands around the embeddings."""
    return EmbeddingList(
        data=[],
        model=found.model,
        usage=Usage(prompt_tokens=found.prompt_tokens, total_tokens=found.prompt_tokens),
    )


def _packed(vector: Vector) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode("ascii")
