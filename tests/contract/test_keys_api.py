"""API keys over HTTP and on the command line, against a running server."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import ollama
import openai
import pytest

from freehold.api.server import bind
from freehold.domain.errors import InvalidSetting
from freehold.domain.settings import resolve
from freehold.engines.scripted import Script
from freehold.runtime.access.caller import Terms
from tests.support.command import freehold
from tests.support.gateway import Gateway, Scripts, gateway, wait_for
from tests.support.keyed import INFER, issued, revoked, sending

KEYS = "/freehold/v1/keys"
ENDLESS = Script(pieces=("on ",) * 10_000, token_seconds=0.02)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def scripts() -> Scripts:
    return Scripts()


@pytest.fixture(scope="module")
def keyed(home: Path, tiny: Path, scripts: Scripts) -> Iterator[Gateway]:
    with gateway(home, (tiny,), script=scripts, api_key="secret", parallel=2, queue=2) as running:
        running.client.headers["authorization"] = "Bearer secret"
        yield running


@pytest.fixture
def server(keyed: Gateway, scripts: Scripts) -> Gateway:
    scripts.reset()
    return keyed


def test_a_key_is_made_used_counted_and_revoked(server: Gateway) -> None:
    made = server.client.post(KEYS, json={"name": "ann", "rate": 100_000, "expires": "30d"})
    assert made.status_code == 200
    key = made.json().pop("key")
    with sending(server.url, key) as ann:
        assert ann.post(KEYS, json={"name": "bob"}).status_code == 403
        answer = ann.post("/v1/completions", json={"model": "tiny", "prompt": "Hello"}).json()
        assert ann.get("/v1/models").status_code == 200
        (used,) = [
            line
            for line in server.client.get(f"{KEYS}/usage").json()["data"]
            if line["name"] == "ann"
        ]
        assert used["requests"] == 1
        assert used["prompt_tokens"] == answer["usage"]["prompt_tokens"] > 0
        assert used["completion_tokens"] == answer["usage"]["completion_tokens"] > 0
        listed = server.client.get(KEYS)
        assert key not in listed.text
        assert {**made.json(), "key": ""} == {**listed.json()["data"][0], "key": ""}
        assert server.client.delete(f"{KEYS}/ann").json()["state"] == "revoked"
        assert ann.get("/v1/models").status_code == 401
    assert server.client.delete(f"{KEYS}/ann").status_code == 404


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"name": "a b"}, "name"),
        ({"name": "environment"}, "environment"),
        ({"name": "x", "scopes": []}, "scopes"),
        ({"name": "x", "scopes": ["manage"], "models": ["m"]}, "manage"),
        ({"name": "x", "rate": 0}, "rate"),
        ({"name": "x", "expires": "yesterday"}, "yesterday"),
        ({"name": "x", "expires": "1999-01-01"}, "expired"),
        ({"name": "x", "secret": "mine"}, "secret"),
    ],
)
def test_a_key_that_makes_no_sense_is_refused(
    server: Gateway, body: dict[str, object], said: str
) -> None:
    refused = server.client.post(KEYS, json=body)
    assert refused.status_code == 400
    assert said in refused.text


def test_the_command_line_tells_a_running_server(server: Gateway, home: Path) -> None:
    created = freehold(home, "key", "create", "--name", "carol", "--models", "ti*")
    key = created.out.strip()
    assert created.status == 0
    assert "once" in created.err
    with sending(server.url, key) as carol:
        assert [model["id"] for model in carol.get("/v1/models").json()["data"]] == ["tiny"]
        listed = freehold(home, "key", "list", "--json")
        assert key not in listed.out
        assert "carol" in [line["name"] for line in listed.json]
        assert freehold(home, "key", "revoke", "carol").status == 0
        assert carol.get("/v1/models").status_code == 401
    assert freehold(home, "key", "revoke", "carol").status == 3
    assert freehold(home, "key", "create", "--name", "x", "--expires", "soon").status == 2


def test_usage_is_written_down_for_the_command_line(tiny: Path, tmp_path: Path) -> None:
    key = issued(tmp_path, "ann")
    with (
        gateway(tmp_path, (tiny,), script=lambda _: Script(), require_keys=True) as server,
        sending(server.url, key) as ann,
    ):
        assert ann.get("/v1/models", headers={"authorization": "none"}).status_code == 401
        for _ in range(2):
            assert server.client.get("/v1/models").status_code == 401
            asked = {"model": "tiny", "prompt": "Hello", "max_tokens": 5}
            assert ann.post("/v1/completions", json=asked).status_code == 200
    (line,) = freehold(tmp_path, "key", "usage", "ann", "--json").json
    assert line["requests"] == 2
    assert "ann" in freehold(tmp_path, "key", "usage", "--daily").out


@pytest.mark.parametrize("flags", [{"host": "0.0.0.0"}, {"require_keys": True}])
def test_a_server_that_needs_keys_does_not_start_without_any(
    tmp_path: Path, flags: dict[str, object]
) -> None:
    settings = resolve({"home": str(tmp_path), "port": 0, **flags}, environ={})
    with pytest.raises(InvalidSetting, match="no API key") as refused:
        bind(settings)
    assert refused.value.hint is not None
    assert "freehold key create" in refused.value.hint
    issued(tmp_path, "short", expires=time.time() + 3600)
    bind(settings).close()
    revoked(tmp_path, "short")
    with pytest.raises(InvalidSetting):
        bind(settings)


def test_without_keys_a_key_still_has_its_terms(tiny: Path, tmp_path: Path) -> None:
    """And what is no key of ours is passed over: many clients must send something."""
    key = issued(tmp_path, "ann", Terms(INFER, models=("qwen*",)))
    with (
        gateway(tmp_path, (tiny,), script=lambda _: Script()) as server,
        sending(server.url, key) as ann,
        sending(server.url, "no-key-needed") as anybody,
    ):
        assert ann.get("/v1/models").json()["data"] == []
        assert ann.get(KEYS).status_code == 403
        assert len(anybody.get("/v1/models").json()["data"]) == 1
        assert anybody.get(KEYS).status_code == 200


# Limits, in each dialect's words

ASKED: dict[str, dict[str, object]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "Hello"}]},
    "/v1/messages": {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 9},
    "/api/chat": {"messages": [{"role": "user", "content": "Hello"}]},
    "/v1/embeddings": {"input": "Hello"},
}


def reason(path: str, response: httpx2.Response) -> tuple[str, str]:
    """The kind of error and its sentence, where the dialect has them."""
    error = response.json()["error"]
    if path.startswith("/api/"):
        return "", error
    return error["type"], error["message"]


@contextlib.contextmanager
def occupied(server: Gateway, scripts: Scripts, count: int) -> Iterator[None]:
    """So many requests that take long, until this is left."""
    scripts.now = ENDLESS
    body: dict[str, object] = {"model": "tiny", "prompt": "Hello", "stream": True}
    with contextlib.ExitStack() as held:
        for _ in range(count):
            held.enter_context(contextlib.closing(server.begin("/v1/completions", body, "secret")))
        yield


@pytest.mark.parametrize("path", ASKED)
def test_a_rate_that_is_used_up_is_said_in_the_dialects_words(
    server: Gateway, home: Path, path: str
) -> None:
    key = issued(home, "rated" + path.replace("/", "-"), Terms(INFER, rate=1))
    with sending(server.url, key) as client:
        first = client.post("/v1/completions", json={"model": "tiny", "prompt": "Hello"})
        assert first.status_code == 200
        refused = client.post(path, json={"model": "tiny", **ASKED[path]})
    assert refused.status_code == 429
    kind, sentence = reason(path, refused)
    assert kind in ("rate_limit_error", "")
    assert "1 tokens a minute" in sentence
    taken = sum(first.json()["usage"][name] for name in ("prompt_tokens", "completion_tokens"))
    assert taken > 1
    assert 1 <= int(refused.headers["retry-after"]) <= 60 * taken


def test_clients_hear_of_limits_as_they_expect(server: Gateway, home: Path) -> None:
    key = issued(home, "limited", Terms(INFER, rate=1))
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0) as official:
        official.completions.create(model="tiny", prompt="Hello")
        with pytest.raises(openai.RateLimitError):
            official.completions.create(model="tiny", prompt="Hello")
    with (
        ollama.Client(server.url, headers={"authorization": f"Bearer {key}"}) as client,
        pytest.raises(ollama.ResponseError, match="tokens a minute"),
    ):
        client.generate("tiny", "Hi")


def queue_of(server: Gateway) -> tuple[int, int]:
    for queue in server.runtime.admission.queues():
        return queue.running, queue.waiting
    return 0, 0


def test_a_full_queue_is_429_and_what_waits_is_served(server: Gateway, scripts: Scripts) -> None:
    with occupied(server, scripts, 5):  # two run, one looks ahead, two wait
        wait_for(lambda: queue_of(server) == (3, 2))
        for path, body in ASKED.items():
            refused = server.client.post(path, json={"model": "tiny", **body})
            assert refused.status_code == 429, path
            assert int(refused.headers["retry-after"]) >= 1
            assert "wait for this model" in reason(path, refused)[1]
        streamed = server.client.post(
            "/v1/chat/completions",
            json={"model": "tiny", "stream": True, **ASKED["/v1/chat/completions"]},
        )
        assert streamed.status_code == 429
    wait_for(lambda: queue_of(server) == (0, 0))
    scripts.reset()
    assert server.chat().status_code == 200


def test_a_key_with_one_request_under_way_waits_for_its_end(
    server: Gateway, home: Path, scripts: Scripts
) -> None:
    key = issued(home, "single", Terms(INFER, concurrency=1))
    scripts.now = ENDLESS
    with sending(server.url, key) as client:
        body = {"model": "tiny", "prompt": "Hello", "stream": True}
        with client.stream("POST", "/v1/completions", json=body) as stream:
            lines = stream.iter_lines()
            next(lines)
            scripts.reset()
            refused = client.post("/v1/completions", json={"model": "tiny", "prompt": "Hello"})
            assert refused.status_code == 429
            assert json.loads(refused.text)["error"]["code"] == "too_many_at_once"
            assert server.chat().status_code == 200  # nobody else is concerned
        wait_for(lambda: queue_of(server) == (0, 0))
        asked = {"model": "tiny", "prompt": "Hello"}
        assert client.post("/v1/completions", json=asked).status_code == 200


def test_many_prompts_of_one_request_have_one_turn(server: Gateway) -> None:
    """More of them than places: were each to wait for a turn of its own, none would come."""
    body = {"model": "tiny", "prompt": ["Hello"] * 9, "n": 2, "max_tokens": 3}
    answered = server.client.post("/v1/completions", json=body)
    assert answered.status_code == 200
    assert len(answered.json()["choices"]) == 18
    assert queue_of(server) == (0, 0)
