"""`/freehold/v1/upstreams`: models of other servers, and how these are."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel

from freehold.api.openai.schema import ErrorResponse
from freehold.api.routing import described_errors, runtime_of
from freehold.domain.upstreams import Upstream, host_of, leaves
from freehold.engines.upstream.engine import UpstreamFigures
from freehold.runtime.upstreams import Upstreams

router = APIRouter(prefix="/freehold/v1/upstreams")

_ERRORS = described_errors(ErrorResponse)


class Replica(BaseModel):
    """One server of an upstream. ``tokens`` are outstanding in ``requests``, prompts and answers,
    as far as can be told beforehand; ``ejections`` are counted since the start.
    """

    host: str
    leaves_machine: bool
    state: Literal["healthy", "ejected", "on probation"]
    requests: int
    tokens: int
    ejections: int


class UpstreamModel(BaseModel):
    """``usable`` false: this server is offline, or lacks the key. ``context`` null: not known.
    ``retries`` are requests that another replica was asked to answer.
    """

    model: str
    model_there: str
    kind: str
    usable: bool
    context: int | None
    retries: int
    replicas: list[Replica]


class UpstreamModels(BaseModel):
    upstreams: list[UpstreamModel]


@router.get("", responses=_ERRORS)
async def upstreams(request: Request) -> UpstreamModels:
    """Every upstream, and how each of its replicas is."""
    found = runtime_of(request).manager.upstreams
    told = [_told(found, found.known[each.name], each) for each in found.figures()]
    return UpstreamModels(upstreams=told)


def _told(upstreams: Upstreams, upstream: Upstream, figures: UpstreamFigures) -> UpstreamModel:
    return UpstreamModel(
        model=upstream.name,
        model_there=upstream.model,
        kind=upstream.kind.value,
        usable=not upstreams.barred(upstream) and not upstream.lacks_key,
        context=figures.context,
        retries=figures.retries,
        replicas=[
            Replica(
                host=host_of(each.url),
                leaves_machine=leaves(each.url),
                state=each.health.value,
                requests=each.requests,
                tokens=each.tokens,
                ejections=each.ejections,
            )
            for each in figures.replicas
        ],
    )
