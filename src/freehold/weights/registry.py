"""Manifests: which names this store knows, and which blobs each one means.

One JSON file per model under ``manifests``, named by the percent-encoded
reference (a long one cut, with its SHA-256), replaced atomically. A manifest is
written last, so a model is listed only when all its files are here.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import msgspec

from freehold.domain.errors import ModelNotPulled
from freehold.process.decoding import from_json
from freehold.weights.files import file_name, is_sha256, write_atomically
from freehold.weights.store import Store

log = logging.getLogger(__name__)

MANIFEST_FORMAT = 1


@dataclass(frozen=True)
class ModelFile:
    """One file of a model, in order; ``name`` is what it was called at its source."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What was fetched under a name, from where, and what its card declared.

    ``licence`` and ``base_models`` are declarations, not judgements. ``fetched_at`` is
    ISO 8601 in UTC. ``derived_from`` is the digest of the blob this one was made of.
    """

    reference: str
    files: tuple[ModelFile, ...]
    origin: str
    fetched_at: str
    tool_version: str
    revision: str | None = None
    licence: str | None = None
    licence_source: str | None = None
    base_models: tuple[str, ...] = ()
    derived_from: str | None = None
    format: int = MANIFEST_FORMAT

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(file.size for file in self.files)


class Registry:
    """The manifests of one store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._folder = store.home / "manifests"

    def get(self, reference: str) -> Manifest:
        """Raise `ModelNotPulled` if there is none or one of its blobs is missing."""
        manifest = self.find(reference)
        if manifest is None or not all(self._store.has(file.sha256) for file in manifest.files):
            raise ModelNotPulled(reference)
        return manifest

    def find(self, reference: str) -> Manifest | None:
        return _read(self._path(reference))

    def put(self, manifest: Manifest) -> None:
        data = msgspec.json.format(msgspec.json.encode(manifest), indent=2)
        write_atomically(self._path(manifest.reference), data + b"\n")

    def all(self) -> tuple[Manifest, ...]:
        found = (_read(path) for path in sorted(self._folder.glob("*.json")))
        return tuple(manifest for manifest in found if manifest is not None)

    def models(self) -> tuple[Manifest, ...]:
        """Those that somebody asked for: without what `freehold tune` made of them."""
        return tuple(manifest for manifest in self.all() if manifest.derived_from is None)

    def remove(self, reference: str) -> None:
        self._path(reference).unlink(missing_ok=True)

    def referenced(self) -> frozenset[str]:
        """Digests that some manifest needs."""
        return frozenset(file.sha256 for manifest in self.all() for file in manifest.files)

    def _path(self, reference: str) -> Path:
        return self._folder / f"{file_name(reference)}.json"


def _read(path: Path) -> Manifest | None:
    try:
        manifest = from_json(path.read_bytes(), Manifest)
    except FileNotFoundError:
        return None
    except (msgspec.DecodeError, OSError) as error:
        log.warning("manifest %s is damaged and ignored: %s", path.name, error)
        return None
    if not manifest.files or not all(is_sha256(file.sha256) for file in manifest.files):
        log.warning("manifest %s names no valid digests and is ignored", path.name)
        return None
    return manifest
