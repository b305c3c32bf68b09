"""Every route there is, and who may use it. A new route fails here until it is in one list."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from fastapi.routing import iter_route_contexts

from freehold.api.app import build_app
from freehold.api.guard import Rules
from freehold.engines.scripted import Script
from freehold.runtime.access.caller import Terms
from tests.support.gateway import Gateway, gateway
from tests.support.keyed import INFER, MANAGE, issued

PUBLIC = """
GET /    HEAD /    GET /assets/{name:path}    GET /healthz    GET /readyz
GET /enter
GET /freehold/v1/session    POST /freehold/v1/session    DELETE /freehold/v1/session
"""
# Each key is told what is its own.
KEYED = """
GET /freehold/v1/activity    DELETE /freehold/v1/activity/{identity}
"""
INFERRING = """
POST /v1/chat/completions    POST /v1/completions    POST /v1/embeddings
POST /v1/responses    GET /v1/responses/{response_id}    DELETE /v1/responses/{response_id}
GET /v1/models    GET /v1/models/{name:path}
POST /v1/messages    POST /v1/messages/count_tokens
POST /api/generate    POST /api/chat    POST /api/embed    POST /api/embeddings
GET /api/version    GET /api/tags    GET /api/ps    POST /api/show
POST /tokenize    POST /detokenize    GET /tokenizer_info    POST /apply-template
GET /freehold/v1/models/loaded
GET /freehold/v1/conversations    POST /freehold/v1/conversations
GET /freehold/v1/conversations/{identity}    PATCH /freehold/v1/conversations/{identity}
DELETE /freehold/v1/conversations/{identity}
POST /freehold/v1/conversations/{identity}/messages
POST /freehold/v1/conversations/{identity}/answers
GET /freehold/v1/conversations/{identity}/messages/{answer}/events
POST /freehold/v1/conversations/{identity}/messages/{answer}/stop
POST /freehold/v1/conversations/{identity}/messages/{answer}/continue
GET /freehold/v1/conversations/{identity}/messages/{message}/prompt
GET /docs    GET /openapi.json    HEAD /openapi.json
"""
# What tells of every model: not for a key that is limited to some.
SURVEYING = """
GET /metrics    GET /freehold/v1/catalogue    GET /freehold/v1/disk    GET /freehold/v1/papers
GET /freehold/v1/papers/lock    GET /freehold/v1/papers/sbom    GET /freehold/v1/plan
GET /freehold/v1/tuning/result    GET /freehold/v1/upstreams
"""
MANAGING = """
GET /freehold/v1/pulls    POST /freehold/v1/pulls    DELETE /freehold/v1/pulls
POST /api/pull    POST /api/copy    DELETE /api/delete
POST /freehold/v1/models/load    POST /freehold/v1/models/unload    POST /freehold/v1/models/pin
GET /freehold/v1/keys    POST /freehold/v1/keys    DELETE /freehold/v1/keys/{name}
GET /freehold/v1/keys/usage
GET /freehold/v1/tuning    POST /freehold/v1/tuning    DELETE /freehold/v1/tuning
"""

Route = tuple[str, str]


def listed(text: str) -> set[Route]:
    return {(m[1], m[2]) for m in re.finditer(r"([A-Z]+) (/\S*)", text)}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def server(home: Path, tiny: Path) -> Iterator[Gateway]:
    with gateway(home, (tiny,), script=lambda _: Script(), api_key="secret") as running:
        yield running


@pytest.fixture(scope="module")
def routes(server: Gateway) -> set[Route]:
    app = build_app(server.runtime, Rules(port=1), "x")
    return {
        (method, context.path or "")
        for context in iter_route_contexts(app.routes)
        for method in context.methods or ()
    }


def test_every_route_is_in_one_list(routes: set[Route]) -> None:
    lists = [listed(text) for text in (PUBLIC, KEYED, INFERRING, SURVEYING, MANAGING)]
    assert sorted(routes) == sorted(route for each in lists for route in each)


def test_every_route_is_described_save_those_for_browsers(
    server: Gateway, routes: set[Route]
) -> None:
    headers = {"authorization": "Bearer secret"}
    paths = server.client.get("/openapi.json", headers=headers).json()["paths"]
    described = {(method.upper(), path) for path, methods in paths.items() for method in methods}
    named = {(method, path.replace(":path", "")) for method, path in routes}
    assert described <= named
    assert {path for _, path in named - described} == {
        *("/", "/assets/{name}", "/enter", "/docs", "/openapi.json"),
    }


def asked(client: httpx2.Client, route: Route, key: str | None) -> httpx2.Response:
    """With a body that no route takes: those that are let in complain of it, and do nothing."""
    method, path = route
    path = re.sub(r"\{[^}]*\}", "0" * 32, path)
    headers = {"content-type": "application/json"}
    if key is not None:
        headers["authorization"] = f"Bearer {key}"
    return client.request(method, path, headers=headers, content=b'{"no": "such"}')


def let_in(response: httpx2.Response, route: Route) -> bool:
    """By the guard; what a route itself refuses is another matter."""
    if route[0] == "HEAD":
        return response.status_code not in (401, 403)
    return "API key is needed" not in response.text and "may not do this" not in response.text


def test_without_a_key_only_the_public_ones_answer(server: Gateway, routes: set[Route]) -> None:
    for route in routes:
        for key in (None, "fh_0123456789ab_" + "0" * 48):
            response = asked(server.client, route, key)
            assert let_in(response, route) is (route in listed(PUBLIC)), route
            assert route in listed(PUBLIC) or response.status_code == 401, route


@pytest.mark.parametrize(
    ("terms", "lists"),
    [
        (Terms(INFER), (PUBLIC, KEYED, INFERRING, SURVEYING)),
        (Terms(INFER, models=("nothing*",)), (PUBLIC, KEYED, INFERRING)),
        (Terms(MANAGE), (PUBLIC, KEYED, SURVEYING, MANAGING)),
        (Terms(INFER | MANAGE), (PUBLIC, KEYED, INFERRING, SURVEYING, MANAGING)),
    ],
    ids=["infer", "infer some", "manage", "both"],
)
def test_each_scope_reaches_its_own(
    server: Gateway, home: Path, routes: set[Route], terms: Terms, lists: tuple[str, ...]
) -> None:
    key = issued(home, "-".join(["key", *sorted(terms.scopes), str(len(terms.models))]), terms)
    open_to = set().union(*map(listed, lists))
    for route in routes:
        response = asked(server.client, route, key)
        assert let_in(response, route) is (route in open_to), route
        assert route in open_to or response.status_code == 403, route


def test_where_there_is_nothing_nobody_is_refused_for_it(server: Gateway, home: Path) -> None:
    key = issued(home, "lost")
    response = asked(server.client, ("POST", "/chat/completions"), key)
    assert response.status_code == 404
    assert "nothing at this address" in response.text
    for path in ("/freehold/v1/keys/", "//freehold/v1/keys", "/v1/models/../../freehold/v1/keys"):
        response = asked(server.client, ("GET", path), key)  # where a redirect leads, it is 403
        assert response.status_code in (307, 403, 404), path
        assert "digest" not in response.text


def test_a_limited_key_sees_no_model_but_its_own(server: Gateway, home: Path, tiny: Path) -> None:
    """Its refusal is word for word that for a model that is not here."""
    assert (
        server.client.post(
            "/v1/completions",
            headers={"authorization": "Bearer secret"},
            json={"model": "tiny", "prompt": "Hello"},
        ).status_code
        == 200
    )
    others = {"authorization": f"Bearer {issued(home, 'others', Terms(INFER, models=('qwen*',)))}"}
    own = {"authorization": f"Bearer {issued(home, 'own', Terms(INFER, models=('ti?y',)))}"}
    ask = server.client.request
    bodies: dict[str, dict[str, object]] = {
        "/v1/chat/completions": {"messages": [{"role": "user", "content": "Hello"}]},
        "/v1/completions": {"prompt": "Hello"},
        "/v1/responses": {"input": "Hello"},
        "/v1/messages": {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 5},
        "/v1/messages/count_tokens": {"messages": [{"role": "user", "content": "Hello"}]},
        "/v1/embeddings": {"input": "Hello"},
        "/api/generate": {"prompt": "Hello"},
        "/api/chat": {"messages": [{"role": "user", "content": "Hello"}]},
        "/api/embed": {"input": "Hello"},
        "/api/embeddings": {"prompt": "Hello"},
        "/api/show": {},
        "/tokenize": {"content": "Hello"},
        "/detokenize": {"tokens": [1]},
        "/apply-template": {"messages": [{"role": "user", "content": "Hello"}]},
    }
    for path, body in bodies.items():
        for name in ("tiny", str(tiny)):
            hidden = ask("POST", path, headers=others, json={**body, "model": name})
            absent = ask("POST", path, headers=others, json={**body, "model": name + "x"})
            assert hidden.status_code == absent.status_code == 404, path
            assert hidden.text == absent.text.replace(name + "x", name), path
        assert ask("POST", path, headers=own, json={**body, "model": "tiny"}).status_code != 404
    for path in ("/v1/models/tiny", "/tokenizer_info?model=tiny"):
        assert ask("GET", path, headers=others).status_code == 404
        assert ask("GET", path, headers=own).status_code == 200
    listings = ("/v1/models", "/api/tags", "/api/ps", "/freehold/v1/models/loaded", "/healthz")
    for path in (*listings, "/freehold/v1/activity"):
        assert "tiny" not in ask("GET", path, headers=others).text, path
        assert "tiny" in ask("GET", path, headers=own).text, path
    assert "tiny" not in ask("GET", "/healthz").text
