"""`/freehold/v1/models`: which models are in memory; loading, unloading and pinning them."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

from fastapi import APIRouter, Request

from freehold.api.admin.models_convert import Now, in_memory
from freehold.api.admin.models_schema import (
    LoadRequest,
    ModelInMemory,
    ModelsInMemory,
    PinRequest,
    Unloaded,
    UnloadRequest,
)
from freehold.api.openai.schema import ErrorResponse
from freehold.api.routing import deadline_of, described_errors, runtime_of
from freehold.api.stream import until_client_leaves
from freehold.domain.durations import seconds
from freehold.domain.errors import Unavailable
from freehold.runtime.manager import Standing
from freehold.runtime.wiring import Runtime

router = APIRouter(prefix="/freehold/v1/models")

_ERRORS = described_errors(ErrorResponse)


def _now() -> Now:
    return Now(datetime.now(UTC), asyncio.get_running_loop().time())


@router.get("/loaded", responses=_ERRORS)
async def loaded(request: Request) -> ModelsInMemory:
    """All that is in memory, comes, goes or waits for room."""
    manager, now = runtime_of(request).manager, _now()
    return ModelsInMemory(
        budget_bytes=manager.budget(),
        models=[in_memory(standing, now) for standing in manager.standings()],
    )


@router.post("/load", responses=_ERRORS)
async def load(body: LoadRequest, request: Request) -> ModelInMemory:
    """Load a model, and answer when it is ready."""
    stay = None if body.keep_alive is None else seconds(body.keep_alive)
    return await _load(request, body.model, pin=body.pin, keep_alive=stay)


@router.post("/unload", responses=_ERRORS)
async def unload(body: UnloadRequest, request: Request) -> Unloaded:
    """Unload a model, pinned or not, as soon as nobody uses it. Answers at once if it is in use."""
    runtime = runtime_of(request)
    described = await asyncio.to_thread(runtime.manager.describe, body.model)
    left = await runtime.manager.dismiss(body.model)
    return Unloaded(
        model=described.alias_of or described.name,
        left=None if left is None else in_memory(left, _now()),
    )


@router.post("/pin", responses=_ERRORS)
async def pin(body: PinRequest, request: Request) -> ModelInMemory | None:
    """Pin a model, or let it leave again: then null is answered if it is not in memory."""
    if body.pinned:
        return await _load(request, body.model, pin=True, keep_alive=None)
    manager = runtime_of(request).manager
    manager.unpin(body.model)
    standing = manager.standing(body.model)
    return None if standing is None else in_memory(standing, _now())


async def _load(
    request: Request, model: str, *, pin: bool, keep_alive: float | None
) -> ModelInMemory:
    runtime = runtime_of(request)
    work = _loaded(runtime, model, pin=pin, keep_alive=keep_alive)
    standing = await until_client_leaves(request, work)
    return in_memory(standing, _now())


async def _loaded(runtime: Runtime, model: str, *, pin: bool, keep_alive: float | None) -> Standing:
    manager = runtime.manager
    async with manager.lease(model, keep_alive=keep_alive, deadline=deadline_of(runtime)):
        if pin:
            manager.pin(model)
        held = manager.standing(model)
    standing = manager.standing(model) or held  # it may have left already
    if standing is None:  # the server has just closed
        raise Unavailable("The server is stopping.")
    return standing
