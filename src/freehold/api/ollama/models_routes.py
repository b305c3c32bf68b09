"""Ollama's routes about models that are here: which, what they are, naming and removing them."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from importlib.metadata import version as installed_version
from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.responses import Response

from freehold.api.ollama import models
from freehold.api.ollama.lines import timestamp
from freehold.api.ollama.models_schema import (
    CopyRequest,
    DeleteRequest,
    Details,
    ListedModel,
    LoadedList,
    LoadedModel,
    ModelList,
    Shown,
    ShowRequest,
    Version,
)
from freehold.api.ollama.names import bare_name, known_name, tagged_name
from freehold.api.ollama.routes import ERRORS
from freehold.api.routing import runtime_of
from freehold.domain.errors import (
    InvalidReference,
    InvalidRequest,
    LoadFailed,
    ModelNotPulled,
    NotFound,
    RefusedFile,
    Unavailable,
)
from freehold.runtime.chat import vocabulary_source
from freehold.runtime.manager import Lease, Standing
from freehold.runtime.names import Described
from freehold.runtime.wiring import Runtime
from freehold.trust.locks import forget
from freehold.weights import housekeeping
from freehold.weights.gguf import read_split
from freehold.weights.library import Library, LocalModel, parts_beside
from freehold.weights.reference import NameReference, PathReference, parse
from freehold.weights.registry import Manifest

router = APIRouter()

# The latest moment that every client can read: it stays until another one needs the room.
_NEVER = "9999-12-31T23:59:59Z"


@router.head("/", include_in_schema=False)
async def alive() -> Response:
    """How clients find out whether a server is there."""
    return Response()


@router.get("/api/version", response_model=Version, responses=ERRORS)
async def version() -> Version:
    return Version(version=installed_version("freehold"))


# What there is


@dataclass(frozen=True)
class _OnDisk:
    """The files of one model. ``digest`` is empty where it is not known yet."""

    paths: tuple[Path, ...]
    size: int
    digest: str
    modified: datetime

    @classmethod
    def of(cls, library: Library, described: Described) -> _OnDisk:
        """Raises `RefusedFile` for a served file that is gone. An upstream has no files."""
        if described.upstream is not None:
            return cls((), 0, "", datetime.fromtimestamp(0, UTC))
        if described.manifest is not None:
            return cls._stored(library, described.manifest)
        assert described.path is not None
        return cls._served(library, described.path)

    @classmethod
    def _stored(cls, library: Library, manifest: Manifest) -> _OnDisk:
        return cls(
            tuple(library.store.blob_path(file.sha256) for file in manifest.files),
            manifest.size,
            manifest.files[0].sha256,
            datetime.fromisoformat(manifest.fetched_at).astimezone(UTC),
        )

    @classmethod
    def _served(cls, library: Library, path: Path) -> _OnDisk:
        paths = parts_beside(path)
        try:
            states = [part.stat() for part in paths]
            known = library.store.path_record(path)
        except OSError as error:
            raise RefusedFile(f"{path.name} cannot be read: {error.strerror}.") from error
        return cls(
            paths,
            sum(state.st_size for state in states),
            known.sha256 if known is not None and known.still_describes(path) else "",
            datetime.fromtimestamp(states[0].st_mtime, UTC),
        )

    def details(self) -> Details:
        """Of files that cannot be read, only that."""
        if not self.paths:
            return models.ELSEWHERE
        try:
            times = tuple(path.stat().st_mtime_ns for path in self.paths)
            return _details(self.paths, times)
        except (OSError, RefusedFile):
            return models.UNREADABLE


@functools.lru_cache(maxsize=1024)
def _details(paths: tuple[Path, ...], _times: tuple[int, ...]) -> Details:
    """Remembered until a file changes: a header with a large vocabulary takes a while to read."""
    split = read_split(paths)
    return models.details(split.header, split.parameter_count)


@router.get("/api/tags", response_model=ModelList, responses=ERRORS)
async def tags(request: Request) -> ModelList:
    """Every model that can be asked for, the latest first."""
    return await asyncio.to_thread(_listed, runtime_of(request))


def _listed(runtime: Runtime) -> ModelList:
    found = []
    for name in runtime.manager.names():
        # Removed since it was listed, or a file that is gone: it cannot be asked for.
        with contextlib.suppress(NotFound, RefusedFile):
            described = runtime.manager.describe(name)
            found.append((described.name, _OnDisk.of(runtime.library, described)))
    found.sort(key=lambda pair: pair[1].modified, reverse=True)
    return ModelList(
        models=[
            ListedModel(
                name=name,
                model=name,
                modified_at=timestamp(disk.modified),
                size=disk.size,
                digest=disk.digest,
                details=disk.details(),
            )
            for name, disk in found
        ]
    )


@router.get("/api/ps", response_model=LoadedList, responses=ERRORS)
async def loaded(request: Request) -> LoadedList:
    """Every model in memory."""
    now = datetime.now(UTC), asyncio.get_running_loop().time()
    found = [
        (standing, standing.lease)
        for standing in runtime_of(request).manager.standings()
        if standing.lease is not None
    ]
    return await asyncio.to_thread(
        lambda: LoadedList(models=[_loaded(*each, now) for each in found])
    )


def _loaded(standing: Standing, lease: Lease, now: tuple[datetime, float]) -> LoadedModel:
    """``now`` by the calendar and by the event loop."""
    model = lease.model
    expires = standing.resident.expires
    disk = _OnDisk(model.paths, model.size, model.digest, datetime.now(UTC))
    return LoadedModel(
        name=model.name,
        model=model.name,
        size=model.size,
        digest=model.digest,
        details=disk.details(),
        expires_at=_NEVER if expires is None else timestamp(_moment(expires, *now)),
        context_length=lease.supervisor.capabilities.context,
    )


def _moment(time: float, date: datetime, now: float) -> datetime:
    """The date of a time of the event loop; years ahead it is the last one that can be told."""
    try:
        return date + timedelta(seconds=time - now)
    except OverflowError:
        return datetime.fromisoformat(_NEVER)


@router.post("/api/show", response_model=Shown, responses=ERRORS)
async def show(body: ShowRequest, request: Request) -> Response:
    """What one model is and can do."""
    runtime = runtime_of(request)
    name = await asyncio.to_thread(known_name, runtime, body.model)
    upstream = runtime.manager.known.upstream(name)
    if upstream is not None:
        elsewhere = models.remote(upstream, upstream.context)
        return Response(elsewhere.model_dump_json(), media_type="application/json")
    model = await runtime.manager.local(name)
    fills_holes = await _fills_holes(runtime, model)
    shown = await asyncio.to_thread(
        _shown, runtime, name, model, fills_holes=fills_holes, verbose=body.verbose is True
    )
    return Response(shown.model_dump_json(), media_type="application/json")


async def _fills_holes(runtime: Runtime, model: LocalModel) -> bool:
    """Whether the vocabulary has the tokens for it."""
    try:
        await runtime.text.tokenize(vocabulary_source(model), "", suffix="")
    except (InvalidRequest, LoadFailed):
        return False
    return True


def _shown(
    runtime: Runtime, name: str, model: LocalModel, *, fills_holes: bool, verbose: bool
) -> Shown:
    split = read_split(model.paths)
    header, context = split.header, runtime.settings.context
    template = header.chat_template or ""
    disk = _OnDisk.of(runtime.library, runtime.manager.describe(name))
    return Shown(
        modified_at=timestamp(disk.modified),
        details=models.details(header, split.parameter_count),
        model_info=models.model_info(header, split.parameter_count, verbose=verbose),
        capabilities=(
            ["embedding"]
            if models.is_for_embedding(header)
            else models.capabilities(template, fills_holes=fills_holes)
        ),
        template=template,
        parameters=models.parameters(min(context, header.context_length or context)),
        license=models.licence(runtime.dossiers.of(model).verdict),
    )


# Naming, removing


@router.post("/api/copy", responses=ERRORS)
async def copy(body: CopyRequest, request: Request) -> Response:
    """Give a model of the store one more name. Its files are not copied."""
    await asyncio.to_thread(_copy, runtime_of(request), body)
    return Response()


def _copy(runtime: Runtime, body: CopyRequest) -> None:
    registry = runtime.library.registry
    destination = _new_name(runtime, body.destination)
    with runtime.library.store.pulling():  # nothing is deleted meanwhile
        source = registry.get(_stored_reference(runtime, body.source))
        existing = registry.find(destination)
        if existing is not None and existing.files != source.files:
            raise InvalidRequest(
                f"Another model is called {destination} already.",
                field="destination",
                hint="Delete it first, or choose another name.",
            )
        if existing is None:
            registry.put(replace(source, reference=destination))


def _new_name(runtime: Runtime, given: str) -> str:
    """A short name with a tag that means nothing else. Raises `InvalidRequest`."""
    library, bare = runtime.library, bare_name(given)
    reference = parse(tagged_name(bare) or bare)
    if not isinstance(reference, NameReference):
        raise InvalidRequest("A copy is named like my-model or my-model:tag.", field="destination")
    known = library.row(reference) or (bare == reference.name and library.catalog.find(bare, None))
    settings = runtime.settings
    ours = bare in settings.aliases or bare in settings.upstreams
    if known or ours or _is_served(runtime, bare):
        raise InvalidRequest(
            f"{bare} is the name of another model.",
            field="destination",
            hint="Choose another name.",
        )
    return str(reference)


def _is_served(runtime: Runtime, name: str) -> bool:
    try:
        return runtime.manager.describe(name).path is not None
    except (InvalidReference, NotFound, RefusedFile):
        return False


@router.delete("/api/delete", responses=ERRORS)
async def delete(body: DeleteRequest, request: Request) -> Response:
    """Remove a model from the store, and from memory. Files that another model shares are kept."""
    runtime = runtime_of(request)
    reference = await asyncio.to_thread(_own_reference, runtime, body.model)
    manifest = await asyncio.to_thread(runtime.library.registry.find, reference)
    if manifest is None:
        raise ModelNotPulled(reference)
    if not await runtime.manager.unload(reference):
        raise Unavailable(
            f"{reference} is in use or pinned, and was not deleted.",
            hint="Ask again when its answers have ended; `freehold stop` unloads a pinned one.",
            values={"model": reference},
        )
    store = runtime.library.store
    await asyncio.to_thread(housekeeping.remove, store, manifest)
    await asyncio.to_thread(forget, store.home, manifest.reference)
    return Response()


def _own_reference(runtime: Runtime, given: str) -> str:
    """The same, and `InvalidRequest` for an alias: it is no model's own name."""
    reference = _stored_reference(runtime, given)
    if known_name(runtime, given) in runtime.settings.aliases:
        raise InvalidRequest(
            f"{given} is an alias of {reference}, given to this server as a setting.",
            hint=f"To delete the model itself, name {reference}.",
            values={"model": reference},
        )
    return reference


def _stored_reference(runtime: Runtime, given: str) -> str:
    """Raises `InvalidRequest` for a file that is served from its own place."""
    reference = parse(runtime.manager.known.local(known_name(runtime, given)))
    if isinstance(reference, PathReference):
        raise InvalidRequest(f"{given} is a file of yours, not a model in the store.")
    return str(reference)
