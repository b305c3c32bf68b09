"""`/freehold/v1/plan`: what fits this machine now, and how fast it should be."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Annotated

from fastapi import APIRouter, Query, Request

from freehold.api.openai.schema import ErrorResponse
from freehold.api.routing import described_errors, runtime_of
from freehold.api.web.plan_convert import shown
from freehold.api.web.plan_schema import PlanShown
from freehold.domain.errors import FreeholdError
from freehold.domain.settings import environment
from freehold.engines.llamacpp.build import installed
from freehold.machine.candidates import Candidate
from freehold.machine.plan import plan, weigh
from freehold.machine.probe import probe
from freehold.machine.wishes import PROMPT, Wishes
from freehold.runtime.calibration import recall
from freehold.runtime.planning import Stock
from freehold.runtime.profiles import Here
from freehold.runtime.wiring import Runtime

router = APIRouter(prefix="/freehold/v1")

_ERRORS = described_errors(ErrorResponse)
_Tokens = Annotated[int, Query(ge=1, le=10**8)]


@router.get("/plan", responses=_ERRORS)
async def get_plan(
    request: Request,
    users: Annotated[int, Query(ge=1, le=256)] = 1,
    context: _Tokens | None = None,
    prompt: _Tokens = PROMPT,
) -> PlanShown:
    """What `freehold plan` says: for every model that is here or in the catalogue whether it fits,
    by how much it does not, and its speed, estimated and, where it was tuned here, measured.
    ``context`` is what each user has; left out: as it is set, and as the model allows. What models
    in memory take now is not free. ``files`` are the further published files of a row of the
    catalogue, under the references that fetch them.
    """
    wishes = Wishes(users=users, context=context, prompt=prompt)
    return await asyncio.to_thread(_planned, runtime_of(request), wishes)


def _planned(runtime: Runtime, wishes: Wishes) -> PlanShown:
    home = runtime.settings.home
    computer, build = probe(home, environment()), installed()
    here = Here(computer.fingerprint, build.identity if build is not None else "")
    stock = Stock(runtime.library, runtime.dossiers, here)
    candidates = (*stock.all(), *_served(runtime, stock))
    calibration = recall(home, here.computer, here.build)
    given = stock.given(computer, wishes, calibration, candidates)
    others = {
        row: tuple(weigh(each, given) for each in files)
        for row, files in stock.others(candidates).items()
    }
    return shown(plan(candidates, given), others)


def _served(runtime: Runtime, stock: Stock) -> Iterator[Candidate]:
    """Files that were named when the server started; one that is gone or damaged is left out."""
    for name in runtime.manager.names():
        with contextlib.suppress(FreeholdError, OSError):
            path = runtime.manager.describe(name).path
            if path is not None:
                yield stock.served(name, path)
