"""Between Ollama's words for embeddings and ours. Pure."""

from __future__ import annotations

from freehold.api.ollama.embed_schema import (
    EmbeddingsRequest,
    EmbeddingsResponse,
    EmbedRequest,
    EmbedResponse,
    Wanted,
)
from freehold.api.ollama.lines import nanoseconds
from freehold.domain.durations import seconds
from freehold.domain.embedding import EmbeddingRequest, Embeddings
from freehold.domain.errors import InvalidRequest, PromptTooLong


def embedding_request(
    body: EmbedRequest | EmbeddingsRequest, model: str, *, cache_scope: str, deadline: float
) -> EmbeddingRequest:
    """``model`` is our name for what ``body`` asks for."""
    dimensions = None
    if isinstance(body, EmbedRequest):
        inputs, dimensions = body.input, body.dimensions
    else:
        inputs = (body.prompt,)
    return EmbeddingRequest(
        model=model,
        inputs=inputs,
        dimensions=dimensions,
        cache_scope=cache_scope,
        deadline=deadline,
        keep_alive=None if body.keep_alive is None else seconds(body.keep_alive),
    )


def least_context(body: Wanted) -> int | None:
    """The context that the caller counts on."""
    return body.options.num_ctx if body.options is not None else None


def require_context(body: Wanted, context: int) -> None:
    """Raise `InvalidRequest` if more is asked for than the ``context`` the model is loaded with."""
    wanted = least_context(body)
    if wanted is not None and wanted > context:
        raise InvalidRequest(
            f"options.num_ctx is {wanted}, and {body.model} is loaded with a context of {context}.",
            field="options.num_ctx",
            hint="Leave num_ctx out, or start the server with a larger --context.",
        )


def too_long(body: EmbedRequest | EmbeddingsRequest, error: PromptTooLong) -> PromptTooLong:
    """The same refusal, for a caller who may expect what is too long to be cut."""
    if isinstance(body, EmbedRequest) and body.truncate is False:
        return error
    return PromptTooLong(
        f"{error.message} Nothing is silently truncated here, with truncate or without.",
        hint=error.hint,
        values=error.values,
    )


def frame(found: Embeddings, body: EmbedRequest, seconds: float) -> EmbedResponse:
    """What stands around the vectors. ``seconds``: since the request came."""
    return EmbedResponse(
        model=body.model,
        embeddings=[],
        total_duration=nanoseconds(seconds),
        load_duration=nanoseconds(found.loaded),
        prompt_eval_count=found.prompt_tokens,
    )


def embeddings_response(found: Embeddings) -> EmbeddingsResponse:
    return EmbeddingsResponse(embedding=list(found.vectors[0]))
