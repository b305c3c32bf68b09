"""`/enter` and `/freehold/v1/session`: how a browser is let in where keys are needed."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from freehold.api.openai.schema import ErrorResponse
from freehold.api.problem import Problem, Refused
from freehold.api.routing import described_errors, runtime_of
from freehold.api.web.page import HEADERS
from freehold.api.web.sessions import COOKIE, Sessions
from freehold.runtime.access.caller import NOBODY, OWNER, current_caller

router = APIRouter()

_ERRORS = described_errors(ErrorResponse)
_USED = (
    '<!doctype html><html lang="en"><meta charset="utf-8"><title>freehold</title>'
    "<p>This link has been used, or is of an earlier start of the server. "
    "<a href='/'>The page</a> takes a key instead; a new start prints a new link.</p></html>\n"
)


class Session(BaseModel):
    """Who asks, and what they may: nothing, where a key is needed and none was shown. ``models``
    are patterns; none: all.
    """

    key: Annotated[str | None, Field(description="The name of the key; null: none was shown.")]
    scopes: list[str]
    models: list[str]


class KeyShown(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    key: Annotated[str, Field(min_length=1, max_length=1024)]


def _sessions(request: Request) -> Sessions:
    sessions: Sessions = request.app.state.sessions
    return sessions


@router.get("/enter", include_in_schema=False)
async def enter(request: Request, code: Annotated[str, Query(max_length=100)] = "") -> Response:
    """The link that `serve` prints; it works once."""
    token = _sessions(request).redeem(code)
    if token is None:
        return HTMLResponse(_USED, status_code=403, headers=HEADERS)
    response = RedirectResponse("/", status_code=303, headers={"Referrer-Policy": "no-referrer"})
    _give(response, request, token)
    return response


@router.post("/freehold/v1/session", status_code=204, responses=_ERRORS)
async def begin_session(body: KeyShown, request: Request, response: Response) -> None:
    """For browsers: a cookie in exchange for a key. It lasts as long as the key, the browser's
    session and the server do.
    """
    token = await _sessions(request).admit(body.key, runtime_of(request).keyring)
    if token is None:
        raise Refused(Problem(401, "invalid_api_key", "This key is not valid here.", "key"))
    _give(response, request, token)


@router.get("/freehold/v1/session", responses=_ERRORS)
async def get_session() -> Session:
    """What this key, or this browser, may do."""
    caller = current_caller()
    return Session(
        key=None if caller is NOBODY or caller.id == OWNER.id else caller.name,
        scopes=sorted(caller.terms.scopes),
        models=[] if caller is NOBODY else list(caller.terms.models),
    )


@router.delete("/freehold/v1/session", status_code=204, responses=_ERRORS)
async def end_session(request: Request, response: Response) -> None:
    """The cookie of this browser stands for nothing any more."""
    _sessions(request).end(request.headers)
    response.delete_cookie(COOKIE, httponly=True, samesite="strict")


def _give(response: Response, request: Request, token: str) -> None:
    secure = request.url.scheme == "https"
    response.set_cookie(COOKIE, token, httponly=True, samesite="strict", secure=secure)
