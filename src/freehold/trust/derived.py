"""Listing what was made here of a model: a manifest and a lock that name their parent."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version

import msgspec

from freehold.trust.lock import LockedFile
from freehold.trust.locks import Locks
from freehold.weights.library import Library, LocalModel, now
from freehold.weights.registry import Manifest, ModelFile


@dataclass(frozen=True)
class Making:
    """``reference`` is its name, ``by`` the program that made it and its version."""

    reference: str
    files: tuple[ModelFile, ...]
    by: str


def list_derived(library: Library, model: LocalModel, made: Making) -> Manifest:
    """The blobs are there. The lock has the parent's licences; the manifest comes last."""
    parent = model.manifest
    manifest = Manifest(
        reference=made.reference,
        files=made.files,
        origin=f"made here from {model.reference} by {made.by}",
        fetched_at=now(),
        tool_version=version("freehold"),
        licence=parent.licence if parent else model.header.text("general.license"),
        licence_source=parent.licence_source if parent else "the header of its source",
        base_models=parent.base_models if parent else (),
        derived_from=model.digest,
    )
    locks = Locks(library.store.home)
    lock = locks.get(parent.reference) if parent else None
    if lock is not None:
        locks.put(
            msgspec.structs.replace(
                lock,
                reference=manifest.reference,
                source=manifest.origin,
                commit=None,
                files=tuple(LockedFile(file.name, file.size, file.sha256) for file in made.files),
                derived_from=model.digest,
                tool_version=manifest.tool_version,
                fetched_at=manifest.fetched_at,
            )
        )
    library.registry.put(manifest)
    return manifest
