"""API keys: how they look, what is stored of them, and whether one holds. Pure.

    fh_3f9c0a7be214_5b0e…        fh_ · id, 12 digits · _ · secret, 48 digits (192 bits)

The id finds the record; the record has SHA-256 of the whole key and nothing it could be made from.
A slow hash guards secrets people think of, because those can be guessed one after another; nobody
guesses 192 random bits, and a slow hash would let anyone keep the server busy with wrong keys.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import math
import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from freehold.domain.durations import seconds
from freehold.domain.errors import InvalidSetting
from freehold.runtime.access.caller import NOBODY, OWNER, Caller, Scope, Terms

ENVIRONMENT = "environment"
MAX_MODELS = 64
MAX_PATTERN = 256
MAX_CONCURRENCY = 100_000
MAX_RATE = 1_000_000_000
MAX_WEIGHT = 1000
MAX_KEYS = 10_000
MAX_SECONDS = 100 * 366 * 86400

_KEY = re.compile(r"fh_([0-9a-f]{12})_[0-9a-f]{48}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_DAYS = re.compile(r"([0-9]{1,5})d")
_RESERVED = frozenset({ENVIRONMENT, OWNER.name, NOBODY.name})


@dataclass(frozen=True)
class Key:
    """One key as it is stored. Times are seconds since 1970; None: never, or not yet."""

    id: str
    name: str
    digest: bytes
    terms: Terms
    created: float
    expires: float | None = None
    revoked: float | None = None

    def holds(self, now: float) -> bool:
        return self.revoked is None and (self.expires is None or now < self.expires)

    def state(self, now: float) -> str:
        """``in use``, ``expired`` or ``revoked``."""
        if self.revoked is not None:
            return "revoked"
        return "in use" if self.holds(now) else "expired"

    @property
    def caller(self) -> Caller:
        return Caller(self.id, self.name, self.terms)


@dataclass(frozen=True)
class Issued:
    """A new key. ``text`` is shown once: it cannot be found again."""

    key: Key
    text: str


def issue(name: str, terms: Terms, *, now: float, expires: float | None = None) -> Issued:
    """A new key with a secret of its own. Raises `InvalidSetting`."""
    require_name(name)
    require_terms(terms)
    if expires is not None and expires <= now:
        raise InvalidSetting(
            "The key would have expired already.",
            hint="Give a later time.",
            values={"field": "expires"},
        )
    identity = secrets.token_hex(6)
    text = f"fh_{identity}_{secrets.token_hex(24)}"
    return Issued(Key(identity, name, digest_of(text), terms, now, expires), text)


def moment(text: str, now: float) -> float:
    """When a key expires: ``30d`` or ``12h`` from ``now``, or a date or time in ISO 8601, UTC
    unless it says otherwise. Raises `InvalidSetting`.
    """
    with contextlib.suppress(ValueError, OverflowError):
        given = datetime.fromisoformat(text)
        return (given if given.tzinfo else given.replace(tzinfo=UTC)).timestamp()
    try:
        days = _DAYS.fullmatch(text)
        length = float(days[1]) * 86400 if days else seconds(text)
    except ValueError:
        length = math.inf
    if not 0 < length <= MAX_SECONDS:
        raise InvalidSetting(
            f"{text!r} is no time at which a key could expire.",
            hint="Give a duration such as 30d or 12h, or a date such as 2027-01-31.",
            values={"field": "expires"},
        )
    return now + length


def described(key: Key, now: float) -> dict[str, Any]:
    """What may be told of a key, to people and programs alike. Times are ISO 8601 in UTC."""
    terms = key.terms
    return {
        "id": key.id,
        "name": key.name,
        "scopes": sorted(terms.scopes),
        "models": list(terms.models),
        "concurrency": terms.concurrency,
        "rate": terms.rate,
        "weight": terms.weight,
        "created": written(key.created),
        "expires": written(key.expires),
        "revoked": written(key.revoked),
        "state": key.state(now),
    }


def written(at: float | None) -> str | None:
    """A time as it is told."""
    return None if at is None else datetime.fromtimestamp(at, UTC).isoformat("T", "seconds")


def require_name(name: str) -> None:
    if _NAME.fullmatch(name) is None or name in _RESERVED:
        raise InvalidSetting(
            f"{name!r} cannot be the name of a key.",
            hint="Use letters, digits, dots, dashes and underscores, 64 at most; "
            f"{', '.join(sorted(_RESERVED))} are taken.",
            values={"field": "name"},
        )


def require_terms(terms: Terms) -> None:
    """Raise `InvalidSetting` for what no key may be given."""
    if not terms.scopes:
        raise InvalidSetting(
            "A key without a scope may do nothing.",
            hint="Give it infer, say.",
            values={"field": "scopes"},
        )
    if Scope.MANAGE in terms.scopes and terms.models:
        raise InvalidSetting(
            "A key of scope manage handles every model.",
            hint="Leave the models out.",
            values={"field": "models"},
        )
    if len(terms.models) > MAX_MODELS:
        raise InvalidSetting(
            f"A key may name {MAX_MODELS} patterns of models at most.",
            values={"field": "models", "most": MAX_MODELS},
        )
    for pattern in terms.models:
        if not 0 < len(pattern) <= MAX_PATTERN or not pattern.isprintable():
            raise InvalidSetting(
                f"{pattern!r} is no pattern for names of models.", values={"field": "models"}
            )
    for what, value, most in (
        ("concurrency", terms.concurrency, MAX_CONCURRENCY),
        ("rate", terms.rate, MAX_RATE),
        ("weight", terms.weight, MAX_WEIGHT),
    ):
        if value is not None and not 1 <= value <= most:
            raise InvalidSetting(
                f"{what} must be between 1 and {most}.",
                values={"field": what, "least": 1, "most": most},
            )


def id_of(text: str) -> str | None:
    """The id in what a client has shown; None: it is not one of our keys."""
    match = _KEY.fullmatch(text)
    return match[1] if match else None


def digest_of(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def matches(text: str, digest: bytes) -> bool:
    """In a time that does not tell how much of it is right."""
    return hmac.compare_digest(digest_of(text), digest)
