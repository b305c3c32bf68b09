"""Where one licensor replaced its own terms, and where a release changed its licence.

Data in ``overrides.toml``, beside this file, one reviewed case a row.
"""

from __future__ import annotations

import datetime
import functools
import importlib.resources
import re
import tomllib

import msgspec

from freehold.domain.sentences import Sentence
from freehold.process.decoding import from_values


class Override(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``parent``'s terms do not bind ``child``, which its own licensor put under ``licence``."""

    child: str
    parent: str
    licence: str
    code: str
    because: str
    evidence: tuple[str, ...]
    checked: datetime.date

    @property
    def sentence(self) -> Sentence:
        return Sentence(self.because, self.code, {"child": self.child, "parent": self.parent})


class Change(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``release`` was under ``was`` and is under ``now``."""

    release: str
    was: str
    now: str
    code: str
    because: str
    evidence: tuple[str, ...]
    checked: datetime.date

    @property
    def sentence(self) -> Sentence:
        return Sentence(self.because, self.code)


class Overrides(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    override: tuple[Override, ...] = ()
    change: tuple[Change, ...] = ()

    def between(self, child: str, parent: str, licence: str) -> Override | None:
        """The override for ``child``, found to be under ``licence``, and ``parent``."""
        for row in self.override:
            if row.licence == licence and _fits(row.child, child) and _fits(row.parent, parent):
                return row
        return None

    def changed(self, release: str, was: str, now: str) -> Change | None:
        for row in self.change:
            if (row.was, row.now) == (was, now) and _fits(row.release, release):
                return row
        return None


NONE = Overrides()


def parse(text: str) -> Overrides:
    """Read the rows. Raises `msgspec.ValidationError` or `ValueError` for a bad one."""
    table = from_values(tomllib.loads(text), Overrides)
    sourced = [(row.because, row.evidence) for row in table.override]
    sourced += [(row.because, row.evidence) for row in table.change]
    for because, evidence in sourced:
        if not evidence:
            raise ValueError(f"without evidence: {because}")
    return table


@functools.cache
def bundled() -> Overrides:
    """The rows that ship with this version."""
    file = importlib.resources.files(__package__).joinpath("overrides.toml")
    return parse(file.read_text("utf-8"))


def _fits(pattern: str, name: str) -> bool:
    """Whether ``name`` fits; a star does not cross the slash between owner and repository."""
    expression = re.escape(pattern).replace(r"\*", "[^/]*").replace(r"\?", "[^/]")
    return re.fullmatch(expression, name, re.IGNORECASE) is not None
