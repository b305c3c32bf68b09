"""What this version knows of releases without asking: the catalogue, and ``releases.toml``."""

from __future__ import annotations

import datetime
import functools
import importlib.resources
import tomllib

import msgspec

from freehold.process.decoding import from_values
from freehold.trust.facts import Evidence, Rank, Relation, Release
from freehold.trust.statements import of_row
from freehold.weights.catalog import Catalog


class ReleaseRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The fields are explained at the top of ``releases.toml``."""

    name: str
    licence: str
    source: str
    checked: datetime.date
    base_model: tuple[str, ...] = ()
    relation: Relation | None = None

    def release(self) -> Release:
        origin = f"the releases of {self.checked.isoformat()}, from {self.source}"
        evidence = Evidence(Rank.CATALOGUE, origin, self.licence)
        return Release(self.name, (evidence,), None, self.base_model, self.relation)


@functools.cache
def _rows() -> tuple[ReleaseRow, ...]:
    file = importlib.resources.files(__package__).joinpath("releases.toml")
    return parse(file.read_text("utf-8"))


def parse(text: str) -> tuple[ReleaseRow, ...]:
    """Read the data. Raises `msgspec.ValidationError` or `ValueError` for a bad row."""
    rows = from_values(tomllib.loads(text).get("release", []), tuple[ReleaseRow, ...])
    if len({row.name for row in rows}) != len(rows):
        raise ValueError("a release is listed twice")
    return rows


def background(catalog: Catalog) -> tuple[Release, ...]:
    """Every release that something is known of."""
    originals = (of_row(row, None)[-1] for row in catalog.models)
    return (*(row.release() for row in _rows()), *originals)
