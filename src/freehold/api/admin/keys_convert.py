"""Between API keys and what programs see of them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from freehold.api.admin.keys_schema import KeyDescribed, KeyIssued, KeyUse, NewKey
from freehold.runtime.access.caller import Scope, Terms
from freehold.runtime.access.key_file import Use
from freehold.runtime.access.keys import Issued, Key, issue, moment


def issued(body: NewKey, now: float) -> Issued:
    """Raises `InvalidSetting`."""
    terms = Terms(
        scopes=frozenset(map(Scope, body.scopes)),
        models=tuple(body.models),
        concurrency=body.concurrency,
        rate=body.rate,
        weight=body.weight,
    )
    until = None if body.expires is None else moment(body.expires, now)
    return issue(body.name, terms, now=now, expires=until)


def described(key: Key, now: float) -> KeyDescribed:
    return KeyDescribed(**_fields(key, now))


def told_once(made: Issued, now: float) -> KeyIssued:
    return KeyIssued(**_fields(made.key, now), key=made.text)


def used(names: Mapping[str, str], use: Use) -> KeyUse:
    return KeyUse(
        id=use.key,
        name=names.get(use.key, use.key),
        since=use.day,
        requests=use.requests,
        prompt_tokens=use.prompt_tokens,
        cached_tokens=use.cached_tokens,
        completion_tokens=use.completion_tokens,
    )


def _fields(key: Key, now: float) -> dict[str, Any]:
    terms = key.terms
    return {
        "id": key.id,
        "name": key.name,
        "scopes": sorted(terms.scopes),
        "models": list(terms.models),
        "concurrency": terms.concurrency,
        "rate": terms.rate,
        "weight": terms.weight,
        "created": _time(key.created),
        "expires": None if key.expires is None else _time(key.expires),
        "revoked": None if key.revoked is None else _time(key.revoked),
        "state": key.state(now),
    }


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat("T", "seconds")
