"""A model card: what the YAML at the top of a stranger's README states about licence and parents.

Only the top-level keys we need are taken, from the parser's events: nothing is constructed, so
no tag, alias or nesting costs anything. Whatever has the wrong type or size counts as not
stated, and a note says so; a card never raises.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from freehold.trust.facts import Evidence, Rank, Relation

LONGEST_CARD = 256 * 1024  # bytes that are looked at; the longest front matter met has 70 KB
MOST_EVENTS = 50_000
DEEPEST = 32
LONGEST_VALUE = 300  # characters
MOST_PARENTS = 32

WANTED = (
    *("license", "license_name", "license_link"),
    *("base_model", "base_model_relation", "quantized_by"),
)
_FENCE = re.compile(r"---[ \t]*")
_END = re.compile(r"(?:---|\.\.\.)[ \t]*")
_HUB = re.compile(r"https?://(?:www\.)?(?:huggingface\.co|hf\.co)/([^/\s]+/[^/\s?#]+)/?")
_TEXT_TAG = "tag:yaml.org,2002:str"
_NULL_TAG = "tag:yaml.org,2002:null"


@dataclass(frozen=True)
class Card:
    """What a card states. ``notes`` are sentences about what was left out, and why."""

    licence: str | None = None
    licence_name: str | None = None
    licence_link: str | None = None
    base_models: tuple[str, ...] = ()
    relation: Relation | None = None
    quantized_by: str | None = None
    notes: tuple[str, ...] = ()

    def evidence(self, origin: str) -> Evidence:
        return Evidence(
            rank=Rank.CARD,
            origin=origin,
            stated=self.licence,
            name=self.licence_name,
            link=self.licence_link,
        )


class _Refused(Exception):
    """The front matter is not read any further."""


@dataclass(frozen=True)
class _Values:
    """The value of one key: texts, and whether they stood in a list."""

    texts: tuple[str, ...]
    listed: bool


def read(data: bytes) -> Card:
    """What the front matter of ``data``, a README.md, states."""
    text = data[:LONGEST_CARD].decode("utf-8-sig", "replace")
    matter = _front_matter(text)
    if matter is None:
        return Card(notes=("The card has no front matter that ends within 256 KiB.",))
    notes: list[str] = []
    try:
        values = _values(matter, notes)
    except _Refused as refused:
        return Card(notes=(f"The front matter of the card was not read: {refused}.",))
    except (yaml.YAMLError, ValueError, OverflowError):  # the latter two: escapes, versions
        return Card(notes=("The front matter of the card is not YAML.",))
    return Card(
        licence=_joined("license", values, notes),
        licence_name=_single("license_name", values, notes),
        licence_link=_single("license_link", values, notes),
        base_models=_parents(values, notes),
        relation=_relation(values, notes),
        quantized_by=_single("quantized_by", values, notes),
        notes=tuple(notes),
    )


def _front_matter(text: str) -> str | None:
    lines = text.splitlines()
    if not lines or not _FENCE.fullmatch(lines[0]):
        return None
    for number, line in enumerate(lines[1:], start=1):
        if _END.fullmatch(line):
            return "\n".join(lines[1:number])
    return None


def _values(matter: str, notes: list[str]) -> dict[str, _Values]:
    """The wanted keys of the top-level mapping. Raises `_Refused` and `yaml.YAMLError`."""
    events = _bounded(yaml.parse(matter, Loader=yaml.SafeLoader))
    for event in events:
        if isinstance(event, yaml.MappingStartEvent):
            break
        if not isinstance(event, yaml.StreamStartEvent | yaml.DocumentStartEvent):
            raise _Refused("it is not a mapping")
    found: dict[str, _Values] = {}
    for key in events:
        if isinstance(key, yaml.MappingEndEvent):
            return found
        if not isinstance(key, yaml.ScalarEvent):
            _skip(events, key)
            _skip(events, next(events))
            continue
        value = _value(events, next(events), key.value, notes)
        if key.value in found and value != found[key.value]:
            notes.append(f"The card states {key.value} twice; neither counts.")
            value = _Values((), listed=False)
        if key.value in WANTED and value is not None:
            found[key.value] = value
    return found


def _bounded(events: Iterable[yaml.Event]) -> Iterator[yaml.Event]:
    depth = 0
    for count, event in enumerate(events):
        if isinstance(event, yaml.AliasEvent):
            raise _Refused("it uses an alias")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > DEEPEST:
            raise _Refused(f"it nests deeper than {DEEPEST} levels")
        if count > MOST_EVENTS:
            raise _Refused(f"it has more than {MOST_EVENTS} parts")
        yield event


def _value(
    events: Iterator[yaml.Event], start: yaml.Event, key: str, notes: list[str]
) -> _Values | None:
    """The texts of a scalar or of a list of scalars; None for anything else."""
    if key not in WANTED:
        _skip(events, start)
        return None
    if isinstance(start, yaml.ScalarEvent):
        return _Values(_texts((start,), key, notes), listed=False)
    if not isinstance(start, yaml.SequenceStartEvent) or start.tag is not None:
        _skip(events, start)
        notes.append(f"The card's {key} is neither text nor a list of texts.")
        return None
    scalars: list[yaml.ScalarEvent] = []
    for event in events:
        if isinstance(event, yaml.SequenceEndEvent):
            break
        if isinstance(event, yaml.ScalarEvent):
            scalars.append(event)
        else:
            _skip(events, event)
            notes.append(f"An entry of the card's {key} is not text.")
    return _Values(_texts(scalars, key, notes), listed=True)


def _texts(scalars: Iterable[yaml.ScalarEvent], key: str, notes: list[str]) -> tuple[str, ...]:
    kept = []
    for scalar in scalars:
        text = " ".join(scalar.value.split())
        tag = _tag(scalar)
        if tag == _NULL_TAG or not text:
            continue
        if tag != _TEXT_TAG:
            notes.append(f"The card's {key} is a number or a truth value, not text.")
        elif len(text) > LONGEST_VALUE or not text.isprintable():
            notes.append(f"The card's {key} is too long or has control characters.")
        else:
            kept.append(text)
    return tuple(kept)


def _tag(scalar: yaml.ScalarEvent) -> str:
    if scalar.tag is not None and scalar.tag != "!":
        return str(scalar.tag)
    if not scalar.implicit[0]:
        return _TEXT_TAG
    resolver: Any = yaml.resolver.Resolver()
    return str(resolver.resolve(yaml.ScalarNode, scalar.value, scalar.implicit))


def _skip(events: Iterator[yaml.Event], start: yaml.Event) -> None:
    """Pass over the value that ``start`` begins."""
    depth = int(isinstance(start, yaml.CollectionStartEvent))
    while depth:
        event = next(events)
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)


def _joined(key: str, values: dict[str, _Values], notes: list[str]) -> str | None:
    """One text; of a list, all of them with commas, as converters to GGUF write it."""
    texts = values[key].texts if key in values else ()
    if len(texts) > 1:
        notes.append(f"The card lists {len(texts)} values of {key}.")
    joined = ", ".join(texts)
    if len(joined) > LONGEST_VALUE:
        notes.append(f"The card's {key} is too long.")
        return None
    return joined or None


def _single(key: str, values: dict[str, _Values], notes: list[str]) -> str | None:
    texts = values[key].texts if key in values else ()
    if len(texts) > 1:
        notes.append(f"The card lists {len(texts)} values of {key}; none counts.")
        return None
    return texts[0] if texts else None


def _parents(values: dict[str, _Values], notes: list[str]) -> tuple[str, ...]:
    stated = values["base_model"].texts if "base_model" in values else ()
    parents = tuple(dict.fromkeys(_repository(name) for name in stated))
    if len(parents) > MOST_PARENTS:
        notes.append(f"The card names {len(parents)} base models; {MOST_PARENTS} are looked at.")
    return parents[: MOST_PARENTS + 1]


def _repository(name: str) -> str:
    address = _HUB.fullmatch(name)
    return address.group(1) if address else name


def _relation(values: dict[str, _Values], notes: list[str]) -> Relation | None:
    stated = _single("base_model_relation", values, notes)
    if stated is None:
        return None
    try:
        return Relation(stated.casefold())
    except ValueError:
        notes.append(f"The card's base_model_relation is {stated!r}, which is none of the hub's.")
        return None
