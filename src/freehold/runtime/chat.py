"""One chat completion: lease → render → check → generate. The straight line itself."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass

from freehold.domain.chat import ChatRequest, GenerateRequest
from freehold.domain.errors import PromptTooLong
from freehold.domain.events import Event
from freehold.engines.base import begun_before
from freehold.runtime.lifecycle import Supervisor
from freehold.runtime.manager import Lease, Manager
from freehold.text.client import Prompt, TextService
from freehold.text.messages import VocabularySource
from freehold.weights.library import LocalModel


@dataclass(frozen=True)
class Generation:
    """A chat that is ready to run: nothing about it can be refused any more."""

    model: LocalModel
    prompt: Prompt
    request: GenerateRequest
    context: int
    _supervisor: Supervisor

    def events(self) -> AsyncGenerator[Event, None]:
        """Run it, once. Closing the iterator early cancels."""
        return self._supervisor.generate(self.request)


class Chat:
    """Opens generations. ``default_max_tokens`` None: as many as there is room for."""

    def __init__(
        self, manager: Manager, text: TextService, *, default_max_tokens: int | None
    ) -> None:
        self._manager = manager
        self._text = text
        self._default_max_tokens = default_max_tokens

    @contextlib.asynccontextmanager
    async def open(self, request: ChatRequest) -> AsyncIterator[Generation]:
        """Lease the model and prepare the prompt; the lease ends with the context.

        Raises what `Manager.lease`, `TextService.render` and `TextService.check_constraint`
        raise, `PromptTooLong`, and
        `DeadlineExceeded` if the model is not ready in time.
        """
        async with contextlib.AsyncExitStack() as held:
            async with begun_before(request.deadline):
                lease = await held.enter_async_context(self._manager.lease(request.model))
                source = vocabulary_source(lease.model)
                prompt = await self._text.render(source, request.messages)
                if request.constraint is not None:
                    await self._text.check_constraint(source, request.constraint)
            yield self._generation(request, lease, prompt)

    def _generation(self, request: ChatRequest, lease: Lease, prompt: Prompt) -> Generation:
        context = lease.supervisor.capabilities.context
        room = context - len(prompt.tokens)
        if room < 1:
            raise PromptTooLong.counted(prompt_tokens=len(prompt.tokens), context=context)
        if request.max_tokens is not None and request.max_tokens > room:
            raise PromptTooLong.counted(
                prompt_tokens=len(prompt.tokens),
                context=context,
                requested_tokens=request.max_tokens,
            )
        wanted = request.max_tokens or self._default_max_tokens or room
        generate = GenerateRequest(
            request_id=uuid.uuid4().hex,
            prompt=prompt.tokens,
            max_tokens=min(wanted, room),
            sampling=request.sampling,
            cache_scope=request.cache_scope,
            deadline=request.deadline,
            constraint=request.constraint,
            top_logprobs=request.top_logprobs,
        )
        return Generation(lease.model, prompt, generate, context, lease.supervisor)


def vocabulary_source(model: LocalModel) -> VocabularySource:
    return VocabularySource(
        digest=model.digest,
        paths=tuple(str(path) for path in model.paths),
        template=model.header.chat_template or "",
    )
