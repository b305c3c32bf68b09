"""Which chat templates are official: data in ``templates.toml``, beside this file.

Only digests are kept; the texts are their publishers'.
"""

from __future__ import annotations

import datetime
import functools
import hashlib
import importlib.resources
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import msgspec

from freehold.process.decoding import from_values


class PublishedTemplate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One template as its publisher has it; ``source`` is where it or its digest was read."""

    published: str
    source: str
    checked: datetime.date
    sha256: str
    commit: str | None = None


class Family(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Models that share templates; ``names`` are parts of what they are called."""

    name: str
    names: tuple[str, ...]
    template: tuple[PublishedTemplate, ...]


class _Table(msgspec.Struct, forbid_unknown_fields=True):
    family: tuple[Family, ...]


@dataclass(frozen=True)
class Known:
    """A template that is official, and the families that use it."""

    published: tuple[PublishedTemplate, ...]
    families: tuple[str, ...]


def sha256_of(template: str) -> str:
    """SHA-256 of the template's bytes; what a lock records."""
    # A header is UTF-8, so this changes nothing; another caller may hold half a character.
    return hashlib.sha256(template.encode("utf-8", "replace")).hexdigest()


def known(template: str) -> Known | None:
    """Whether the template is official, but for a newline at its end, which Jinja drops."""
    bare = template.removesuffix("\n")
    rows = [row for text in (bare, f"{bare}\n") for row in _by_digest().get(sha256_of(text), ())]
    if not rows:
        return None
    return Known(
        published=tuple(template for _, template in rows),
        families=tuple(dict.fromkeys(family.name for family, _ in rows)),
    )


def family_of(names: Iterable[str]) -> Family | None:
    """The family that a model called ``names`` (its own name, its bases) belongs to.

    Of several, the first of ``names`` decides, and in it what comes first: a model called
    Hermes-3-Llama-3.1 is a Hermes. ``qwen2.5-coder`` is more than ``qwen2.5``.
    """
    fitting = [
        (number, place, -len(part), family)
        for number, name in enumerate(names)
        for family in families()
        for part in family.names
        if (place := _place(part, name)) is not None
    ]
    return min(fitting, key=lambda each: each[:3])[3] if fitting else None


@functools.cache
def families() -> tuple[Family, ...]:
    data = importlib.resources.files(__package__).joinpath("templates.toml").read_text("utf-8")
    return from_values(tomllib.loads(data), _Table).family


@functools.cache
def _by_digest() -> Mapping[str, tuple[tuple[Family, PublishedTemplate], ...]]:
    found: dict[str, tuple[tuple[Family, PublishedTemplate], ...]] = {}
    for family in families():
        for template in family.template:
            found[template.sha256] = (*found.get(template.sha256, ()), (family, template))
    return found


def _place(part: str, name: str) -> int | None:
    """Where ``part`` stands in ``name``, as whole words: ``qwen3`` is not in ``qwen3.5``."""
    spelt = re.sub(r"[\s_]+", "-", name.casefold())
    found = re.search(rf"(?<![a-z0-9.]){re.escape(part)}(?![a-z0-9]|\.[0-9])", spelt)
    return found.start() if found else None
