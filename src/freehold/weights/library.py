"""The library: from what a person typed to verified files on this disk.

text → reference → manifest in the store?  yes → verify → header → LocalModel
                      │ no
                   sources (hub, package index, web, file) → download → header → manifest
"""

from __future__ import annotations

import datetime
import difflib
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

from freehold.domain.errors import (
    InvalidReference,
    ModelNotPulled,
    OfflineRefused,
    RefusedFile,
    UnknownModel,
)
from freehold.domain.settings import Settings
from freehold.weights import catalog as catalogue
from freehold.weights import checkpoint, vocabulary_file
from freehold.weights.catalog import Catalog, CatalogModel
from freehold.weights.download import Downloader
from freehold.weights.files import FileRecord, hash_file, record, require_file
from freehold.weights.gguf import GgufHeader, read_split
from freehold.weights.progress import Progress, Silent
from freehold.weights.reference import (
    NameReference,
    PathReference,
    Reference,
    parse,
)
from freehold.weights.registry import Manifest, ModelFile, Registry
from freehold.weights.store import Store

log = logging.getLogger(__name__)

Result = TypeVar("Result")


@dataclass(frozen=True)
class LocalModel:
    """A model whose files are here, unchanged since they were hashed, with a sound header.

    ``name`` is its id for clients; ``digest`` identifies the weights: the SHA-256 of
    the first of ``files``. ``aliases`` are other spellings that mean the same model.
    """

    name: str
    paths: tuple[Path, ...]
    digest: str
    size: int
    header: GgufHeader
    files: tuple[ModelFile, ...]
    manifest: Manifest | None = None
    aliases: tuple[str, ...] = ()
    # Of ``files``, in their order, where ``paths`` are not all of them.
    every: tuple[Path, ...] = ()

    @property
    def whole(self) -> tuple[Path, ...]:
        """Where each of ``files`` is; ``paths`` are those that are read here."""
        return self.every or self.paths

    @property
    def reference(self) -> str:
        """What finds this model again."""
        return self.manifest.reference if self.manifest else str(self.paths[0])


