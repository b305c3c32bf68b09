"""What every request must pass before a route sees it. Pure ASGI, no buffering.

On loopback without a key, the caller's browser is the danger: a page from elsewhere may try to
reach us (cross-site request, DNS rebinding). So Host must be a name of this machine, Origin must
be ours or one that was allowed, and a body must be declared as JSON, which no plain form can do.
With a key, the key decides instead of Host.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from freehold.api.auth import Need, allows, need_of, shown
from freehold.api.problem import Problem
from freehold.api.web.sessions import Sessions
from freehold.domain.hosts import is_loopback
from freehold.runtime.access.caller import NOBODY, OWNER, Caller, calling
from freehold.runtime.access.keyring import Keyring
from freehold.runtime.logs import current_request

MAX_BODY_BYTES = 8 * 1024 * 1024
_PREFLIGHT_SECONDS = 600

Refuse = Callable[[Scope, Receive, Send, Problem], Awaitable[None]]


@dataclass(frozen=True)
class Rules:
    """``keys_required`` False: none needed (loopback only). ``hosts`` are further names of this
    server, ``origins`` the web pages of others that may use it.
    """

    port: int
    keys_required: bool = False
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()


def split_host(value: str) -> tuple[str, str]:
    """``name`` and ``port`` of a Host header; the port may be empty."""
    if value.startswith("["):
        name, _, rest = value[1:].partition("]")
        return name, rest.removeprefix(":")
    name, _, port = value.partition(":")
    return name, port


def judge(scope: Scope, rules: Rules, caller: Caller) -> Problem | None:
    """Why this request may not pass, or None. Looks at headers only."""
    headers = Headers(scope=scope)
    if caller is OWNER and not _our_host(headers, rules):
        return Problem(
            403,
            "forbidden_host",
            f"This server answers only under a loopback name such as 127.0.0.1:{rules.port}, "
            "and under those that the setting `hosts` names.",
        )
    if not _our_origin(headers, rules):
        return Problem(
            403,
            "forbidden_origin",
            "Requests from other web pages are refused, save those that the setting "
            "`cors_origins` names.",
        )
    return _judge_caller(scope["path"], caller) or _judge_body(scope, headers)


def _judge_caller(path: str, caller: Caller) -> Problem | None:
    need = need_of(path)
    if allows(caller, need):
        return None
    if caller is NOBODY:
        return Problem(
            401,
            "invalid_api_key",
            "A valid API key is needed: send it as `Authorization: Bearer KEY` "
            "or as `x-api-key: KEY`.",
        )
    wanted, *scopes = {
        Need.KEY: ("any scope",),
        Need.INFER: ("scope `infer`", "infer"),
        Need.SURVEY: ("scope `infer` for all models, or `manage`", "infer", "manage"),
        Need.MANAGE: ("scope `manage`", "manage"),
    }[need]
    return Problem(
        403,
        "forbidden",
        f"The key {caller.name} may not do this: it takes one of {wanted}. "
        "`freehold key create` makes one, on the machine itself.",
        values={"key": caller.name, "scopes": tuple(scopes)},
    )


def _judge_body(scope: Scope, headers: Headers) -> Problem | None:
    if scope["method"] not in ("POST", "PUT", "PATCH"):
        return None
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not _plainly_no_browser(scope, headers):
        return Problem(
            415,
            "unsupported_media_type",
            "The body must be sent with `Content-Type: application/json`.",
        )
    return too_large() if _declared_length(headers) > MAX_BODY_BYTES else None


def _plainly_no_browser(scope: Scope, headers: Headers) -> bool:
    """Some of Ollama's clients do not say what they send. A page can have a browser send a body
    without a type as well, but browsers name the page's origin with every POST, and where they
    come from to every address of this machine.
    """
    browsers = any(name == "origin" or name.startswith("sec-fetch-") for name in headers)
    return scope["path"].startswith("/api/") and "content-type" not in headers and not browsers


def too_large() -> Problem:
    return Problem(
        413,
        "body_too_large",
        f"A body may have at most {MAX_BODY_BYTES} bytes.",
        values={"most_bytes": MAX_BODY_BYTES},
    )


def _our_host(headers: Headers, rules: Rules) -> bool:
    name, port = split_host(headers.get("host", "").lower())
    if name in rules.hosts:
        return True  # under any port: a proxy's is its own
    return is_loopback(name) and port in ("", str(rules.port))


def _our_origin(headers: Headers, rules: Rules) -> bool:
    origin = headers.get("origin")
    if origin is not None and origin in rules.origins:
        return True
    if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        return False
    return origin is None or origin.partition("://")[2] == headers.get("host")


def _declared_length(headers: Headers) -> int:
    try:
        return int(headers.get("content-length", "0"))
    except ValueError:
        return MAX_BODY_BYTES + 1


class Guard:
    """The middleware around the whole application. ``exists``: whether there is a route; at an
    address without one nobody is refused for what it would need.
    """

    def __init__(
        self,
        app: ASGIApp,
        rules: Rules,
        keyring: Keyring,
        sessions: Sessions,
        refuse: Refuse,
        exists: Callable[[Scope], bool],
    ) -> None:
        self._app = app
        self._rules = rules
        self._keyring = keyring
        self._sessions = sessions
        self._refuse = refuse
        self._exists = exists

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        send = self._with_cors(headers, send)
        if self._asks_first(scope, headers):
            await _preflight_answer(headers)(scope, receive, send)
            return
        caller = await self._caller(headers)
        if (record := current_request()) is not None and caller not in (OWNER, NOBODY):
            record.key = caller.name
        with calling(caller):
            problem = judge(scope, self._rules, caller)
            if problem is not None and (problem.status, problem.code) == (403, "forbidden"):
                problem = problem if self._exists(scope) else None
            if problem is not None:
                await self._refuse(scope, receive, send, problem)
                return
            await self._app(_typed(scope, headers), _limited(receive), send)

    async def _caller(self, headers: Headers) -> Caller:
        """A key that holds is honoured where none is needed, too. One that does not is then passed
        over: clients that must send something send anything.
        """
        keys = shown(headers)
        if keys:
            known = await self._keyring.find(keys)
        else:
            known = await self._sessions.caller(headers, self._keyring)
        return known or (NOBODY if self._rules.keys_required else OWNER)

    def _asks_first(self, scope: Scope, headers: Headers) -> bool:
        """A browser asks whether an allowed page may send what it wants to send."""
        return (
            scope["method"] == "OPTIONS"
            and headers.get("origin") in self._rules.origins
            and "access-control-request-method" in headers
        )

    def _with_cors(self, headers: Headers, send: Send) -> Send:
        """Say to browsers which page may read the answer. Cookies and the like never go along."""
        if not self._rules.origins:
            return send
        origin = headers.get("origin")

        async def telling(message: Message) -> None:
            if message["type"] == "http.response.start":
                told = MutableHeaders(scope=message)
                told.add_vary_header("Origin")
                if origin is not None and origin in self._rules.origins:
                    told["Access-Control-Allow-Origin"] = origin
                    told["Access-Control-Expose-Headers"] = "Retry-After, X-Request-Id"
            await send(message)

        return telling


def _preflight_answer(headers: Headers) -> Response:
    told = {
        "Access-Control-Allow-Methods": "GET, POST, PATCH, DELETE",
        "Access-Control-Allow-Headers": headers.get("access-control-request-headers", "")
        or "Authorization, Content-Type",
        "Access-Control-Max-Age": str(_PREFLIGHT_SECONDS),
    }
    if "access-control-request-private-network" in headers:
        told["Access-Control-Allow-Private-Network"] = "true"
    return Response(status_code=204, headers=told)


def _typed(scope: Scope, headers: Headers) -> Scope:
    """What has no type and was let through is JSON."""
    if scope["method"] != "POST" or "content-type" in headers:
        return scope
    return {**scope, "headers": [*scope["headers"], (b"content-type", b"application/json")]}


def _limited(receive: Receive) -> Receive:
    """What is declared too long is refused before; this is for what is not declared."""
    arrived = 0

    async def limited() -> Message:
        nonlocal arrived
        message = await receive()
        if message["type"] == "http.request":
            arrived += len(message.get("body", b""))
            if arrived > MAX_BODY_BYTES:
                raise HTTPException(413)  # the one kind that reading a body lets through
        return message

    return limited
