"""The catalogue: models known by a short name. Data in ``catalog.toml``, beside this file.

A row says what was read in the sources it lists; a fact nobody read is absent.
"""

from __future__ import annotations

import datetime
import functools
import importlib.resources
import tomllib

import msgspec

from freehold.process.decoding import from_values
from freehold.weights.files import is_sha256
from freehold.weights.sources.index import Piece


class CatalogFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One way to have the model: a file, or the parts of a split one.

    ``size`` and ``sha256`` are of the whole file and given only for unsplit ones.
    """

    quantisation: str
    paths: tuple[str, ...] = ()
    repository: str | None = None
    revision: str | None = None
    size: int | None = None
    sha256: str | None = None
    source: tuple[str, ...] = ()
    pieces: tuple[Piece, ...] = ()

    @property
    def reference(self) -> str:
        """What fetches this very file; empty where no repository of it is known."""
        if self.repository is None or not self.paths:
            return ""
        revision = f"@{self.revision}" if self.revision else ""
        return f"hf:{self.repository}{revision}:{self.paths[0]}"


class Architecture(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The numbers memory planning needs; None where no source was read."""

    name: str | None = None
    parameters: int | None = None
    parameters_stated: str | None = None
    active_parameters: int | None = None
    active_parameters_stated: str | None = None
    context_length: int | None = None
    layers: int | None = None
    embedding: int | None = None
    feed_forward: int | None = None
    heads: int | None = None
    kv_heads: int | None = None
    head_dim: int | None = None
    vocabulary: int | None = None
    tied_embeddings: bool | None = None
    experts: int | None = None
    experts_used: int | None = None
    expert_feed_forward: int | None = None
    sliding_window: int | None = None
    sliding_window_pattern: int | None = None
    kv_lora_rank: int | None = None
    q_lora_rank: int | None = None
    qk_rope_head_dim: int | None = None
    qk_nope_head_dim: int | None = None
    v_head_dim: int | None = None
    source: tuple[str, ...] = ()


class CatalogModel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One model under one short name and tag."""

    name: str
    tag: str
    title: str
    source: tuple[str, ...]
    checked: datetime.date
    default: bool = False
    distillate_of: str | None = None
    note: str | None = None
    family: str | None = None
    upstream: str | None = None
    licence: str | None = None
    licence_name: str | None = None
    licence_url: str | None = None
    base_model: tuple[str, ...] = ()
    base_model_relation: str | None = None
    tasks: tuple[str, ...] = ()
    architecture: Architecture = Architecture()
    file: tuple[CatalogFile, ...] = ()

    @property
    def reference(self) -> str:
        return f"{self.name}:{self.tag}"

    @property
    def declared_licence(self) -> str | None:
        """The licence in the words of its card; ``other`` is replaced by its name."""
        return self.licence_name or self.licence if self.licence == "other" else self.licence

    @property
    def default_file(self) -> CatalogFile | None:
        """The first file that some source is known for."""
        return next((f for f in self.file if f.pieces or (f.repository and f.paths)), None)

    @property
    def other_files(self) -> tuple[CatalogFile, ...]:
        """Those that can be fetched too, by references of their own."""
        return tuple(f for f in self.file if f is not self.default_file and f.reference)

    @property
    def fetchable(self) -> bool:
        return self.default_file is not None


class Catalog:
    """All rows, by reference."""

    def __init__(self, models: tuple[CatalogModel, ...]) -> None:
        self.models = models
        self._by_reference = {model.reference: model for model in models}
        self._by_digest = {
            file.sha256: (model, file) for model in models for file in model.file if file.sha256
        }

    def find(self, name: str, tag: str | None) -> CatalogModel | None:
        """The row for ``name:tag``, or the default row of ``name``."""
        if tag is not None:
            return self._by_reference.get(f"{name}:{tag}")
        rows = [model for model in self.models if model.name == name]
        marked = [model for model in rows if model.default]
        chosen = marked or (rows if len(rows) == 1 else [])
        return chosen[0] if chosen else None

    def with_digest(self, sha256: str) -> tuple[CatalogModel, CatalogFile] | None:
        """The row and file whose bytes these are, where a row pins them."""
        return self._by_digest.get(sha256)

    def tags(self, name: str) -> tuple[str, ...]:
        return tuple(model.tag for model in self.models if model.name == name)


def parse(text: str) -> Catalog:
    """Read catalogue data. Raises `msgspec.ValidationError` or `ValueError` for a bad row."""
    rows = tomllib.loads(text).get("model", [])
    models = from_values(rows, tuple[CatalogModel, ...])
    if len({model.reference for model in models}) != len(models):
        raise ValueError("two rows have the same name and tag")
    for model in models:
        for file in model.file:
            if file.sha256 is not None and not is_sha256(file.sha256):
                raise ValueError(f"{model.reference}: not a SHA-256: {file.sha256}")
    return Catalog(models)


@functools.cache
def bundled() -> Catalog:
    """The catalogue that ships with this version."""
    return parse(importlib.resources.files(__package__).joinpath("catalog.toml").read_text("utf-8"))
