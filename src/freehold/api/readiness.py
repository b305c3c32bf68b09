"""Whether this server should be sent requests: what it was told to load is there, and it stays."""

from __future__ import annotations

from importlib.metadata import version

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel

from freehold.api.routing import runtime_of
from freehold.api.stream import draining_of

router = APIRouter()


class Readiness:
    """``instance`` tells one server process from another. ``awaited`` are the models that were
    named at the start and are not loaded yet.
    """

    def __init__(self, instance: str) -> None:
        self.instance = instance
        self.awaited: list[str] = []


class Health(BaseModel):
    """``instance`` as in `Readiness`; ``loaded`` are models."""

    status: str
    version: str
    instance: str
    loaded: list[str]


@router.get("/healthz")
async def healthz(request: Request) -> Health:
    """Whether the process is up. Says nothing about models being ready."""
    readiness: Readiness = request.app.state.readiness
    return Health(
        status="ok",
        version=version("freehold"),
        instance=readiness.instance,
        loaded=sorted(runtime_of(request).manager.loaded_names()),
    )


class Ready(BaseModel):
    """``reason`` is empty where it is ready."""

    ready: bool
    reason: str = ""


@router.get("/readyz", response_model=Ready, responses={503: {"model": Ready}})
async def readyz(request: Request) -> Response:
    """200 once the models named at the start are loaded and until the server is told to stop; else
    503 with the reason. `/healthz` tells whether the process is up.
    """
    readiness: Readiness = request.app.state.readiness
    if draining_of(request).begun:
        answer = Ready(ready=False, reason="The server is stopping.")
    elif readiness.awaited:
        names = ", ".join(readiness.awaited)
        answer = Ready(ready=False, reason=f"Still to be loaded: {names}.")
    else:
        answer = Ready(ready=True)
    return JSONResponse(answer.model_dump(), status_code=200 if answer.ready else 503)
