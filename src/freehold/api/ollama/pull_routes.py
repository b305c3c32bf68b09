"""Ollama's route for fetching models."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from fastapi import APIRouter, Request
from fastapi.responses import Response

from freehold.api.ollama.lines import as_json
from freehold.api.ollama.models_schema import Progress, PullRequest
from freehold.api.ollama.names import fetchable_name
from freehold.api.ollama.pulling import lines
from freehold.api.ollama.routes import ERRORS, LINES, failed, line_of
from freehold.api.pulls import Pulls
from freehold.api.routing import runtime_of
from freehold.api.stream import JSON_LINES, streamed, until_client_leaves


def ollama_pull_router(pulls: Pulls) -> APIRouter:
    """The route, over the pulls of one server."""
    router, routes = APIRouter(), _Routes(pulls)
    router.post("/api/pull", response_model=Progress, responses={**ERRORS, **JSON_LINES})(
        routes.pull
    )
    return router


class _Routes:
    def __init__(self, pulls: Pulls) -> None:
        self._pulls = pulls

    async def pull(self, body: PullRequest, request: Request) -> Response:
        """Fetch a model and verify it, telling the progress as lines of JSON, or only the end.

        A client that leaves ends it; the next pull goes on from there.
        """
        runtime = runtime_of(request)
        name = await asyncio.to_thread(fetchable_name, runtime, body.model)
        told = lines(self._pulls, runtime.dossiers, name, body.model)
        if body.stream is not False:
            return await streamed(request, _told(told), LINES, failed)
        last = await until_client_leaves(request, _last(told))
        return Response(as_json(last), media_type="application/json")


async def _told(told: AsyncGenerator[Progress, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(told):
        async for line in told:
            yield line_of(line)


async def _last(told: AsyncGenerator[Progress, None]) -> Progress:
    async with aclosing(told):
        return [line async for line in told][-1]
