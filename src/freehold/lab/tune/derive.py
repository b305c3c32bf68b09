"""Weights made here: requantised in a child, stored by digest, linked to what they were made of.

    partial/<key> ──llama.cpp──▶ header read ──▶ hashed ──▶ blobs/<sha256> ──▶ lock ──▶ manifest

The manifest comes last, as for weights that were fetched; whatever kills the process, what is
listed is whole. It names its parent, and so does its lock, which has the parent's licences.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from importlib.metadata import version

from freehold.engines.llamacpp.build import PACKAGE
from freehold.engines.llamacpp.tuning_client import quantise
from freehold.lab.tune.grid import FILE_TYPE_OF, FORMATS
from freehold.runtime.profiles import Profiles
from freehold.trust.derived import Making, list_derived
from freehold.trust.locks import forget
from freehold.weights import housekeeping
from freehold.weights.derived import derived_reference
from freehold.weights.files import disk_full_is_ours, hash_file, require_room
from freehold.weights.gguf import read_header
from freehold.weights.library import Library, LocalModel
from freehold.weights.registry import Manifest, ModelFile


@dataclass(frozen=True)
class Derivation:
    """What of a model is or can be made here."""

    library: Library
    model: LocalModel

    def known(self, quantisation: str) -> Manifest | None:
        """Made earlier, and still here."""
        manifest = self.library.registry.find(self._reference(quantisation))
        here = manifest is not None and all(
            self.library.store.has(file.sha256) for file in manifest.files
        )
        return manifest if here else None

    def require_room(self, quantisation: str) -> None:
        """Raise `DiskFull` where the disk has too little room for these weights."""
        needed = expected_size(self.model.header.parameter_count, quantisation)
        hint = "Free some space (`freehold prune` helps), or name fewer --formats."
        require_room(self.library.store.home, needed, subject=quantisation, hint=hint)

    async def make(self, quantisation: str, threads: int) -> Manifest:
        """Raises `DiskFull`, `EngineError`, or `RefusedFile` for what is no sound file."""
        known = self.known(quantisation)
        if known is not None:
            return known
        self.require_room(quantisation)
        store = self.library.store
        key = f"{self.model.digest[:16]}-{quantisation.lower()}"
        with store.pulling(), store.partial(key, waiting=lambda: None) as partial:
            with disk_full_is_ours(store.home):
                partial.unlink(missing_ok=True)
                partial.touch(mode=0o600)
            try:
                await quantise(self.model.paths[0], partial, FILE_TYPE_OF[quantisation], threads)
                size = partial.stat().st_size
                await asyncio.to_thread(read_header, partial)
                sha256 = await asyncio.to_thread(hash_file, partial)
                await asyncio.to_thread(store.adopt, partial, sha256)
            finally:
                partial.unlink(missing_ok=True)
            return self._list(quantisation, ModelFile(f"{key}.gguf", size, sha256))

    def _list(self, quantisation: str, file: ModelFile) -> Manifest:
        made = Making(self._reference(quantisation), (file,), f"{PACKAGE} {version(PACKAGE)}")
        return list_derived(self.library, self.model, made)

    def forget_all_but(self, digest: str) -> int:
        """Delete what a search made of this model, but for one and those that a profile runs;
        returns the bytes freed."""
        store = self.library.store
        kept = {digest, *Profiles(store.home).weights()}
        freed = 0
        for manifest in self.library.registry.all():
            first = manifest.files[0]
            ours = manifest.derived_from == self.model.digest and first.name.endswith(".gguf")
            if ours and first.sha256 not in kept:
                freed += housekeeping.remove(store, manifest)
                forget(store.home, manifest.reference)
        return freed

    def _reference(self, quantisation: str) -> str:
        return derived_reference(self.library.registry, self.model, quantisation)


def expected_size(parameters: int, quantisation: str) -> int:
    """Bytes, rather too many than too few."""
    return int(parameters * FORMATS[quantisation] / 8)
