"""`/freehold/v1/papers`, `/catalogue` and `/disk`: what a model is, may be used for and takes."""

from __future__ import annotations

import asyncio
import json
import shutil
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from freehold.api.openai.schema import ErrorResponse
from freehold.api.routing import described_errors, runtime_of
from freehold.api.sentences import all_shown, shown
from freehold.api.web import papers_schema as schema
from freehold.runtime.wiring import Runtime
from freehold.trust import lock as locking
from freehold.trust.dossier import Dossier
from freehold.trust.sbom import HeaderFacts, sbom
from freehold.trust.verdict import Ancestor, Duty, Use, Verdict
from freehold.weights.library import LocalModel

router = APIRouter(prefix="/freehold/v1")

_ERRORS = described_errors(ErrorResponse)
_Name = Annotated[str, Query(alias="model", min_length=1, max_length=1024)]


@router.get("/catalogue", responses=_ERRORS)
async def catalogue(request: Request) -> schema.Catalogue:
    """Every model known by name, here or not."""
    return await asyncio.to_thread(_catalogue, runtime_of(request))


def _catalogue(runtime: Runtime) -> schema.Catalogue:
    here = {manifest.reference for manifest in runtime.library.registry.all()}
    return schema.Catalogue(
        data=[
            schema.CatalogueModel(
                reference=row.reference,
                title=row.title,
                licence_declared=row.declared_licence,
                distillate_of=row.distillate_of,
                note=row.note,
                size_bytes=row.default_file.size if row.default_file else None,
                fetchable=row.fetchable,
                here=row.reference in here,
            )
            for row in runtime.library.catalog.models
        ]
    )


@router.get("/disk", responses=_ERRORS)
async def disk(request: Request) -> schema.Disk:
    """The room that models take."""
    return await asyncio.to_thread(_disk, runtime_of(request))


def _disk(runtime: Runtime) -> schema.Disk:
    library = runtime.library
    sizes = {
        file.sha256: file.size for manifest in library.registry.all() for file in manifest.files
    }
    return schema.Disk(used=sum(sizes.values()), free=shutil.disk_usage(runtime.settings.home).free)


@router.get("/papers", responses=_ERRORS)
async def papers(name: _Name, request: Request) -> schema.Papers:
    """The verdicts on one model, its duties, and the way to the models it was made of."""
    model, dossier = await _of(request, name)
    verdict = dossier.verdict
    return schema.Papers(
        model=verdict.model,
        run=verdict.run.outcome,
        serve=verdict.serve.outcome,
        reasons=schema.Reasons(
            run=all_shown(verdict.run.reasons), serve=all_shown(verdict.serve.reasons)
        ),
        duties=_duties(verdict),
        declared=verdict.declared,
        concluded=verdict.concluded,
        lineage=_ancestor(verdict.lineage.root),
        gaps=all_shown(verdict.lineage.gaps),
        sha256=model.digest,
        origin=model.manifest.origin if model.manifest else None,
        fetched=model.manifest.fetched_at if model.manifest else None,
    )


def _duties(verdict: Verdict) -> list[schema.Duty]:
    uses: dict[Duty, list[str]] = {}
    for use, ruling in ((Use.RUN, verdict.run), (Use.SERVE, verdict.serve)):
        for duty in ruling.duties:
            uses.setdefault(duty, []).append(str(use))
    return [
        schema.Duty(said=shown(duty.text), uses=brought, licence=duty.licence, release=duty.release)
        for duty, brought in uses.items()
    ]


def _ancestor(node: Ancestor) -> schema.Ancestor:
    return schema.Ancestor(
        name=node.name,
        licence=node.licence,
        known=node.known,
        relation=str(node.relation) if node.relation is not None else None,
        parents=[_ancestor(parent) for parent in node.parents],
    )


@router.get("/papers/lock", responses=_ERRORS)
async def lock(name: _Name, request: Request) -> Response:
    """The lock of a model, as `freehold lock` prints it, to be kept as a file."""
    model, dossier = await _of(request, name)
    return _file(f"{_plain(model)}.lock.json", locking.encode(dossier.lock))


@router.get("/papers/sbom", responses=_ERRORS)
async def bill(name: _Name, request: Request) -> Response:
    """A model as CycloneDX 1.6, as `freehold sbom` prints it, to be kept as a file."""
    model, dossier = await _of(request, name)
    document = sbom(dossier.lock, dossier.verdict, HeaderFacts.of(model.header))
    text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    return _file(f"{_plain(model)}.cdx.json", text.encode())


async def _of(request: Request, name: str) -> tuple[LocalModel, Dossier]:
    runtime = runtime_of(request)
    model = await runtime.manager.local(name)
    return model, await asyncio.to_thread(runtime.dossiers.of, model)


def _plain(model: LocalModel) -> str:
    """A file name of letters, digits, dots and hyphens."""
    return "".join(c if c.isascii() and (c.isalnum() or c in ".-") else "-" for c in model.name)


def _file(name: str, data: bytes) -> Response:
    headers = {
        "Content-Disposition": f'attachment; filename="{name}"',
        "X-Content-Type-Options": "nosniff",
    }
    return Response(data, media_type="application/json", headers=headers)