@dataclass(frozen=True)
class Library:
    """One store, one catalogue, and the settings that reach the sources."""

    settings: Settings
    store: Store
    catalog: Catalog = field(default_factory=catalogue.bundled)

    @classmethod
    def open(cls, settings: Settings) -> Library:
        return cls(settings, Store.open(settings.home))

    @property
    def registry(self) -> Registry:
        return Registry(self.store)

    # Names

    def reference(self, text: str) -> Reference:
        """Parse, and give a name its default tag. Raises `UnknownModel`, `InvalidReference`."""
        reference = parse(text)
        if not isinstance(reference, NameReference):
            return reference
        if reference.tag is not None and self.registry.find(str(reference)):
            return reference
        row = self.catalog.find(reference.name, reference.tag)
        if row is not None:
            return NameReference(row.name, row.tag)
        return self._stored_name(reference)

    def _stored_name(self, reference: NameReference) -> NameReference:
        """A name without a tag that exactly one stored model bears."""
        stored = [
            known
            for manifest in self.registry.models()
            if (known := _short_name(manifest.reference)) is not None
        ]
        same = [known for known in stored if known.name == reference.name]
        if reference.tag is None and len(same) == 1:
            return same[0]
        tags = {*self.catalog.tags(reference.name), *(known.tag for known in same)} - {None}
        if tags:
            raise UnknownModel(
                str(reference),
                hint="Known are: "
                + ", ".join(f"{reference.name}:{tag}" for tag in sorted(map(str, tags)))
                + ".",
            )
        raise UnknownModel(str(reference), near=self._near(reference, stored))

    def _near(self, reference: NameReference, stored: list[NameReference]) -> tuple[str, ...]:
        names = {model.reference for model in self.catalog.models} | {str(s) for s in stored}
        whole = difflib.get_close_matches(str(reference), names, n=3, cutoff=0.6)
        if whole:
            return tuple(whole)
        families = {name.partition(":")[0] for name in names}
        return tuple(difflib.get_close_matches(reference.name, families, n=3, cutoff=0.6))

    def row(self, reference: Reference) -> CatalogModel | None:
        """The catalogue row of a name; None for everything else."""
        if isinstance(reference, NameReference):
            return self.catalog.find(reference.name, reference.tag)
        return None

    # What is here

    def local(self, text: str, *, progress: Progress | None = None) -> LocalModel:
        """The model, verified. Raises `ModelNotPulled`, `UnknownModel` or `RefusedFile`.

        May hash the files (when they changed since, or a path is used for the
        first time) and always reads the header.
        """
        watcher = progress or Silent()
        reference = self.reference(text)
        if isinstance(reference, PathReference):
            return self._local_path(reference.path, watcher)
        manifest = self.registry.get(str(reference))
        verified = tuple(self._verified(file, watcher) for file in manifest.files)
        paths = self._read_here(manifest, verified, watcher)
        return LocalModel(
            name=manifest.reference,
            paths=paths,
            digest=manifest.files[0].sha256,
            size=manifest.size,
            header=_read(paths),
            files=manifest.files,
            manifest=manifest,
            every=verified,
        )

    def _read_here(
        self, manifest: Manifest, verified: tuple[Path, ...], progress: Progress
    ) -> tuple[Path, ...]:
        """The GGUF files: its own, or for weights in safetensors what has their vocabulary: made
        when they were fetched, or that of the model they were made of.
        """
        if not is_safetensors(manifest):
            return verified
        if is_checkpoint(manifest):
            named = zip(manifest.files, verified, strict=True)
            return tuple(path for file, path in named if file.name == vocabulary_file.NAME)
        for other in self.registry.all():
            if other.files[0].sha256 == manifest.derived_from and not is_safetensors(other):
                return tuple(self._verified(file, progress) for file in other.files)
        raise InvalidReference(
            f"{manifest.reference} cannot be used without the model it was made of, which is gone.",
            hint="Fetch or import that again: its vocabulary and template are read from there.",
        )

    def _checked(self, files: tuple[ModelFile, ...], name: str) -> tuple[ModelFile, ...]:
        """With what is made here of a model in safetensors. Raises `RefusedFile`."""
        paths = {file.name: self.store.blob_path(file.sha256) for file in files}
        if not _named_safetensors(files):
            _read(tuple(paths.values()))
            return files
        texts = checkpoint.require_sound(paths)
        key = f"{files[0].sha256[:16]}-vocabulary"
        with self.store.partial(key, waiting=lambda: None) as made:
            vocabulary_file.write(made, texts, vocabulary_file.template_of(paths), name)
            _read((made,))
            sha256, size = hash_file(made), made.stat().st_size
            if not self.store.has(sha256):
                self.store.adopt(made, sha256)
            made.unlink(missing_ok=True)
        return (*files, ModelFile(vocabulary_file.NAME, size, sha256))

    def _verified(self, file: ModelFile, progress: Progress) -> Path:
        return _watched(
            progress,
            file.name,
            file.size,
            lambda advance: self.store.verify(file.sha256, advance=advance),
        )

    def _local_path(self, path: Path, progress: Progress) -> LocalModel:
        require_file(path)
        paths = parts_beside(path)
        header = _read(paths)  # cheap, and refuses a wrong file before it is hashed
        records = [self._recorded(part, progress) for part in paths]
        return LocalModel(
            name=path.stem,
            paths=tuple(part.absolute() for part in paths),
            digest=records[0].sha256,
            size=sum(known.size for known in records),
            header=header,
            files=tuple(
                ModelFile(part.name, known.size, known.sha256)
                for part, known in zip(paths, records, strict=True)
            ),
            aliases=(str(path),),
        )

    def _recorded(self, path: Path, progress: Progress) -> FileRecord:
        """The remembered digest of a file outside the store, computed anew if it changed."""
        known = self.store.path_record(path)
        if known is None or not known.still_describes(path):
            size = path.stat().st_size
            sha256 = _watched(
                progress, path.name, size, lambda advance: hash_file(path, advance=advance)
            )
            known = record(path, sha256)
            self.store.remember_path(path, known)
            log.info("%s has SHA-256 %s", path, known.sha256)
        return known

    def is_local(self, reference: Reference) -> bool:
        if isinstance(reference, PathReference):
            return reference.path.is_file()
        try:
            self.registry.get(str(reference))
        except ModelNotPulled:
            return False
        return True

    # Fetching

    def pull(self, text: str, progress: Progress) -> Manifest:
        """Fetch a model unless it is here. Returns its manifest.

        Raises `UnknownModel`, `Unavailable` or `RefusedFile`; what arrived
        before a failure is kept for the next attempt.
        """
        reference = self.reference(text)
        if isinstance(reference, PathReference):
            require_file(reference.path)
            raise InvalidReference(
                f"{text} is a file here already.",
                hint=f"Run it as it is, or take it into the store with: freehold import {text}",
            )
        if self.is_local(reference):
            return self.registry.get(str(reference))
        if self.settings.offline:
            raise OfflineRefused(
                f"{reference} is not on this machine, and freehold is offline.",
                hint="Leave out --offline (and FREEHOLD_OFFLINE) to fetch it.",
                values={"model": str(reference)},
            )
        # Imported only now: nothing that does not fetch ever loads what can.
        from freehold.weights.origins import sources_of  # noqa: PLC0415

        sources = sources_of(reference, self.row(reference), self.settings, progress)
        with self.store.pulling():
            fetched = Downloader(self.store, progress).fetch(sources)
            files = self._checked(fetched.files, str(reference))
            row = self.row(reference)
            manifest = Manifest(
                reference=str(reference),
                files=files,
                origin=fetched.offer.origin,
                fetched_at=now(),
                tool_version=version("freehold"),
                revision=fetched.offer.revision,
                licence=fetched.offer.licence or (row.declared_licence if row else None),
                licence_source=_licence_source(fetched.offer.licence, fetched.offer.origin, row),
                base_models=fetched.offer.base_models or (row.base_model if row else ()),
            )
            self.registry.put(manifest)
        return manifest


