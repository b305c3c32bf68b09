"""What was read about a model and its ancestors: statements and where they stand, no judgement.

Facts are written into the lock when a model is fetched and judged again whenever someone
asks, so a verdict follows today's licence table without asking the network.
"""

from __future__ import annotations

import enum

import msgspec


class Rank(enum.StrEnum):
    """Where a statement about a licence stands, strongest first."""

    LICENCE_FILE = "licence file"
    CARD = "card"
    HEADER = "file header"
    CATALOGUE = "catalogue"


class Relation(enum.StrEnum):
    """How a model was made of its parents, in the hub's words (`base_model_relation`)."""

    FINETUNE = "finetune"
    ADAPTER = "adapter"
    MERGE = "merge"
    QUANTIZED = "quantized"


class Evidence(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One statement about the licence of one release.

    ``origin`` is where it was read (``hf:owner/repo@commit:LICENSE``). ``stated`` is the licence
    in its own words (a card's ``license``), ``name`` and ``link`` a card's ``license_name`` and
    ``license_link``. For a licence file: ``text_sha256`` of its bytes, ``normalised_sha256`` of
    its words (see `licence_text`), and the copyright line it has, if any.
    """

    rank: Rank
    origin: str
    stated: str | None = None
    name: str | None = None
    link: str | None = None
    text_sha256: str | None = None
    normalised_sha256: str | None = None
    copyright: str | None = None


class Release(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One published set of weights, at one commit, and what was read about it.

    ``name`` is a hub repository (``owner/repo``) or the name of a file. ``parents`` are
    names of other releases; empty means that nobody states any.
    """

    name: str
    evidence: tuple[Evidence, ...] = ()
    commit: str | None = None
    parents: tuple[str, ...] = ()
    relation: Relation | None = None
