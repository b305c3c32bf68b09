"""Which sources may deliver a reference, in the order they are tried. Asks none of them."""

from __future__ import annotations

from freehold.domain.errors import InvalidReference, ModelNotFetchable, UnknownModel
from freehold.domain.settings import Settings
from freehold.weights.catalog import CatalogFile, CatalogModel
from freehold.weights.progress import Progress
from freehold.weights.reference import (
    HubReference,
    NameReference,
    PathReference,
    Reference,
    UrlReference,
)
from freehold.weights.sources.base import RemoteFile, Source
from freehold.weights.sources.hub import HubSource
from freehold.weights.sources.index import IndexSource
from freehold.weights.sources.url import UrlSource


def sources_of(
    reference: Reference, row: CatalogModel | None, settings: Settings, progress: Progress
) -> tuple[Source, ...]:
    """``row`` is the catalogue row of a name. Raises `NotFound` or `InvalidReference`."""
    match reference:
        case UrlReference(url, sha256):
            return (UrlSource(url, sha256),)
        case HubReference(repository, revision, choice):
            paths = (choice,) if choice else None
            return (_hub(settings, repository, revision, paths, ()),)
        case NameReference():
            if row is None:
                raise UnknownModel(str(reference))
            return _catalogued(row, settings, progress)
        case PathReference():
            raise InvalidReference(f"{reference} is a file.")


def _catalogued(row: CatalogModel, settings: Settings, progress: Progress) -> tuple[Source, ...]:
    """The hub first: it is the publisher's own place. Then whoever carries the same bytes."""
    file = row.default_file
    if file is None:
        raise ModelNotFetchable(row.reference, upstream=row.upstream or row.title)
    sources: list[Source] = []
    if file.repository and file.paths:
        sources.append(_hub(settings, file.repository, file.revision, file.paths, _expected(file)))
    if file.pieces and file.sha256:
        whole = RemoteFile(_file_name(file, row), file.size, file.sha256)
        sources.append(IndexSource(whole, file.pieces, settings.home / "partial", progress.status))
    return tuple(sources)


def _hub(
    settings: Settings,
    repository: str,
    revision: str | None,
    paths: tuple[str, ...] | None,
    expected: tuple[RemoteFile, ...],
) -> HubSource:
    return HubSource(
        repository,
        revision=revision,
        paths=paths,
        expected=expected,
        endpoint=settings.hub_endpoint,
        token=settings.hub_token,
    )


def _expected(file: CatalogFile) -> tuple[RemoteFile, ...]:
    """What the catalogue pins; for a split model it pins nothing."""
    if len(file.paths) != 1:
        return ()
    return (RemoteFile(file.paths[0], file.size, file.sha256),)


def _file_name(file: CatalogFile, row: CatalogModel) -> str:
    if file.paths:
        return file.paths[0]
    return f"{row.name}-{row.tag}-{file.quantisation.lower()}.gguf"
