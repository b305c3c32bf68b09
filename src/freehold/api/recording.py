"""Around the whole application: each request has an id, one line in the log, and is counted."""

from __future__ import annotations

import logging
import re
import time
import uuid

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from freehold.runtime.logs import Dialect, RequestRecord, answering, figures
from freehold.runtime.observing import Meters

access = logging.getLogger("freehold.access")

HEADER = b"x-request-id"
_CLIENT_LEFT = 499
_LONGEST_PATH = 200
# Visible ASCII: it goes into a header and into lines of the log.
_ID = re.compile(r"[!-~]{1,64}")


def id_of(scope: Scope) -> str:
    """The client's ``X-Request-Id`` if it is short and printable, else one of ours."""
    given = Headers(scope=scope).get("x-request-id", "")
    return given if _ID.fullmatch(given) else uuid.uuid4().hex


def dialect_of(path: str) -> Dialect:
    """Whose words a path belongs to."""
    if path.startswith("/v1/messages"):
        return "anthropic"
    if path.startswith("/v1/"):
        return "openai"
    return "ollama" if path.startswith("/api/") else "freehold"


class Recorder:
    """An ASGI application around another. It is outside of Starlette's own layer for defects, so
    that the answer to a defect has its id as well.
    """

    def __init__(self, app: ASGIApp, meters: Meters) -> None:
        self._app = app
        self._meters = meters

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        record = RequestRecord(id_of(scope), dialect_of(scope["path"]))
        began = time.monotonic()
        status = _CLIENT_LEFT  # until something is said

        async def telling(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [*message.get("headers", ()), (HEADER, record.id.encode())]
                message = {**message, "headers": headers}
            await send(message)

        self._meters.in_flight += 1
        with answering(record):
            try:
                await self._app(scope, receive, telling)
            finally:
                self._meters.in_flight -= 1
                self._meters.requests[record.dialect, status] += 1
                _log(scope, status, time.monotonic() - began, record)


def _log(scope: Scope, status: int, seconds: float, record: RequestRecord) -> None:
    """The path alone: a query may hold what is nobody's business."""
    path = scope["path"][:_LONGEST_PATH]
    told = {
        "method": scope["method"],
        "path": path,
        "status": status,
        "ms": round(1000 * seconds),
        "model": record.model,
        "prompt_tokens": record.prompt_tokens if record.model else None,
        "completion_tokens": record.completion_tokens if record.model else None,
        "key": record.key,
    }
    said = " ".join(
        f"{name}={value!r}" if name in ("path", "model", "key") else f"{name}={value}"
        for name, value in told.items()
        if value is not None
    )
    access.info("%s", said, extra=figures(told))
