"""The licence table: which licence a text, an identifier or a spelling means, and what it asks.

Data in ``licences.toml``, beside this file; texts that ship, in ``texts/``.
"""

from __future__ import annotations

import datetime
import enum
import functools
import importlib.resources
import itertools
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec
from license_expression import (
    AND,
    OR,
    ExpressionError,
    LicenseSymbol,
    LicenseWithExceptionSymbol,
    Licensing,
)

from freehold.domain.sentences import Sentence
from freehold.process.decoding import from_values
from freehold.trust.verdict import Outcome, Use

LONGEST_STATEMENT = 300  # characters; an SPDX expression of a dozen licences has fewer
MOST_ALTERNATIVES = 16  # of an expression, once every OR is at its outside

# From harmless to hopeless: the worse of two outcomes is the later one. CONFLICT stands last
# because it says that somebody is wrong, which a mere gap does not.
_ORDER = (
    Outcome.OK,
    Outcome.DUTIES,
    Outcome.RESTRICTED,
    Outcome.NON_COMMERCIAL,
    Outcome.UNKNOWN,
    Outcome.CONFLICT,
)
_EXPRESSION = re.compile(r"[\w.+()\s-]+")
_SHIPPED = "texts"


class When(enum.StrEnum):
    """Who owes a duty: everybody, who offers the model to others, who passes the weights on."""

    RUN = "run"
    SERVE = "serve"
    COPIES = "copies"


class Notices(enum.StrEnum):
    """What copies of the weights must carry."""

    NONE = "none"
    TEXT = "text"
    TEXT_AND_COPYRIGHT = "text and copyright line"


class Confidence(enum.StrEnum):
    PRIMARY = "primary"
    SECONDARY = "secondary"


class ReasonRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A sentence of which the licence is the subject."""

    code: str
    text: str
    values: dict[str, str] = {}

    def __hash__(self) -> int:
        return hash(self.text)

    @property
    def sentence(self) -> Sentence:
        return Sentence(self.text, self.code, self.values)


_UNREAD = ReasonRow(
    "terms.unread", "It is known by name only; its text was not read for the licence table."
)


class DutyRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``derivatives``: asked only of what was made from a model under the licence."""

    when: When
    code: str
    text: str
    values: dict[str, str] = {}
    derivatives: bool = False
    name_prefix: str | None = None

    def __hash__(self) -> int:
        return hash(self.text)

    @property
    def sentence(self) -> Sentence:
        return Sentence(self.text, self.code, self.values)

    def fulfilled_by(self, name: str) -> bool:
        """Whether the name of a release, repository owner left out, begins as asked."""
        if self.name_prefix is None:
            return False
        return spelling(name.rpartition("/")[2]).startswith(spelling(self.name_prefix))


class TextRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A text that is the licence; ``file`` ships in ``texts/`` and has ``sha256``."""

    normalised: str
    source: str
    seen: datetime.date
    version: str | None = None
    note: str | None = None
    file: str | None = None
    sha256: str | None = None

    def read(self) -> str | None:
        """The text, where it ships."""
        if self.file is None:
            return None
        folder = importlib.resources.files(__package__) / _SHIPPED
        return folder.joinpath(self.file).read_text("utf-8")


class Licence(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One licence. The fields are explained at the top of ``licences.toml``."""

    id: str
    title: str
    run: Outcome
    serve: Outcome
    read: bool
    confidence: Confidence
    source: tuple[str, ...]
    checked: datetime.date
    names: tuple[str, ...] = ()
    spdx: str | None = None
    links: tuple[str, ...] = ()
    run_reasons: tuple[ReasonRow, ...] = ()
    serve_reasons: tuple[ReasonRow, ...] = ()
    notices: Notices = Notices.NONE
    inherits: bool = True
    label_must_carry: bool = False
    carried_by: tuple[str, ...] = ()
    adaptations: bool = True
    covers: tuple[str, ...] = ()
    duty: tuple[DutyRow, ...] = ()
    text: tuple[TextRow, ...] = ()

    @property
    def expression(self) -> str:
        """Its identifier in an SPDX expression."""
        return self.spdx or "LicenseRef-" + re.sub(r"[^A-Za-z0-9.-]", "-", self.id)

    def outcome(self, use: Use) -> Outcome:
        return self.run if use is Use.RUN else self.serve

    def reasons(self, use: Use) -> tuple[Sentence, ...]:
        rows = self.run_reasons if use is Use.RUN else self.serve_reasons
        return tuple(row.sentence for row in rows)


