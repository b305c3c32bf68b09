"""The application: routes, the guard around them, and one shape for every error."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.types import Receive, Scope, Send

from freehold.api.admin.activity_routes import router as activity_router
from freehold.api.admin.keys_routes import router as keys_router
from freehold.api.admin.models_routes import router as models_router
from freehold.api.admin.pulls_routes import pulls_router
from freehold.api.admin.tuning_routes import router as tuning_router
from freehold.api.admin.upstreams_routes import router as upstreams_router
from freehold.api.anthropic import convert as anthropic
from freehold.api.anthropic.routes import PREFIX as ANTHROPIC_PREFIX
from freehold.api.anthropic.routes import router as anthropic_router
from freehold.api.draining import Draining
from freehold.api.guard import Guard, Rules, too_large
from freehold.api.metrics import router as metrics_router
from freehold.api.ollama import convert as ollama
from freehold.api.ollama.embed_routes import router as ollama_embed_router
from freehold.api.ollama.models_routes import router as ollama_models_router
from freehold.api.ollama.pull_routes import ollama_pull_router
from freehold.api.ollama.routes import router as ollama_router
from freehold.api.openai import convert as openai
from freehold.api.openai.completions_routes import router as openai_completions_router
from freehold.api.openai.embeddings_routes import router as openai_embeddings_router
from freehold.api.openai.responses_routes import responses_router as openai_responses_router
from freehold.api.openai.routes import router as openai_router
from freehold.api.plain.routes import router as plain_router
from freehold.api.problem import Problem, Refused, problem_of, unexpected
from freehold.api.pulls import Pulls
from freehold.api.readiness import Readiness
from freehold.api.readiness import router as readiness_router
from freehold.api.reference import page
from freehold.api.stream import SILENCE_SECONDS, ClientLeft
from freehold.api.web.conversations_routes import router as conversations_router
from freehold.api.web.page import built, page_router
from freehold.api.web.papers_routes import router as papers_router
from freehold.api.web.plan_routes import router as plan_router
from freehold.api.web.session_routes import router as session_router
from freehold.api.web.sessions import Sessions
from freehold.domain.errors import FreeholdError
from freehold.runtime.wiring import Runtime

# nginx's status for a client that closed the connection; nobody receives it.
_CLIENT_LEFT = 499


_ROUTERS = (
    *(openai_router, openai_completions_router, openai_embeddings_router),
    *(plain_router, anthropic_router),
    *(ollama_router, ollama_models_router, ollama_embed_router),
    *(models_router, upstreams_router, keys_router, activity_router),
    *(readiness_router, metrics_router, tuning_router),
    *(conversations_router, papers_router, plan_router, session_router),
)


def build_app(
    runtime: Runtime, rules: Rules, instance: str, *, silence: float = SILENCE_SECONDS
) -> FastAPI:
    """The whole HTTP side of one server. ``silence``: after so many seconds of it, streams say
    that they are alive.
    """
    app = FastAPI(
        title="freehold",
        version=version("freehold"),
        docs_url=None,  # FastAPI's pages load scripts from elsewhere; ours is `reference`
        redoc_url=None,
    )
    app.state.runtime = runtime
    app.state.silence = silence
    app.state.draining = Draining()
    app.state.sessions = Sessions()
    app.state.pulls = Pulls()
    app.state.readiness = Readiness(instance)
    # Some keep what they are doing: each application has its own.
    for router in (
        *_ROUTERS,
        openai_responses_router(),
        ollama_pull_router(app.state.pulls),
        pulls_router(app.state.pulls),
        page_router(built()),
    ):
        app.include_router(router)

    @app.get("/docs", response_class=HTMLResponse, include_in_schema=False)
    async def docs() -> str:
        """Every route and object, for people."""
        return page(description())

    def description() -> dict[str, Any]:
        if app.openapi_schema is None:
            _leave_out_unused(FastAPI.openapi(app))
        assert app.openapi_schema is not None
        return app.openapi_schema

    app.openapi = description  # type: ignore[method-assign]  # FastAPI's own way to change it

    for kind, handler in _HANDLERS.items():
        app.add_exception_handler(kind, handler)
    app.add_middleware(
        Guard,
        rules=rules,
        keyring=runtime.keyring,
        sessions=app.state.sessions,
        refuse=_refuse,
        exists=lambda scope: any(r.matches(dict(scope))[0] is not Match.NONE for r in app.routes),
    )
    return app


def _leave_out_unused(description: dict[str, Any]) -> None:
    """FastAPI's own answer to a bad body is described for every route, and never given here."""
    for operations in description["paths"].values():
        for operation in operations.values():
            operation["responses"].pop("422", None)
    for name in ("HTTPValidationError", "ValidationError"):
        description["components"]["schemas"].pop(name, None)


