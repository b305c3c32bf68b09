"""From texts to vectors: lease the model, tokenise, check what fits, embed."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import Sequence

from freehold.domain.answers import AnswerUsage
from freehold.domain.chat import EmbedRequest
from freehold.domain.embedding import EmbeddingRequest, Embeddings, Vector, shortened
from freehold.domain.errors import InvalidRequest
from freehold.engines.base import begun_before, require_embeddable, require_embedding
from freehold.engines.upstream.engine import UpstreamEngine
from freehold.runtime.admission import Admission, Admitted
from freehold.runtime.chat import vocabulary_source
from freehold.runtime.manager import Manager
from freehold.text.client import TextService
from freehold.text.messages import VocabularySource

# Of all inputs together: what is on its way to a worker has to be bounded.
MAX_TOKENS = 1024 * 1024


async def embed(
    manager: Manager, text: TextService, admission: Admission, request: EmbeddingRequest
) -> Embeddings:
    """Raises what `Admission.turn`, `Manager.lease` and `TextService.tokenize` raise,
    `InvalidRequest` for what the model cannot do, `PromptTooLong` for an input that does not fit,
    and `DeadlineExceeded`.
    """
    began = time.monotonic()
    async with contextlib.AsyncExitStack() as held:
        model = manager.canonical(request.model)
        upstream = manager.upstreams.engine(model)
        if upstream is not None:
            turn = admission.turn(model, deadline=request.deadline)
            return await _elsewhere(upstream, request, await held.enter_async_context(turn), began)
        admitted = await held.enter_async_context(admission.turn(model, deadline=request.deadline))
        lease = await held.enter_async_context(
            manager.lease(request.model, keep_alive=request.keep_alive, deadline=request.deadline)
        )
        async with begun_before(request.deadline):
            capabilities = lease.supervisor.capabilities
            admitted.runs_on(capabilities)
            require_embedding(capabilities)
            inputs = await _tokenised(text, vocabulary_source(lease.model), request.inputs)
        wanted = EmbedRequest(uuid.uuid4().hex, inputs, request.cache_scope, request.deadline)
        require_embeddable(wanted, capabilities)
        loaded = time.monotonic() - began
        vectors = await lease.supervisor.embed(wanted)
        tokens = sum(map(len, inputs))
        admitted.took(AnswerUsage(tokens, cached_tokens=0, completion_tokens=0))
        if request.dimensions is not None:
            vectors = await asyncio.to_thread(_shortened, vectors, request.dimensions)
        return Embeddings(lease.model.name, vectors, tokens, loaded)


async def _elsewhere(
    upstream: UpstreamEngine, request: EmbeddingRequest, admitted: Admitted, began: float
) -> Embeddings:
    """By an upstream, which has tokens of its own."""
    admitted.finds(upstream.parallel)
    texts = [each for each in request.inputs if isinstance(each, str)]
    if len(texts) < len(request.inputs):
        raise InvalidRequest(
            "An upstream embeds texts: tokens of its own it has not told us.", field="input"
        )
    if not texts or not all(texts):
        raise InvalidRequest("The input is empty.", field="input")
    begun = time.monotonic() - began
    vectors, tokens = await upstream.embed(texts, request.deadline)
    admitted.took(AnswerUsage(tokens, cached_tokens=0, completion_tokens=0))
    if request.dimensions is not None:
        vectors = await asyncio.to_thread(_shortened, vectors, request.dimensions)
    return Embeddings(upstream.upstream.name, vectors, tokens, begun)


def _shortened(vectors: Sequence[Vector], dimensions: int) -> tuple[Vector, ...]:
    return tuple(shortened(vector, dimensions) for vector in vectors)


async def _tokenised(
    text: TextService, source: VocabularySource, inputs: Sequence[str | tuple[int, ...]]
) -> tuple[tuple[int, ...], ...]:
    """Texts with the tokens that the model wants first and last."""
    tokenised: list[tuple[int, ...]] = []
    total = 0
    for given in inputs:
        tokens = given
        if isinstance(tokens, str):
            tokens = (await text.tokenize(source, tokens, ending=True)).tokens
        total += len(tokens)
        if total > MAX_TOKENS:
            raise InvalidRequest(
                f"The inputs have more than {MAX_TOKENS} tokens together.",
                field="input",
                hint="Send them in several requests.",
            )
        tokenised.append(tokens)
    return tuple(tokenised)
