"""What is known of models, here and in the catalogue, as programs see it."""

from __future__ import annotations

from pydantic import BaseModel

from freehold.api.sentences import Sentence


class CatalogueModel(BaseModel):
    """One model known by name. ``size_bytes`` is that of the file a pull fetches."""

    reference: str
    title: str
    licence_declared: str | None
    distillate_of: str | None
    note: str | None
    size_bytes: int | None
    fetchable: bool
    here: bool


class Catalogue(BaseModel):
    data: list[CatalogueModel]


class Reasons(BaseModel):
    run: list[Sentence]
    serve: list[Sentence]


class Duty(BaseModel):
    """``uses``: what brings it, ``run`` or ``serve``."""

    said: Sentence
    uses: list[str]
    licence: str
    release: str


class Ancestor(BaseModel):
    """A release of the lineage. ``known`` false: nothing was read about it."""

    name: str
    licence: str | None
    known: bool
    relation: str | None
    parents: list[Ancestor]


class Papers(BaseModel):
    """What the licences of a model say. It is what the texts say, not legal advice."""

    model: str
    run: str
    serve: str
    reasons: Reasons
    duties: list[Duty]
    declared: str | None
    concluded: str | None
    lineage: Ancestor
    gaps: list[Sentence]
    sha256: str
    origin: str | None
    fetched: str | None


class Disk(BaseModel):
    """Bytes: of all models in the store, each file once, and still free beside them."""

    used: int
    free: int