# Whose words an error is told in, by the beginning of the path; everything else is OpenAI's.
_ERROR_BODIES: tuple[tuple[str, Callable[[Problem], BaseModel]], ...] = (
    (ANTHROPIC_PREFIX, anthropic.error_body),
    ("/api/", ollama.error_body),
)


def _respond(path: str, problem: Problem) -> Response:
    headers = {"Retry-After": str(problem.retry_after)} if problem.retry_after else None
    shapes = (shape for prefix, shape in _ERROR_BODIES if path.startswith(prefix))
    body = next(shapes, openai.error_body)(problem).model_dump()
    return JSONResponse(body, status_code=problem.status, headers=headers)


async def _refuse(scope: Scope, receive: Receive, send: Send, problem: Problem) -> None:
    await _respond(scope["path"], problem)(scope, receive, send)


async def _ours(request: Request, error: Exception) -> Response:
    assert isinstance(error, FreeholdError)
    return _respond(request.url.path, problem_of(error))


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return _respond(request.url.path, error.problem)


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return _respond(request.url.path, invalid_body(error))


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path = request.url.path
    if error.status_code == 413:
        return _respond(path, too_large())
    if error.status_code == 400:  # FastAPI could not read the body as JSON
        return _respond(path, Problem(400, "invalid_json", "The body is not valid JSON."))
    messages = {
        404: "There is nothing at this address.",
        405: "This address does not take that method.",
    }
    message = messages.get(error.status_code, str(error.detail))
    response = _respond(path, Problem(error.status_code, "http_error", message))
    response.headers.update(error.headers or {})
    return response


async def _left(_: Request, __: Exception) -> Response:
    return Response(status_code=_CLIENT_LEFT)


async def _unexpected(request: Request, error: Exception) -> Response:
    return _respond(request.url.path, unexpected(error))


_HANDLERS: dict[type[Exception], Callable[[Request, Exception], Awaitable[Response]]] = {
    FreeholdError: _ours,
    Refused: _refused,
    RequestValidationError: _invalid,
    HTTPException: _http,
    ClientLeft: _left,
    Exception: _unexpected,
}


# What Pydantic and we call the limits of a field.
_LIMITS = {"ge": "least", "gt": "above", "le": "most", "lt": "below", "max_length": "longest"}


def invalid_body(error: RequestValidationError) -> Problem:
    """The first complaint about the body, naming the field."""
    first = error.errors()[0]
    path = _path(tuple(part for part in first["loc"] if part != "body"), error.body)
    kind, context = first["type"], first.get("ctx", {})
    if kind == "json_invalid":
        reason = context.get("error", "it does not parse")
        return Problem(
            400, "invalid_json", f"The body is not valid JSON: {reason} (at {path[-1]})."
        )
    if kind.startswith("union_tag"):  # which of several objects it is cannot be told
        path = [*path, str(context["discriminator"]).strip("'")]
    if not path:
        return Problem(400, "invalid_body", "The body must be a JSON object.")
    field = ".".join(path)
    if kind == "extra_forbidden":
        return Problem(400, "unknown_field", f"This server does not know the field {field}.", field)
    if kind in ("missing", "union_tag_not_found"):
        return Problem(400, "missing_field", f"The field {field} is missing.", field)
    reason = first["msg"].removeprefix("Value error, ")
    if kind == "union_tag_invalid":
        reason = f"it must be one of {context['expected_tags']}"
    return Problem(
        400,
        "invalid_field",
        f"The field {field} is not valid: {reason}.",
        field,
        values={name: context[limit] for limit, name in _LIMITS.items() if limit in context},
    )


def _path(location: tuple[int | str, ...], body: Any) -> list[str]:
    """Where in ``body`` a complaint is. Pydantic's names for the branches of a union are left out:
    they are no keys of anything."""
    path: list[str] = []
    value = body
    for number, part in enumerate(location):
        if isinstance(value, dict) and part not in value and number < len(location) - 1:
            continue
        path.append(str(part))
        if isinstance(value, dict):
            value = value.get(part)
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            value = value[part]
        else:
            value = None
    return path