@dataclass(frozen=True)
class Terms:
    """What a statement means: any one of ``alternatives``, each of which is all its licences."""

    alternatives: tuple[tuple[Licence, ...], ...]

    @property
    def ids(self) -> frozenset[str]:
        return frozenset(licence.id for chosen in self.alternatives for licence in chosen)

    @property
    def chosen(self) -> tuple[Licence, ...]:
        """The alternative that asks least."""
        return min(self.alternatives, key=_burden)

    @property
    def name(self) -> str:
        return " OR ".join(
            " AND ".join(licence.id for licence in chosen) for chosen in self.alternatives
        )

    def outcome(self, use: Use) -> Outcome:
        return worst(licence.outcome(use) for licence in self.chosen)


class Licences:
    """All rows, by id, spelling, link and text."""

    def __init__(self, rows: tuple[Licence, ...]) -> None:
        self.rows = rows
        self._by_name: dict[str, Licence] = {}
        self._by_link: dict[str, Licence] = {}
        self._by_text: dict[str, Licence] = {}
        for row in rows:
            names = {spelling(name) for name in (row.id, row.spdx or row.id, *row.names)}
            _register(self._by_name, names, row)
            _register(self._by_link, {_link(link) for link in row.links}, row)
            _register(self._by_text, {text.normalised for text in row.text}, row)

    def get(self, licence_id: str) -> Licence | None:
        found = self._by_name.get(spelling(licence_id))
        return found if found is not None and found.id == licence_id else None

    def named(self, text: str) -> Terms | None:
        """What an identifier, a ``license_name`` or an SPDX expression means; None: not known."""
        if len(text) > LONGEST_STATEMENT:
            return None
        row = self._by_name.get(spelling(text))
        if row is not None:
            return Terms(((row,),))
        if "," in text:
            return self._all_of(text.split(","))
        return self._expression(text)

    def linked(self, link: str) -> Terms | None:
        row = self._by_link.get(_link(link)) if len(link) <= LONGEST_STATEMENT else None
        return Terms(((row,),)) if row is not None else None

    def worded(self, normalised_sha256: str) -> Licence | None:
        """The licence whose text has these words (`licence_text.digest`)."""
        return self._by_text.get(normalised_sha256)

    def _all_of(self, names: list[str]) -> Terms | None:
        """A list does not say whether one or all of its licences apply: all of them do here."""
        found = [self._by_name.get(spelling(name)) for name in names if name.strip()]
        known = tuple(row for row in found if row is not None)
        return Terms((_unique(known),)) if known and len(known) == len(found) else None

    def _expression(self, text: str) -> Terms | None:
        if not _EXPRESSION.fullmatch(text):
            return None
        try:
            tree = Licensing().parse(text, simple=True)
        except (ExpressionError, LookupError, TypeError, ValueError, AttributeError):
            return None  # the parser's ways to say that this is no expression
        alternatives = self._alternatives(tree)
        return Terms(alternatives) if alternatives else None

    def _alternatives(self, tree: object) -> tuple[tuple[Licence, ...], ...]:
        """``tree`` as alternatives; those with a licence we do not know are left out."""
        if isinstance(tree, LicenseWithExceptionSymbol):
            return self._alternatives(tree.license_symbol)  # an exception only adds permissions
        if isinstance(tree, LicenseSymbol):
            row = self._by_name.get(spelling(tree.key))
            return ((row,),) if row is not None else ()
        if isinstance(tree, OR):
            found = itertools.chain.from_iterable(map(self._alternatives, tree.args))
            return tuple(itertools.islice(dict.fromkeys(found), MOST_ALTERNATIVES))
        if isinstance(tree, AND):
            parts = [self._alternatives(part) for part in tree.args]
            joined = (
                _unique(tuple(itertools.chain.from_iterable(choice)))
                for choice in itertools.islice(itertools.product(*parts), MOST_ALTERNATIVES)
            )
            return tuple(dict.fromkeys(joined))
        return ()


