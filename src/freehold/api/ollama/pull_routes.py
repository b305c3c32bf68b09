"""Ollama's route for fetching models, and one of ours that says which are being fetched."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from fastapi import APIRouter, Request
from fastapi.responses import Response

from freehold.api.ollama.lines import as_json
from freehold.api.ollama.models_schema import Progress, PullRequest, PullsUnderWay
from freehold.api.ollama.names import known_name
from freehold.api.ollama.pulling import Pulls
from freehold.api.ollama.routes import ERRORS, LINES, failed, line_of
from freehold.api.routing import runtime_of
from freehold.api.stream import JSON_LINES, streamed, until_client_leaves
from freehold.domain.errors import InvalidRequest
from freehold.weights.reference import PathReference, UrlReference, parse


def ollama_pull_router() -> APIRouter:
    """The routes, with a list of their own of the pulls that go on."""
    router, routes = APIRouter(), _Routes(Pulls())
    router.post("/api/pull", response_model=Progress, responses={**ERRORS, **JSON_LINES})(
        routes.pull
    )
    router.get("/freehold/v1/pulls", responses=ERRORS)(routes.under_way)
    return router


class _Routes:
    def __init__(self, pulls: Pulls) -> None:
        self._pulls = pulls

    async def pull(self, body: PullRequest, request: Request) -> Response:
        """Fetch a model and verify it, telling the progress as lines of JSON, or only the end.

        A client that leaves ends it; the next pull goes on from there.
        """
        runtime = runtime_of(request)
        name = await asyncio.to_thread(known_name, runtime, body.model)
        if isinstance(parse(name), PathReference | UrlReference):
            raise InvalidRequest(
                "Only models of the catalogue and of the hub are pulled over HTTP.",
                field="model",
                hint="Use `freehold pull` on the machine itself.",
            )
        lines = self._pulls.lines(runtime.dossiers, name, body.model)
        if body.stream is not False:
            return await streamed(request, _told(lines), LINES, failed)
        last = await until_client_leaves(request, _last(lines))
        return Response(as_json(last), media_type="application/json")

    async def under_way(self) -> PullsUnderWay:
        """The pulls that go on, whoever asked for them."""
        return PullsUnderWay(pulls=self._pulls.under_way())


async def _told(lines: AsyncGenerator[Progress, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(lines):
        async for line in lines:
            yield line_of(line)


async def _last(lines: AsyncGenerator[Progress, None]) -> Progress:
    async with aclosing(lines):
        return [line async for line in lines][-1]
