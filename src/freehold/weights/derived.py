"""What was made here of a model's weights: its name, and where another program finds it."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from freehold.weights import checkpoint, safetensors, vocabulary_file
from freehold.weights.library import Library, LocalModel, is_safetensors
from freehold.weights.reference import NameReference, parse
from freehold.weights.registry import Manifest, Registry
from freehold.weights.store import Store

SAFETENSORS = "safetensors"
_UNNAMEABLE = re.compile(r"[^a-z0-9._-]+")


def derived_reference(registry: Registry, model: LocalModel, kind: str) -> str:
    """``name:tag-q8_0``; with a piece of the digest where another model has that name."""
    parent = parse(model.reference)
    if isinstance(parent, NameReference):
        tag = "" if parent.tag is None else f"{parent.tag}-"
        base = f"{parent.name}:{tag}{kind.lower()}"
    else:
        stem = _UNNAMEABLE.sub("-", Path(model.name).name.lower()).strip("-._")[:60]
        base = f"{stem or 'model'}:{kind.lower()}"
    other = registry.find(base)
    if other is None or other.derived_from == model.digest:
        return base
    return f"{base}-{model.digest[:8]}"


def as_safetensors(library: Library, model: LocalModel) -> Manifest | None:
    """This model's weights as safetensors, fetched or made here, if all are still here."""
    if model.manifest is not None and is_safetensors(model.manifest):
        return model.manifest
    for manifest in library.registry.all():
        if manifest.derived_from == model.digest and is_safetensors(manifest):
            here = all(library.store.has(file.sha256) for file in manifest.files)
            return manifest if here else None
    return None


def config_of(store: Store, manifest: Manifest) -> Mapping[str, Any]:
    """The configuration of weights in safetensors; empty where there is none. Raises
    `InvalidModelFile`.
    """
    named = {file.name: store.blob_path(file.sha256) for file in manifest.files}
    if checkpoint.CONFIG not in named:
        return {}
    said = checkpoint.texts_of({checkpoint.CONFIG: named[checkpoint.CONFIG]})[checkpoint.CONFIG]
    return said if isinstance(said, dict) else {}


def tensors_of(store: Store, manifest: Manifest) -> tuple[safetensors.Tensor, ...]:
    """Of all its files, from their headers. Raises `RefusedFile`."""
    return tuple(
        tensor
        for file in manifest.files
        if file.name.endswith(f".{SAFETENSORS}")
        for tensor in safetensors.read_header(store.blob_path(file.sha256)).tensors
    )


def assemble(store: Store, manifest: Manifest, folder: Path) -> Path:
    """A folder in which the files have their names again, as links to the blobs.

    Every blob is verified first. Raises `DigestMismatch`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for file in manifest.files:
        if file.name == vocabulary_file.NAME:  # ours, and nobody else's
            continue
        blob = store.verify(file.sha256)
        link = folder / file.name
        fresh = folder / f".{file.name}.{os.getpid()}"
        with contextlib.suppress(FileNotFoundError):
            fresh.unlink()
        fresh.symlink_to(blob)
        fresh.replace(link)
    return folder