def spelling(name: str) -> str:
    """``name`` as the table compares names."""
    return re.sub(r"[\s_-]+", "-", name.strip().casefold())


def severity(outcome: Outcome) -> int:
    return _ORDER.index(outcome)


def worst(outcomes: Iterator[Outcome]) -> Outcome:
    """The worst of ``outcomes``; OK where there are none."""
    return max(outcomes, key=severity, default=Outcome.OK)


def parse(text: str) -> Licences:
    """Read the table. Raises `msgspec.ValidationError` or `ValueError` for a bad row."""
    data = tomllib.loads(text)
    rows = from_values(data.get("licence", []), tuple[Licence, ...])
    unread = from_values(data.get("unread", {}), dict[str, str])
    for row in rows:
        _require_sound(row)
    return Licences((*rows, *(_unread(name, spdx or None) for name, spdx in unread.items())))


@functools.cache
def bundled() -> Licences:
    """The table that ships with this version."""
    file = importlib.resources.files(__package__).joinpath("licences.toml")
    return parse(file.read_text("utf-8"))


def _require_sound(row: Licence) -> None:
    outcomes = (row.run, row.serve)
    if Outcome.CONFLICT in outcomes:
        raise ValueError(f"{row.id}: a licence does not conflict with itself")
    if not row.read and Outcome.OK in outcomes:
        raise ValueError(f"{row.id}: OK, but nobody read its text")
    if row.read and not row.text:
        raise ValueError(f"{row.id}: read, but no text of it is listed")
    if not row.source:
        raise ValueError(f"{row.id}: no source")
    for use in Use:
        if row.outcome(use) is not Outcome.OK and not row.reasons(use):
            raise ValueError(f"{row.id}: no reason for {row.outcome(use)} ({use})")
    sentences: tuple[DutyRow | ReasonRow, ...] = (*row.duty, *row.run_reasons, *row.serve_reasons)
    for told in sentences:
        for value in told.values.values():
            if value not in told.text:
                raise ValueError(f"{row.id}: {value!r} is not said in {told.text!r}")


def _unread(licence_id: str, spdx: str | None) -> Licence:
    return Licence(
        id=licence_id,
        title=spdx or licence_id,
        spdx=spdx,
        run=Outcome.UNKNOWN,
        serve=Outcome.UNKNOWN,
        run_reasons=(_UNREAD,),
        serve_reasons=(_UNREAD,),
        label_must_carry=True,
        read=False,
        confidence=Confidence.SECONDARY,
        source=("a name met on cards",),
        checked=datetime.date(2026, 11, 24),
    )


def _register(index: dict[str, Licence], keys: set[str], row: Licence) -> None:
    for key in keys:
        if key in index:
            raise ValueError(f"{row.id} and {index[key].id} both claim {key}")
        index[key] = row


def _link(link: str) -> str:
    plain = re.sub(r"^https?://(?:www\.)?", "", link.strip().casefold())
    return plain.rstrip("/").replace("/resolve/main/", "/blob/main/")


def _unique(licences: tuple[Licence, ...]) -> tuple[Licence, ...]:
    return tuple(sorted(set(licences), key=lambda licence: licence.id))


def _burden(licences: tuple[Licence, ...]) -> tuple[int, int, tuple[str, ...]]:
    return (
        severity(worst(licence.serve for licence in licences)),
        severity(worst(licence.run for licence in licences)),
        tuple(licence.id for licence in licences),
    )
