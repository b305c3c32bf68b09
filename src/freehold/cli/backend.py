"""Where `run` gets its answers: from a running server, or from a runtime of its own."""

from __future__ import annotations

import contextlib
import json
import time
import urllib.parse
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any, Protocol

import httpx2

from freehold.domain.answers import (
    AnswerUsage,
    Begun,
    ContentDelta,
    Ended,
    EndReason,
    Part,
    ReasoningDelta,
)
from freehold.domain.chat import ChatRequest
from freehold.domain.errors import (
    DeadlineExceeded,
    EngineCrashed,
    EngineError,
    FreeholdError,
    InvalidRequest,
    LicenceRefused,
    LoadFailed,
    OfflineRefused,
    PoisonRequest,
    PromptTooLong,
    QueueFull,
    ServerUnreachable,
    TemplateFailed,
    TokenRateExceeded,
    TooManyAtOnce,
    Unavailable,
    UpstreamFailed,
    UpstreamLimited,
    UpstreamUnavailable,
)
from freehold.domain.events import Timings
from freehold.domain.settings import Settings
from freehold.runtime import server as announcement
from freehold.runtime.server import ServerAddress
from freehold.runtime.wiring import Runtime

# A server on this machine answers at once or is gone.
_CONNECT = httpx2.Timeout(None, connect=2.0)
_ASK = httpx2.Timeout(2.0)


class Backend(Protocol):
    """Answers conversations with one model, named in each request."""

    @property
    def description(self) -> str: ...

    def answer(self, request: ChatRequest) -> AsyncGenerator[Part, None]:
        """The parts of one answer. Closing the iterator stops the model."""
        ...


@dataclass(frozen=True)
class LocalBackend:
    """Loads the model in this program."""

    runtime: Runtime

    @property
    def description(self) -> str:
        return "loaded here"

    async def answer(self, request: ChatRequest) -> AsyncGenerator[Part, None]:
        async with (
            self.runtime.chat.open(request) as generation,
            contextlib.aclosing(generation.parts()) as parts,
        ):
            async for _, part in parts:
                yield part


@dataclass(frozen=True)
class ServerBackend:
    """Asks a running `freehold serve` through its public API."""

    url: str
    api_key: str | None

    @property
    def description(self) -> str:
        return f"by the server at {self.url}"

    async def answer(self, request: ChatRequest) -> AsyncGenerator[Part, None]:
        began = time.monotonic()
        try:
            async with (
                # No proxy: what is said to this machine stays on it.
                httpx2.AsyncClient(
                    timeout=_CONNECT, headers=_headers(self.api_key), trust_env=False
                ) as client,
                client.stream(
                    "POST", f"{self.url}/v1/chat/completions", json=_body(request)
                ) as response,
            ):
                if response.status_code != 200:
                    await response.aread()
                    raise refusal(response.json())
                async with contextlib.aclosing(_parts(response, began, request)) as parts:
                    async for part in parts:
                        yield part
        except (httpx2.TransportError, json.JSONDecodeError) as error:
            raise ServerUnreachable(
                f"The server at {self.url} stopped answering.",
                hint="Look at its output, or stop it and run again without it.",
            ) from error


async def find_server(settings: Settings, model: str) -> ServerBackend | None:
    """A running server of this store that serves ``model``, else None."""
    for address in announcement.find_all(settings.home):
        if await _serves(address, settings, model):
            return ServerBackend(address.url, settings.api_key)
    return None


async def _serves(address: ServerAddress, settings: Settings, model: str) -> bool:
    headers = _headers(settings.api_key)
    quoted = urllib.parse.quote(model, safe="/:")
    try:
        async with httpx2.AsyncClient(timeout=_ASK, headers=headers, trust_env=False) as client:
            health = await client.get(f"{address.url}/healthz")
            if health.status_code != 200 or health.json().get("instance") != address.instance:
                return False
            known = await client.get(f"{address.url}/v1/models/{quoted}")
    except (httpx2.TransportError, ValueError, OfflineRefused):
        return False
    return known.status_code == 200


def _headers(api_key: str | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {api_key}"} if api_key else {}


def _body(request: ChatRequest) -> dict[str, Any]:
    sampling = request.sampling
    body: dict[str, Any] = {
        "model": request.model,
        "messages": [
            {"role": message.role.value, "content": message.content}
            for message in request.conversation.messages
        ],
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if sampling.seed is not None:
        body["seed"] = sampling.seed
    if request.max_tokens is not None:
        body["max_tokens"] = request.max_tokens
    return body


def refusal(body: dict[str, Any]) -> FreeholdError:
    """The server's error as ours, by its code; the sentence is the server's."""
    details = body.get("error", {})
    message = str(details.get("message", "The server refused the request."))
    kinds: dict[str, type[FreeholdError]] = {
        kind.code: kind
        for kind in (
            PromptTooLong,
            TemplateFailed,
            InvalidRequest,
            EngineCrashed,
            PoisonRequest,
            LoadFailed,
            LicenceRefused,
            DeadlineExceeded,
            UpstreamUnavailable,
            UpstreamFailed,
            Unavailable,
        )
    }
    # Their wait is in a header, not here.
    limits = (QueueFull, TooManyAtOnce, TokenRateExceeded, UpstreamLimited)
    kinds |= {kind.code: Unavailable for kind in limits}
    return kinds.get(str(details.get("code")), EngineError)(message)


async def _parts(
    response: httpx2.Response, began: float, request: ChatRequest
) -> AsyncGenerator[Part, None]:
    """Server-sent chunks to parts. Times are what this side saw since ``began``."""
    first: float | None = None
    reason = EndReason.STOP
    usage = AnswerUsage(0, 0, 0)
    answered: float | None = None
    async for line in response.aiter_lines():
        if not line.startswith("data: ") or line == "data: [DONE]":
            continue
        chunk = json.loads(line.removeprefix("data: "))
        if "error" in chunk:
            raise refusal(chunk)
        if chunk.get("usage"):
            usage = _usage(chunk["usage"])
        for choice in chunk["choices"]:
            if first is None:
                first = time.monotonic()
            if choice.get("finish_reason"):
                reason = EndReason(choice["finish_reason"])
            if text := choice["delta"].get("reasoning_content"):
                yield ReasoningDelta(text)
            if text := choice["delta"].get("content"):
                answered = answered if answered is not None else time.monotonic() - began
                yield ContentDelta(text)
    now = time.monotonic()
    first = first if first is not None else now
    timings = Timings(0.0, first - began, now - first)
    yield Begun(usage.prompt_tokens, usage.cached_tokens)
    yield Ended(reason, usage, timings, request.sampling.seed, first_answer=answered)


def _usage(body: dict[str, Any]) -> AnswerUsage:
    return AnswerUsage(
        prompt_tokens=body["prompt_tokens"],
        cached_tokens=body["prompt_tokens_details"]["cached_tokens"],
        completion_tokens=body["completion_tokens"],
        reasoning_tokens=body["completion_tokens_details"]["reasoning_tokens"],
    )
