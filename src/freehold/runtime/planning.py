"""What a plan is made from, collected: this store's models, the catalogue, verdicts, profiles."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from freehold.domain.engine import Quantization
from freehold.domain.errors import RefusedFile
from freehold.machine.calibration import Calibration
from freehold.machine.candidates import Candidate, Local, of_local, of_row, of_safetensors
from freehold.machine.computer import Computer
from freehold.machine.plan import Given
from freehold.machine.profile import Profile
from freehold.machine.wishes import Wishes
from freehold.runtime.cache_settings import cache_config
from freehold.runtime.profiles import Here, Profiles
from freehold.trust.dossier import Dossiers
from freehold.trust.verdict import Verdict
from freehold.weights.catalog import CatalogModel
from freehold.weights.gguf import read_header
from freehold.weights.gguf_header import GgufHeader, TensorInfo
from freehold.weights.library import Library, is_checkpoint, is_safetensors, parts_beside
from freehold.weights.reference import NameReference, PathReference, parse
from freehold.weights.registry import Manifest
from freehold.weights.store import Store

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stock:
    """One store and its catalogue, as candidates. Headers are read; nothing is hashed or fetched,
    and nobody is asked."""

    library: Library
    dossiers: Dossiers
    here: Here

    @classmethod
    def open(cls, library: Library, here: Here) -> Stock:
        """``here`` is what profiles must have been measured on to count."""
        return cls(library, Dossiers.open(library), here)

    def all(self) -> tuple[Candidate, ...]:
        """Models that are here, and rows that are not. A file that is damaged is left out: it is
        `verify-files` that says so."""
        stored = self.library.registry.all()
        # What was made for vLLM is planned as what it was made of.
        manifests = tuple(
            each for each in stored if is_checkpoint(each) or not is_safetensors(each)
        )
        verdicts = self.dossiers.verdicts(manifests)
        found = []
        for manifest, verdict in zip(manifests, verdicts, strict=True):
            try:
                found.append(self._of_stored(manifest, verdict))
            except RefusedFile as error:
                log.warning("%s is left out: %s", manifest.reference, error)
        present = {manifest.reference for manifest in manifests}
        rows = [row for row in self.library.catalog.models if row.reference not in present]
        return (*found, *self._of_rows(rows))

    def others(self, stored: Iterable[Candidate]) -> dict[str, tuple[Candidate, ...]]:
        """By reference of a row, its further published files; those of ``stored`` are what they
        are here."""
        here = {each.digest: each for each in stored if each.digest}
        return {
            row.reference: tuple(
                here.get(file.sha256 or "") or of_row(row, None, file) for file in row.other_files
            )
            for row in self.library.catalog.models
        }

    def one(self, text: str) -> Candidate:
        """Raises `ModelNotPulled` for what neither this store nor the catalogue describes, and
        `UnknownModel`, `InvalidReference` or `RefusedFile`."""
        reference = self.library.reference(text)
        if isinstance(reference, PathReference):
            return of_local(self._outside(reference.path), None)
        row = self.library.row(reference)
        if row is not None and not self.library.is_local(reference):
            return self._of_rows([row])[0]
        manifest = self.library.registry.get(str(reference))
        (verdict,) = self.dossiers.verdicts([manifest])
        return self._of_stored(manifest, verdict)

    def in_safetensors(self, text: str) -> Manifest | None:
        """What is here under this name, if vLLM reads it and llama.cpp does not."""
        reference = self.library.reference(text)
        if isinstance(reference, PathReference) or not self.library.is_local(reference):
            return None
        manifest = self.library.registry.get(str(reference))
        return manifest if is_safetensors(manifest) else None

    def served(self, name: str, path: Path) -> Candidate:
        """A file that is served under a name of its own. Raises `RefusedFile`."""
        return dataclasses.replace(of_local(self._outside(path), None), reference=name)

    def given(
        self,
        computer: Computer,
        wishes: Wishes,
        calibration: Calibration | None,
        candidates: Iterable[Candidate],
    ) -> Given:
        """What ``candidates`` are weighed against, with the profiles of those that have one."""
        settings = self.library.settings
        found = {each.digest: self.profile(each.digest) for each in candidates}
        return Given(
            computer=computer,
            wishes=wishes,
            calibration=calibration,
            profiles={digest: held for digest, held in found.items() if digest and held},
            cache=cache_config(settings),
            context=settings.context,
            quantization=Quantization(settings.quantization),
        )

    def profile(self, digest: str | None) -> Profile | None:
        """What was measured of these weights, if it holds here."""
        if not digest:
            return None
        profile = Profiles(self.library.settings.home).get(digest)
        return profile if profile is not None and not self.here.objection(profile) else None

    def _of_rows(self, rows: Sequence[CatalogModel]) -> list[Candidate]:
        verdicts = self.dossiers.previews(NameReference(row.name, row.tag) for row in rows)
        return [of_row(row, verdict) for row, verdict in zip(rows, verdicts, strict=True)]

    def _of_stored(self, manifest: Manifest, verdict: Verdict) -> Candidate:
        if is_safetensors(manifest):
            return of_safetensors(
                manifest.reference, manifest.files[0].sha256, manifest.size, verdict
            )
        return of_local(self._stored(manifest), verdict)

    def _stored(self, manifest: Manifest) -> Local:
        """As it is run: where a profile has weights of its own, those."""
        store = self.library.store
        digest = manifest.files[0].sha256
        listed = self.library.catalog.with_digest(digest)
        row = listed[0] if listed else self.library.row(parse(manifest.reference))
        headers = [read_header(store.blob_path(file.sha256)) for file in manifest.files]
        source = manifest.derived_from
        profile = self.profile(digest)
        if profile is not None and profile.weights != digest and store.has(profile.weights):
            headers, source = [read_header(store.blob_path(profile.weights))], digest
        return Local(
            reference=manifest.reference,
            digest=digest,
            size=sum(header.file_size for header in headers),
            header=headers[0],
            tensors=_tensors(headers),
            row=row,
            source_bits=_bits(store, source),
        )

    def _outside(self, path: Path) -> Local:
        parts = parts_beside(path)
        headers = [read_header(part) for part in parts]
        known = self.library.store.path_record(parts[0])
        digest = known.sha256 if known is not None and known.still_describes(parts[0]) else ""
        size = sum(header.file_size for header in headers)
        return Local(str(path), digest, size, headers[0], _tensors(headers))


def _tensors(headers: Iterable[GgufHeader]) -> tuple[TensorInfo, ...]:
    return tuple(tensor for header in headers for tensor in header.tensors)


def _bits(store: Store, digest: str | None) -> float | None:
    """Bits per weight of what a model was made from; None: nothing, or it is gone."""
    if digest is None or not store.has(digest):
        return None
    header = read_header(store.blob_path(digest))
    return 8 * header.data_size / max(1, header.parameter_count)
