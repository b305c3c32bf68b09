"""Between API keys and what programs see of them. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from freehold.api.admin.keys_schema import KeyDescribed, KeyIssued, KeyUse, NewKey
from freehold.runtime.access import keys
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
    return KeyDescribed(**keys.described(key, now))


def told_once(made: Issued, now: float) -> KeyIssued:
    return KeyIssued(**keys.described(made.key, now), key=made.text)


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
