"""Every error of every route, in the shape of its dialect."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from freehold.api.guard import MAX_BODY_BYTES
from freehold.domain.error_values import CARRIED
from freehold.engines.scripted import Script
from tests.support.gateway import Gateway, gateway

pytestmark = pytest.mark.native

MESSAGES = [{"role": "user", "content": "Hello"}]
# The least that each route takes, about a model that is not there.
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": MESSAGES},
    "/v1/completions": {"prompt": "x"},
    "/v1/responses": {"input": "x"},
    "/v1/embeddings": {"input": "x"},
    "/v1/messages": {"messages": MESSAGES, "max_tokens": 5},
    "/v1/messages/count_tokens": {"messages": MESSAGES},
    "/api/generate": {"prompt": "x"},
    "/api/chat": {"messages": MESSAGES},
    "/api/embed": {"input": "x"},
    "/api/embeddings": {"prompt": "x"},
    "/api/show": {},
    "/api/pull": {},
    "/api/copy": {},
    "/api/delete": {},
    "/tokenize": {"content": "x"},
    "/detokenize": {"tokens": []},
    "/apply-template": {"messages": MESSAGES},
}
WITHOUT_BODIES = {
    *("/healthz", "/readyz", "/metrics"),
    *("/v1/models", "/v1/models/{name}", "/v1/responses/{response_id}"),
    *("/api/version", "/api/tags", "/api/ps", "/tokenizer_info"),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Iterator[Gateway]:
    with gateway(
        tmp_path_factory.mktemp("home"), (tiny,), script=lambda _: Script(), offline=True
    ) as running:
        yield running


def check(path: str, response: httpx2.Response, status: int) -> None:
    assert response.status_code == status, (path, response.text)
    body = response.json()
    if path.startswith("/v1/messages"):
        assert set(body) == {"type", "error"}
        assert body["type"] == "error"
        assert set(body["error"]) == {"type", "message"}
        message = body["error"]["message"]
    elif path.startswith("/api/"):
        assert set(body) == {"error", "code", "values"}
        message = body["error"]
    else:
        assert set(body) == {"error"}
        assert set(body["error"]) == {"message", "type", "param", "code", "values"}
        message = body["error"]["message"]
    assert isinstance(message, str)
    assert len(message) > 10
    told = body if path.startswith("/api/") else body["error"]
    if "values" in told:
        assert set(told["values"]) <= {*CARRIED.get(told["code"], ()), "field"}


def described(server: Gateway) -> dict[str, dict[str, Any]]:
    paths: dict[str, dict[str, Any]] = server.client.get("/openapi.json").json()["paths"]
    return paths


def test_no_route_is_forgotten_here(server: Gateway) -> None:
    """Ours, which belong to no dialect, are told of in tests of their own."""
    dialects = {path for path in described(server) if not path.startswith("/freehold/")}
    assert dialects == set(BODIES) | WITHOUT_BODIES


@pytest.mark.parametrize("path", BODIES)
def test_bodies(server: Gateway, path: str) -> None:
    method = "DELETE" if path == "/api/delete" else "POST"
    lost = {"source": "nowhere:1b", "destination": "x"} if path == "/api/copy" else None
    body = {**BODIES[path], **(lost or {"model": "nowhere:1b"})}

    def send(content: bytes, **headers: str) -> httpx2.Response:
        given = {"content-type": "application/json", **headers}
        return server.client.request(method, path, content=content, headers=given)

    whole = json.dumps(body).encode()
    check(path, send(whole), 404)
    check(path, send(json.dumps({**body, "nonsense": 1}).encode()), 400)
    check(path, send(b"{}"), 400)
    check(path, send(b'{"model": '), 400)
    check(path, send(b"[1]"), 400)
    check(path, send(b"\xff\xfe"), 400)
    check(path, send(b"x" * (MAX_BODY_BYTES + 1)), 413)
    check(path, send(whole, origin="http://evil.example"), 403)
    check(path, send(whole, host="evil.example"), 403)
    if method == "POST":
        check(path, send(whole, **{"content-type": "text/plain"}), 415)


def test_what_an_error_is_about(server: Gateway) -> None:
    def values(path: str, **body: object) -> dict[str, Any]:
        said = server.client.post(path, json=body).json()
        told: dict[str, Any] = said["values"] if "values" in said else said["error"]["values"]
        return told

    asked = {"messages": MESSAGES, "model": "tiny"}
    for path in ("/v1/chat/completions", "/api/chat"):
        assert values(path, messages=MESSAGES, model="tinny")["model"] == "tinny"
        assert values(path, **asked, nonsense=1) == {"field": "nonsense"}
    hot = values("/v1/chat/completions", **asked, temperature=3)
    assert hot == {"field": "temperature", "most": 2}
    long = [{"role": "user", "content": "word " * 20_000}]
    too_long = values("/v1/chat/completions", model="tiny", messages=long)
    assert too_long["prompt_tokens"] > too_long["context_tokens"] > 0
    assert values("/api/pull", model="qwen2.5-coder:0.5b") == {"model": "qwen2.5-coder:0.5b"}
    # Of a prompt nothing is told: not even of what is wrong in it.
    secret = values("/v1/chat/completions", model="tiny", messages=[{"role": "x", "content": "My"}])
    assert "My" not in str(secret)


def test_methods(server: Gateway) -> None:
    for path in described(server):
        check(path, server.client.request("PUT", path, json={}), 405)


def test_addresses_that_are_none(server: Gateway) -> None:
    for path in ("/v1/nothing", "/v1/messages/nothing", "/api/nothing", "/nothing"):
        check(path, server.client.get(path), 404)


def test_without_the_key(tiny: Path, tmp_path: Path) -> None:
    with gateway(tmp_path, (tiny,), script=lambda _: Script(), api_key="secret") as server:
        for path, body in BODIES.items():
            check(path, server.client.post(path, json=body), 401)


def test_a_crash_before_the_first_word(tiny: Path, tmp_path: Path) -> None:
    """Twice, so that the request is given up."""
    crash = Script(crash_after=0)
    with gateway(tmp_path, (tiny,), script=lambda _: crash) as server:
        for path in ("/v1/chat/completions", "/v1/messages", "/api/chat"):
            response = server.client.post(path, json={**BODIES[path], "model": "tiny"})
            assert response.status_code in (500, 503)
            check(path, response, response.status_code)
