"""`/freehold/v1/pulls`: what is being fetched, and fetching in the background."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Query, Request

from freehold.api.admin.pulls_schema import NewPull, PullsUnderWay, PullUnderWay
from freehold.api.ollama.names import fetchable_name, known_name
from freehold.api.openai.schema import ErrorResponse
from freehold.api.pulls import Pull, Pulls
from freehold.api.routing import described_errors, runtime_of

_ADDRESS = "/freehold/v1/pulls"
_ERRORS = described_errors(ErrorResponse)


def pulls_router(pulls: Pulls) -> APIRouter:
    """The routes, over the pulls of one server."""
    router, routes = APIRouter(), _Routes(pulls)
    router.get(_ADDRESS, responses=_ERRORS)(routes.list_pulls)
    router.post(_ADDRESS, responses=_ERRORS)(routes.begin_pull)
    router.delete(_ADDRESS, responses=_ERRORS)(routes.stop_pull)
    return router


class _Routes:
    def __init__(self, pulls: Pulls) -> None:
        self._pulls = pulls

    async def list_pulls(self) -> PullsUnderWay:
        """The pulls that go on, whoever asked for them, and those in the background that are over
        and have not been taken away.
        """
        return PullsUnderWay(pulls=[_told(pull) for pull in self._pulls.told()])

    async def begin_pull(self, body: NewPull, request: Request) -> PullUnderWay:
        """Fetch a model and verify it while nobody waits. It ends when it is here, when somebody
        stops it, or with the server; begun again, it goes on from where it was.
        """
        runtime = runtime_of(request)
        name = await asyncio.to_thread(fetchable_name, runtime, body.model)
        return _told(await self._pulls.begin_in_background(runtime.dossiers, name, body.model))

    async def stop_pull(
        self, request: Request, model: Annotated[str, Query(min_length=1, max_length=1024)]
    ) -> PullUnderWay:
        """Stop a pull in the background, keeping what has come; one that is over is taken away.
        Answers with it as it is then.
        """
        name = await asyncio.to_thread(known_name, runtime_of(request), model)
        return _told(self._pulls.stop(name))


def _told(pull: Pull) -> PullUnderWay:
    completed, total = pull.watch.so_far
    state, problem = pull.state, pull.problem
    return PullUnderWay(
        model=pull.model,
        completed=completed,
        total=total,
        stopping=state == "stopping",
        background=pull.background,
        state=state,
        error=None if problem is None else problem.message,
        error_code=None if problem is None else problem.code,
        error_values=None if problem is None else problem.told,
    )