def is_checkpoint(manifest: Manifest) -> bool:
    """Whether it is a model in safetensors that was fetched as such."""
    return any(file.name == vocabulary_file.NAME for file in manifest.files)


def is_safetensors(manifest: Manifest) -> bool:
    """Whether these are weights, fetched or made here, that vLLM alone runs."""
    return _named_safetensors(manifest.files)


def _named_safetensors(files: Sequence[ModelFile]) -> bool:
    return files[0].name.endswith(".safetensors")


def _short_name(text: str) -> NameReference | None:
    """None for every other kind, and for what cannot be parsed (a manifest is only a file)."""
    try:
        reference = parse(text)
    except (InvalidReference, RefusedFile):
        return None
    return reference if isinstance(reference, NameReference) else None


def now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _licence_source(declared: str | None, origin: str, row: CatalogModel | None) -> str | None:
    if declared is not None:
        return origin
    if row is None or row.declared_licence is None:
        return None
    return f"{row.upstream or row.title}, as the catalogue of {row.checked.isoformat()} has it"


_PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")


def parts_beside(path: Path) -> tuple[Path, ...]:
    """All parts of a split model when ``path`` is one of them, else just ``path``."""
    match = _PART.fullmatch(path.name)
    if match is None:
        return (path,)
    count = int(match["count"])
    names = (f"{match['stem']}-{number:05}-of-{count:05}.gguf" for number in range(1, count + 1))
    parts = tuple(path.with_name(name) for name in names)
    for part in parts:
        require_file(part)
    return parts


def _read(paths: tuple[Path, ...]) -> GgufHeader:
    """Our own reading of the header; raises `RefusedFile` for what native code must not see."""
    return read_split(paths).header


def _watched(
    progress: Progress, name: str, size: int, work: Callable[[Callable[[int], None]], Result]
) -> Result:
    """Run ``work`` with an ``advance`` that opens the progress bar only if it is called."""
    begun = False

    def advance(count: int) -> None:
        nonlocal begun
        if not begun:
            progress.begin(f"verifying {name}", size, 0)
            begun = True
        progress.advance(count)

    try:
        return work(advance)
    finally:
        if begun:
            progress.end()
