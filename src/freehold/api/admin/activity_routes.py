"""`/freehold/v1/activity`: what the server is doing, and ending a request that is under way.

A key of scope `manage` sees and ends every request, any other its own.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Annotated

from fastapi import APIRouter, Path, Request

from freehold.api.admin import activity_convert as convert
from freehold.api.admin.activity_schema import Activity, MemoryActivity, RequestUnderWay
from freehold.api.openai.schema import ErrorResponse
from freehold.api.routing import described_errors, runtime_of
from freehold.domain.errors import RequestNotFound
from freehold.machine.probe import memory
from freehold.runtime.access.caller import Scope, current_caller, may_see
from freehold.runtime.engine_figures import figures_of, own_resident_bytes
from freehold.runtime.under_way import Asked

router = APIRouter(prefix="/freehold/v1/activity")

_ERRORS = described_errors(ErrorResponse)
_Id = Annotated[str, Path(pattern=r"^[0-9a-f]{32}$")]
# Somebody looks again in a second: an engine in the middle of a long step is not waited for.
_PATIENCE_SECONDS = 0.5


@router.get("", responses=_ERRORS)
async def activity(request: Request) -> Activity:
    """Counts for each model, and the requests under way. Of prompts and answers nothing is told."""
    runtime = runtime_of(request)
    manager, known = runtime.manager, runtime.manager.known
    supervisors = [lease.supervisor for lease in manager.loaded()]
    engines = await figures_of(supervisors, _PATIENCE_SECONDS)
    queues = (replace(each, model=known.shown(each.model)) for each in runtime.admission.queues())
    requests = runtime.admission.requests
    seen = convert.models(runtime.meters.models, queues, engines)
    machine = await asyncio.to_thread(memory)
    now = requests.clock()
    return Activity(
        seconds=now,
        memory=MemoryActivity(
            total=machine.total,
            available=machine.available,
            budget=manager.budget(),
            gateway=own_resident_bytes(),
        ),
        models=[each for each in seen if may_see(each.model)],
        requests=[
            convert.request(each, now, known.shown) for each in requests.all() if _theirs(each)
        ],
    )


@router.delete("/{identity}", responses=_ERRORS)
async def stop_request(identity: _Id, request: Request) -> RequestUnderWay:
    """End a request. Its client is told so in its own dialect (`request_stopped`); an answer of a
    conversation is stopped, and what was written is kept. Answers with the request as it was.
    """
    runtime = runtime_of(request)
    requests = runtime.admission.requests
    found = requests.find(identity)
    if found is None or not _theirs(found):
        raise RequestNotFound(identity)
    told = convert.request(found, requests.clock(), runtime.manager.known.shown)
    found.stop.ask()
    return told


def _theirs(asked: Asked) -> bool:
    """Whether the caller of the moment may see and end it."""
    caller = current_caller()
    return caller.may(Scope.MANAGE) or caller.id == asked.caller.id
