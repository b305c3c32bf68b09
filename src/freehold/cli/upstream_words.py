"""What a person is told of upstreams: where what is asked of them goes, and whether it can."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from freehold.domain.errors import InvalidSetting
from freehold.domain.settings import Settings
from freehold.domain.upstreams import Upstream


def said_of(upstream: Upstream, *, offline: bool = False, sealed: bool = False) -> str:
    """One line. ``sealed``: the process can make no connection at all."""
    if sealed or (offline and upstream.beyond):
        return f"offline: the upstream {upstream.name} cannot be used."
    return f"The upstream {upstream.name} is asked at {upstream.destination}."


def require_usable(settings: Settings) -> None:
    """Raise `InvalidSetting` for what a server would only find out when it is asked."""
    for upstream in settings.upstreams.values():
        require_key(upstream)
        if upstream.name in settings.pin:
            raise InvalidSetting(
                f"{upstream.name} is pinned, and it is an upstream: nothing of it is loaded here.",
                hint="Take it out of the setting pin.",
            )


def require_key(upstream: Upstream) -> None:
    if upstream.lacks_key:
        raise InvalidSetting(
            f"The key of the upstream {upstream.name} is to come from the variable "
            f"{upstream.key_variable}, which is not set."
        )


def facts(upstream: Upstream) -> Mapping[str, Any]:
    """For programs. The key is not among them."""
    return {
        "name": upstream.name,
        "urls": list(upstream.urls),
        "model": upstream.model,
        "kind": upstream.kind.value,
        "context": upstream.context,
        "parallel": upstream.parallel,
        "key_variable": upstream.key_variable,
        "key_set": upstream.key is not None,
        "leaves_machine": bool(upstream.beyond),
        "keeps_its_own_template": True,
    }


def key_words(upstream: Upstream) -> str:
    if upstream.key_variable is None:
        return "none is sent"
    state = "set" if upstream.key is not None else "NOT set"
    return f"from the variable {upstream.key_variable}, which is {state}"


def lines(upstream: Upstream) -> list[tuple[str, str]]:
    """What `show` tells."""
    limit = "not known" if upstream.context is None else f"{upstream.context} tokens"
    return [
        ("Name", upstream.name),
        ("Kind", f"upstream ({upstream.kind}): another server runs it"),
        ("Asked at", f"{upstream.destination}"),
        *(("Replica", url) for url in upstream.urls),
        ("Its name there", upstream.model),
        ("Key", key_words(upstream)),
        ("Context", f"{limit}; {upstream.parallel} requests at once"),
        ("Template", "its own: its server renders the messages, and what it makes is not shown"),
        ("Licence", "not known here: its files are not"),
    ]
