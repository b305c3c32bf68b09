"""Which address needs what, and what a client has shown to be let in. Pure.

Every route is in one of these tables, or is for managers only: one that nobody thought of is closed
(`tests/contract/test_routes_enumerated.py` holds that they say what is meant).
"""

from __future__ import annotations

import enum

from starlette.datastructures import Headers

from freehold.runtime.access.caller import Caller, Scope


class Need(enum.Enum):
    """``KEY``: any that holds; the route itself tells each what is its own. ``SURVEY`` tells of all
    models: it needs a key to infer that is not limited to some.
    """

    NOTHING = "nothing"
    KEY = "key"
    INFER = "infer"
    SURVEY = "survey"
    MANAGE = "manage"


# An address ends with a slash where all below it is meant. The page holds no secret, and asks for
# a key itself.
NEEDS: dict[Need, frozenset[str]] = {
    Need.NOTHING: frozenset(
        {"/", "/assets/", "/enter", "/freehold/v1/session", "/healthz", "/readyz"}
    ),
    Need.KEY: frozenset({"/freehold/v1/activity", "/freehold/v1/activity/"}),
    Need.INFER: frozenset(
        {
            *("/v1/chat/completions", "/v1/completions", "/v1/embeddings"),
            *("/v1/responses", "/v1/responses/", "/v1/models", "/v1/models/"),
            *("/v1/messages", "/v1/messages/count_tokens"),
            *("/api/generate", "/api/chat", "/api/embed", "/api/embeddings"),
            *("/api/version", "/api/tags", "/api/ps", "/api/show"),
            *("/tokenize", "/detokenize", "/tokenizer_info", "/apply-template"),
            *("/freehold/v1/models/loaded", "/freehold/v1/conversations"),
            "/freehold/v1/conversations/",
            *("/docs", "/openapi.json"),
        }
    ),
    Need.SURVEY: frozenset(
        {
            *("/metrics", "/freehold/v1/catalogue", "/freehold/v1/disk"),
            *("/freehold/v1/papers", "/freehold/v1/papers/", "/freehold/v1/plan"),
            *("/freehold/v1/tuning/result", "/freehold/v1/upstreams"),
        }
    ),
}


def need_of(path: str) -> Need:
    for need, addresses in NEEDS.items():
        if path in addresses:
            return need
    for need, addresses in NEEDS.items():
        if any(path.startswith(each) for each in addresses if each.endswith("/") and each != "/"):
            return need
    return Need.MANAGE


def allows(caller: Caller, need: Need) -> bool:
    match need:
        case Need.NOTHING:
            return True
        case Need.KEY:
            return bool(caller.terms.scopes)
        case Need.INFER:
            return caller.may(Scope.INFER)
        case Need.SURVEY:
            return caller.may(Scope.MANAGE) or (caller.may(Scope.INFER) and not caller.terms.models)
        case Need.MANAGE:
            return caller.may(Scope.MANAGE)


def shown(headers: Headers) -> list[str]:
    """Every key a client has sent, as OpenAI's and Ollama's clients do or as Anthropic's."""
    scheme, _, bearer = headers.get("authorization", "").partition(" ")
    given = [bearer.strip()] if scheme.lower() == "bearer" else []
    return given + headers.getlist("x-api-key")
