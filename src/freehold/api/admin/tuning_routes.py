"""`/freehold/v1/tuning`: finding out which format and settings run a model fastest here."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Query, Request

from freehold.api.admin import tuning_convert as convert
from freehold.api.admin.tuning_schema import SearchShown, TuneRequest, TuningResult, TuningState
from freehold.api.openai.schema import ErrorResponse
from freehold.api.routing import described_errors, runtime_of
from freehold.runtime.profiles import Here
from freehold.runtime.tuned import Tuned

router = APIRouter(prefix="/freehold/v1/tuning")

_ERRORS = described_errors(ErrorResponse)
_Name = Annotated[str, Query(alias="model", min_length=1, max_length=1024)]


@router.get("", responses=_ERRORS)
async def get_search(request: Request) -> TuningState:
    """How the search goes on."""
    found = runtime_of(request).searches.latest
    return TuningState(search=None if found is None else convert.search(found))


@router.post("", responses=_ERRORS)
async def begin_search(body: TuneRequest, request: Request) -> SearchShown:
    """Begin a search, or go on with one that was stopped; one at a time. The model is unloaded
    first, and is not begun while somebody uses it. The winner is kept as the model's profile.
    """
    searches = runtime_of(request).searches
    return convert.search(await searches.begin(body.model, convert.wishes(body)))


@router.delete("", responses=_ERRORS)
async def stop_search(request: Request) -> TuningState:
    """Stop the search that runs, if one does; what was measured is kept."""
    found = await runtime_of(request).searches.stop()
    return TuningState(search=None if found is None else convert.search(found))


@router.get("/result", responses=_ERRORS)
async def search_result(name: _Name, request: Request) -> TuningResult:
    """What the last search of a model found: every finalist with its speed and its loss."""
    runtime = runtime_of(request)
    home = runtime.settings.home
    model = await runtime.manager.local(name)
    tuned = Tuned(home)
    found, begun = await asyncio.to_thread(
        lambda: (tuned.get(model.digest), tuned.begun(model.digest))
    )
    shown = None
    if found is not None:
        here = await asyncio.to_thread(Here.now, home)
        shown = convert.tuning(found, here.objection(found.profile))
    return TuningResult(
        model=model.name,
        quantisation=model.header.quantisation,
        begun=begun,
        tuning=shown,
    )
