"""What may be deleted: looked at first, counted, then removed."""

from __future__ import annotations

import contextlib
import enum
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import filelock

from freehold.domain.errors import StoreBusy
from freehold.weights.registry import Manifest, Registry
from freehold.weights.store import Store


class Litter(enum.StrEnum):
    """Why something may go."""

    PARTIAL = "partial"  # a download that did not finish
    UNREFERENCED = "unreferenced"  # a blob no model names
    DERIVED = "derived"  # made here from another blob, can be made again


@dataclass(frozen=True)
class Removable:
    kind: Litter
    name: str
    size: int


def survey(store: Store, kinds: Iterable[Litter] = tuple(Litter)) -> tuple[Removable, ...]:
    """What `prune` would delete now, of the given kinds."""
    wanted = set(kinds)
    registry = Registry(store)
    found: list[Removable] = []
    if Litter.PARTIAL in wanted:
        found += [
            Removable(Litter.PARTIAL, path.name, _size(path))
            for path in store.partials()
            if path.suffix != ".lock" and not _in_use(store, path)
        ]
    if Litter.UNREFERENCED in wanted:
        named = registry.referenced()
        found += [
            Removable(Litter.UNREFERENCED, blob.sha256, blob.size)
            for blob in store.blobs()
            if blob.sha256 not in named
        ]
    if Litter.DERIVED in wanted:
        models = registry.all()
        kept = {file.sha256 for m in models if m.derived_from is None for file in m.files}
        for manifest in (m for m in models if m.derived_from is not None):
            own = {file.sha256: file.size for file in manifest.files if file.sha256 not in kept}
            found.append(Removable(Litter.DERIVED, manifest.reference, sum(own.values())))
            kept.update(own)  # what two share is freed once
    return tuple(found)


def prune(store: Store, kinds: Iterable[Litter] = tuple(Litter)) -> tuple[Removable, ...]:
    """Delete what `survey` finds and return it. Raises `StoreBusy` while a pull runs."""
    registry = Registry(store)
    with store.cleaning():
        found = survey(store, kinds)
        for item in found:
            match item.kind:
                case Litter.PARTIAL:
                    _delete(store.home / "partial" / item.name)
                    (store.home / "partial" / f"{item.name}.lock").unlink(missing_ok=True)
                case Litter.UNREFERENCED:
                    store.remove_blob(item.name)
                case Litter.DERIVED:
                    manifest = registry.find(item.name)
                    if manifest is not None:
                        _forget(store, registry, manifest)
    return found


def remove(store: Store, manifest: Manifest) -> int:
    """Remove a model; returns the bytes freed. Files another model names are kept.

    While a pull runs only the name goes; `prune` frees the space later.
    """
    registry = Registry(store)
    try:
        with store.cleaning():
            return _forget(store, registry, manifest)
    except StoreBusy:
        registry.remove(manifest.reference)
        return 0


def _forget(store: Store, registry: Registry, manifest: Manifest) -> int:
    registry.remove(manifest.reference)
    still_named = registry.referenced()
    return sum(
        store.remove_blob(file.sha256) for file in manifest.files if file.sha256 not in still_named
    )


def _in_use(store: Store, partial: Path) -> bool:
    lock = filelock.FileLock(store.home / "partial" / f"{partial.name}.lock")
    try:
        with lock.acquire(timeout=0):
            return False
    except filelock.Timeout:
        return True


def _size(path: Path) -> int:
    with contextlib.suppress(FileNotFoundError):  # a pull elsewhere has just finished with it
        parts = path.rglob("*") if path.is_dir() else (path,)
        return sum(part.stat().st_size for part in parts if part.is_file())
    return 0


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
