"""What every request must pass before a route sees it. Pure ASGI, no buffering.

On loopback without a key, the caller's browser is the danger: a page from
elsewhere may try to reach us (cross-site request, DNS rebinding). So Host must be a name of
this machine, Origin must be ours, and a body must be declared as JSON, which
no plain form can do. With a key, the key decides.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from freehold.api.problem import Problem
from freehold.weights.addresses import is_loopback

MAX_BODY_BYTES = 8 * 1024 * 1024
PUBLIC_PATHS = frozenset({"/healthz"})
MANAGING_PATHS = frozenset({"/api/pull", "/api/copy", "/api/delete"})

Refuse = Callable[[Scope, Receive, Send, Problem], Awaitable[None]]


@dataclass(frozen=True)
class Rules:
    """``api_key`` None: none needed (loopback only). ``manages``: models may be fetched, renamed
    and deleted over HTTP.
    """

    port: int
    api_key: str | None = None
    manages: bool = True


def split_host(value: str) -> tuple[str, str]:
    """``name`` and ``port`` of a Host header; the port may be empty."""
    if value.startswith("["):
        name, _, rest = value[1:].partition("]")
        return name, rest.removeprefix(":")
    name, _, port = value.partition(":")
    return name, port


def judge(scope: Scope, rules: Rules) -> Problem | None:
    """Why this request may not pass, or None. Looks at headers only."""
    headers = Headers(scope=scope)
    if rules.api_key is not None:
        if scope["path"] not in PUBLIC_PATHS and not _key_matches(headers, rules.api_key):
            return Problem(
                401,
                "invalid_api_key",
                "A valid API key is needed: send it as `Authorization: Bearer KEY` "
                "or as `x-api-key: KEY`.",
            )
    else:
        name, port = split_host(headers.get("host", ""))
        if not is_loopback(name) or port not in ("", str(rules.port)):
            return Problem(
                403,
                "forbidden_host",
                f"This server answers only under a loopback name such as 127.0.0.1:{rules.port}.",
            )
        if not _same_origin(headers):
            return Problem(403, "forbidden_origin", "Requests from other web pages are refused.")
    if scope["path"] in MANAGING_PATHS and not rules.manages:
        return Problem(
            403,
            "forbidden",
            "Models are not fetched, renamed or deleted over the network: one key serves "
            "everybody. Use the command on the machine itself.",
        )
    return _judge_body(headers) if scope["method"] in ("POST", "PUT", "PATCH") else None


def _judge_body(headers: Headers) -> Problem | None:
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        return Problem(
            415,
            "unsupported_media_type",
            "The body must be sent with `Content-Type: application/json`.",
        )
    return too_large() if _declared_length(headers) > MAX_BODY_BYTES else None


def too_large() -> Problem:
    return Problem(413, "body_too_large", f"A body may have at most {MAX_BODY_BYTES} bytes.")


def _key_matches(headers: Headers, key: str) -> bool:
    scheme, _, bearer = headers.get("authorization", "").partition(" ")
    given = [bearer] if scheme.lower() == "bearer" else []
    given += headers.getlist("x-api-key")
    return any(hmac.compare_digest(_key_digest(each), _key_digest(key)) for each in given)


def _key_digest(key: str) -> bytes:
    return hashlib.sha256(key.strip().encode()).digest()


def _same_origin(headers: Headers) -> bool:
    if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        return False
    origin = headers.get("origin")
    return origin is None or origin.partition("://")[2] == headers.get("host")


def _declared_length(headers: Headers) -> int:
    try:
        return int(headers.get("content-length", "0"))
    except ValueError:
        return MAX_BODY_BYTES + 1


class Guard:
    """The middleware around the whole application."""

    def __init__(self, app: ASGIApp, rules: Rules, refuse: Refuse) -> None:
        self._app = app
        self._rules = rules
        self._refuse = refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        problem = judge(scope, self._rules)
        if problem is not None:
            await self._refuse(scope, receive, send, problem)
            return
        arrived = 0

        async def limited() -> Message:
            nonlocal arrived
            message = await receive()
            if message["type"] == "http.request":
                arrived += len(message.get("body", b""))
                if arrived > MAX_BODY_BYTES:
                    raise HTTPException(413)  # the one kind that reading a body lets through
            return message

        await self._app(scope, limited, send)
