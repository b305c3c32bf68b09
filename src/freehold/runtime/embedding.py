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
from freehold.runtime.admission import Admission
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
