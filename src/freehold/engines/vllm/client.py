"""The gateway's face of a vLLM server: the `Engine` protocol over HTTP on a UNIX socket.

    load ──▶ keeper ──▶ vLLM ──▶ its socket answers

All of it runs on one event loop. A request is one HTTP exchange (two, where an answer is
constrained after reasoning; one before it, where the prompt's log-probabilities are asked for);
closing it makes vLLM abort the sequence.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path

from freehold.domain.chat import EmbedRequest, GenerateRequest
from freehold.domain.errors import EngineCrashed, LoadFailed
from freehold.domain.events import Event, TokenLogprob
from freehold.engines.base import (
    Adapter,
    Capabilities,
    Capability,
    require_embeddable,
    require_possible,
)
from freehold.engines.vllm import asking
from freehold.engines.vllm.adapters import Adapters
from freehold.engines.vllm.exchange import Exchange
from freehold.engines.vllm.figures import VllmFigures, figures_of
from freehold.engines.vllm.hearing import chunk_of, prompt_logprobs_of, vectors_of
from freehold.engines.vllm.launch import VllmConfig
from freehold.engines.vllm.server import VllmServer
from freehold.engines.vllm.telling import Telling
from freehold.text.token_table import TokenTable

log = logging.getLogger(__name__)

# Loading a large model from a slow disk, compiling kernels for it on a card.
LOAD_SECONDS = 3600.0
_LOOK_SECONDS = 0.25
# Texts that are embedded in one exchange: what nobody waits for any more ends with it.
_TOGETHER = 16

_GENERATING = frozenset(
    {
        Capability.GENERATE,
        Capability.SEED,
        Capability.STOP,
        Capability.LOGPROBS,
        Capability.CONSTRAINTS,
        Capability.PREFIX_CACHE,
    }
)
_EMBEDDING = frozenset({Capability.EMBED})
# In all; one server generates or embeds, and has adapters where it was given slots for them.
FEATURES = _GENERATING | _EMBEDDING | {Capability.ADAPTERS}

ReadTable = Callable[[], Awaitable[TokenTable]]


def features(config: VllmConfig) -> frozenset[Capability]:
    """A vLLM server writes or embeds, and never both."""
    if config.pooling is not None:
        return _EMBEDDING
    return _GENERATING | ({Capability.ADAPTERS} if config.lora_slots else frozenset())


class VllmEngine:
    """``server`` is not started yet; ``table`` reads the model's vocabulary."""

    def __init__(self, server: VllmServer, table: ReadTable) -> None:
        self._server = server
        self._read_table = table
        self._exchange: Exchange | None = None
        self._adapters: Adapters | None = None
        self._table = TokenTable([], frozenset(), ())
        self._loaded = False

    @property
    def config(self) -> VllmConfig:
        """How it loads its model."""
        return self._server.config

    @property
    def socket(self) -> Path:
        """Where its server answers, once it is loaded."""
        return self._server.socket

    @property
    def capabilities(self) -> Capabilities:
        if not self._loaded:
            raise LoadFailed("The engine is not loaded.")
        return Capabilities(features(self.config), self.config.context, self.config.parallel)

    @property
    def failure(self) -> EngineCrashed | None:
        return self._server.failure

    @property
    def pid(self) -> int | None:
        """vLLM's own process, which answers; others compute for it."""
        return self._server.pid

    @property
    def progress(self) -> float | None:
        return self._server.starting.progress

    @property
    def stage(self) -> str | None:
        return None if self._loaded else self._server.starting.stage

    async def load(self) -> None:
        self._table = await self._read_table()
        await self._server.start()
        exchange = self._exchange = Exchange(self._server)
        self._adapters = Adapters(self.config.lora_slots, exchange.post, self._server.socket.parent)
        try:
            async with asyncio.timeout(LOAD_SECONDS):
                await self._until_it_answers(exchange)
        except TimeoutError:
            raise LoadFailed(f"vLLM did not get ready within {LOAD_SECONDS:.0f} s.") from None
        self._loaded = self._server.answering = True
        log.info("%s loaded by vLLM, process %s", self.config.model, self.pid)

    async def _until_it_answers(self, exchange: Exchange) -> None:
        while True:
            if (dead := self.failure) is not None:
                raise LoadFailed(
                    f"{self.config.model} could not be loaded: {dead.message}", hint=dead.hint
                )
            if await exchange.healthy():
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_SECONDS):
                    await self._server.ended.wait()

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Event, None]:
        exchange = self._require_alive()
        require_possible(request, self.capabilities)
        asking.require_sampled(request.sampling)
        with self._adapting().used(request.adapters) as adapter:
            telling = Telling(
                asking.seeded(request), self._table, self.config.context, time.monotonic()
            )
            if request.prompt_logprobs is not None:
                telling.prompt_logprobs = await self._of_prompt(exchange, request, adapter)
                # The answer has begun, as far as its deadline goes.
                telling.read_before()
            another = True
            while another:
                body = asking.body(telling.request, self._table, telling.constraint, adapter)
                async with exchange.lines(asking.GENERATE, body, telling.request.deadline) as lines:
                    async for line in lines:
                        chunk = chunk_of(line)
                        if chunk is not None and chunk.error is not None:
                            raise await exchange.broken(chunk.error.message)
                        for event in telling.hear(chunk, time.monotonic()) if chunk else ():
                            yield event
                        if telling.cut:
                            break
                another = telling.go_on()
            for event in telling.end(time.monotonic()):
                yield event

    async def _of_prompt(
        self, exchange: Exchange, request: GenerateRequest, adapter: str | None
    ) -> tuple[TokenLogprob, ...]:
        """vLLM tells them in an answer that is not streamed; that one is of a single token."""
        asked = asking.of_prompt(request, self._table, adapter)
        said = await exchange.post(asking.GENERATE, asked, request.deadline)
        assert request.prompt_logprobs is not None
        return prompt_logprobs_of(said, request.prompt, self._table, request.prompt_logprobs)

    async def embed(self, request: EmbedRequest) -> tuple[tuple[float, ...], ...]:
        exchange = self._require_alive()
        require_embeddable(request, self.capabilities)
        vectors: list[tuple[float, ...]] = []
        deadline = request.deadline
        for start in range(0, len(request.inputs), _TOGETHER):
            inputs = request.inputs[start : start + _TOGETHER]
            said = await exchange.post(
                asking.EMBED, asking.embedding(replace(request, inputs=inputs)), deadline
            )
            vectors += vectors_of(said, len(inputs))
            deadline = None  # the first have come
        return tuple(vectors)

    async def add_adapter(self, adapter: Adapter) -> None:
        self._require_alive()
        await self._adapting().add(adapter)

    async def remove_adapter(self, name: str) -> None:
        self._require_alive()
        await self._adapting().remove(name)

    async def inspect(self) -> VllmFigures:
        """What vLLM counts, for operators."""
        return figures_of(await self._require_alive().text("/metrics"))

    def _require_alive(self) -> Exchange:
        if self.failure is not None:
            raise self.failure
        if self._exchange is None:
            raise EngineCrashed(f"{self.config.model} is not loaded.")
        return self._exchange

    def _adapting(self) -> Adapters:
        assert self._adapters is not None
        return self._adapters

    async def close(self) -> None:
        await self._server.close()
        if self._exchange is not None:
            await self._exchange.close()
