"""What goes on, told to those whose it is; and a request ended from outside, in its own dialect."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

from freehold.engines.scripted import Script
from freehold.runtime.access.caller import Terms
from tests.support.gateway import Gateway, Scripts, gateway, wait_for
from tests.support.keyed import INFER, MANAGE, issued, sending

ENDLESS = Script(pieces=("word ",) * 100_000, token_seconds=0.005)
SECRET = "a secret that nobody may see"
ACTIVITY = "/freehold/v1/activity"
ASKED = {"model": "tiny", "messages": [{"role": "user", "content": SECRET}], "max_tokens": 5000}
GENERATED = {"model": "tiny", "prompt": SECRET, "raw": True, "options": {"num_predict": 5000}}

# How each dialect is asked, as a whole and as a stream.
DIALECTS: dict[str, tuple[str, dict[str, object]]] = {
    "openai": ("/v1/chat/completions", ASKED),
    "openai completions": ("/v1/completions", {"model": "tiny", "prompt": SECRET}),
    "openai responses": ("/v1/responses", {"model": "tiny", "input": SECRET}),
    "anthropic": ("/v1/messages", ASKED),
    "ollama": ("/api/generate", GENERATED),
}


@pytest.fixture(scope="module")
def scripts() -> Scripts:
    return Scripts()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def server(home: Path, tiny: Path, scripts: Scripts) -> Iterator[Gateway]:
    with gateway(
        home, (tiny,), script=scripts, parallel=1, require_keys=True, api_key="k" * 20
    ) as g:
        g.client.headers["authorization"] = "Bearer " + "k" * 20
        yield g


@pytest.fixture(autouse=True)
def endless(scripts: Scripts) -> None:
    scripts.reset()
    scripts.now = ENDLESS


@pytest.fixture
def asking(server: Gateway) -> Iterator[ThreadPoolExecutor]:
    """Threads for clients; at the end nothing is under way any more."""
    with ThreadPoolExecutor(8) as pool:
        yield pool
        for each in requests(server.client):
            server.client.delete(f"{ACTIVITY}/{each['id']}")
    wait_for(lambda: not requests(server.client))


def requests(client: httpx2.Client) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = client.get(ACTIVITY).json()["requests"]
    return found


def writing(client: httpx2.Client) -> dict[str, Any]:
    """The one request, when it has begun to be written."""
    wait_for(lambda: [each for each in requests(client) if each["completion_tokens"]])
    (found,) = requests(client)
    return found


def last_words(dialect: str, text: str) -> dict[str, Any]:
    """The error at the end of a stream."""
    lines = [line.removeprefix("data: ") for line in text.splitlines()]
    found = [json.loads(line) for line in lines if line.startswith("{")][-1]
    assert isinstance(found, dict)
    return found


def test_nothing_that_was_said_and_everything_that_is_counted(
    server: Gateway, asking: ThreadPoolExecutor
) -> None:
    asked = asking.submit(server.chat, **ASKED)
    found = writing(server.client)
    told = server.client.get(ACTIVITY)
    assert SECRET not in told.text
    assert "word" not in told.text
    assert (found["model"], found["dialect"], found["state"]) == ("tiny", "openai", "running")
    assert found["key"] == "environment"
    assert found["prompt_tokens"] > 0
    assert found["seconds"] > 0
    body = told.json()
    (model,) = body["models"]
    assert model["completion_tokens"] >= found["completion_tokens"]
    assert model["first_tokens"] > 0
    assert (model["waiting"], model["running"]) == (0, 1)
    assert model["engine"]["sequences"] == 1
    assert 0 < body["memory"]["gateway"] < body["memory"]["total"]
    server.client.delete(f"{ACTIVITY}/{found['id']}")
    assert asked.result().status_code == 403
    wait_for(lambda: not requests(server.client))
    # What was under way has become what is over: nothing is counted twice, nothing is lost.
    (after,) = server.client.get(ACTIVITY).json()["models"]
    assert after["completion_tokens"] >= model["completion_tokens"]
    assert after["first_tokens"] == model["first_tokens"]
    assert after["answers"] == model["answers"] + 1


def test_how_far_a_prompt_has_been_read(
    server: Gateway, asking: ThreadPoolExecutor, scripts: Scripts
) -> None:
    scripts.now = Script(first_token_seconds=2.0, prompt_steps=2)
    asked = asking.submit(server.chat, **ASKED)

    def reading() -> dict[str, int] | None:
        found: dict[str, int] | None = requests(server.client)[0]["reading"]
        return found

    wait_for(lambda: requests(server.client) and reading())
    first = reading()
    assert first is not None
    assert first["tokens"] == 0
    wait_for(lambda: (reading() or first)["tokens"])
    then = reading()
    assert then is not None
    assert then == {"tokens": first["prompt_tokens"] // 2, "prompt_tokens": first["prompt_tokens"]}
    assert asked.result().json()["usage"]["prompt_tokens"] == first["prompt_tokens"]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_whole_answer_that_is_stopped_is_its_dialects_error(
    server: Gateway, asking: ThreadPoolExecutor, dialect: str
) -> None:
    path, body = DIALECTS[dialect]
    asked = asking.submit(server.client.post, path, json={**body, "stream": False})
    found = writing(server.client)
    assert found["dialect"] == dialect.split(maxsplit=1)[0]
    stopped = server.client.delete(f"{ACTIVITY}/{found['id']}")
    assert stopped.status_code == 200
    assert stopped.json()["id"] == found["id"]
    answer = asked.result()
    assert answer.status_code == 403
    assert "retry-after" not in answer.headers
    assert "stopped on the server" in answer.text
    wait_for(lambda: not requests(server.client))
    assert server.client.delete(f"{ACTIVITY}/{found['id']}").status_code == 404


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_stream_that_is_stopped_ends_with_its_dialects_error(
    server: Gateway, asking: ThreadPoolExecutor, dialect: str
) -> None:
    path, body = DIALECTS[dialect]
    asked = asking.submit(server.client.post, path, json={**body, "stream": True})
    found = writing(server.client)
    server.client.delete(f"{ACTIVITY}/{found['id']}")
    answer = asked.result()
    assert answer.status_code == 200
    assert "word" in answer.text
    assert "stopped on the server" in json.dumps(last_words(dialect, answer.text))
    engine = server.engines[-1]
    wait_for(lambda: engine.seen[-1].request_id in engine.cancelled)


def test_one_that_waits_is_stopped_and_the_others_are_not(
    server: Gateway, asking: ThreadPoolExecutor
) -> None:
    clients = [asking.submit(server.chat, **ASKED) for _ in range(3)]  # one runs, one is ahead
    wait_for(lambda: [each["state"] for each in requests(server.client)].count("waiting") == 1)
    assert len(requests(server.client)) == 3
    (waiting,) = (each for each in requests(server.client) if each["state"] == "waiting")
    (model,) = server.client.get(ACTIVITY).json()["models"]
    assert (model["waiting"], model["running"]) == (1, 2)
    server.client.delete(f"{ACTIVITY}/{waiting['id']}")
    wait_for(lambda: [client for client in clients if client.done()])
    (done,) = (client.result() for client in clients if client.done())
    assert done.status_code == 403
    assert done.json()["error"]["code"] == "request_stopped"
    wait_for(lambda: [each["state"] for each in requests(server.client)] == ["running", "running"])


def test_a_model_that_loads_is_not_waited_for(home: Path, tiny: Path, scripts: Scripts) -> None:
    scripts.now = Script(load_seconds=60)
    with (
        gateway(home / "slow", (tiny,), script=scripts) as server,
        ThreadPoolExecutor(1) as pool,
    ):
        asked = pool.submit(server.chat)
        wait_for(lambda: requests(server.client))
        (found,) = requests(server.client)
        assert (found["state"], found["key"]) == ("running", None)
        server.client.delete(f"{ACTIVITY}/{found['id']}")
        assert asked.result().status_code == 403


def test_a_key_sees_and_stops_its_own_and_one_that_manages_everybodys(
    server: Gateway, home: Path, asking: ThreadPoolExecutor
) -> None:
    with (
        sending(server.url, issued(home, "ann", Terms(INFER))) as ann,
        sending(server.url, issued(home, "ben", Terms(INFER))) as ben,
        sending(server.url, issued(home, "boss", Terms(MANAGE))) as boss,
    ):
        asked = asking.submit(ann.post, "/v1/chat/completions", json=ASKED)
        found = writing(ann)
        assert found["key"] == "ann"
        assert requests(ben) == []
        (seen,) = requests(boss)
        assert (seen["id"], seen["key"]) == (found["id"], "ann")
        hidden = ben.delete(f"{ACTIVITY}/{found['id']}")
        absent = ben.delete(f"{ACTIVITY}/{'0' * 32}")
        assert hidden.status_code == absent.status_code == 404
        assert hidden.text == absent.text.replace("0" * 32, found["id"])
        assert not asked.done()
        assert boss.delete(f"{ACTIVITY}/{found['id']}").status_code == 200
        assert asked.result().status_code == 403
        again = asking.submit(ann.post, "/v1/chat/completions", json=ASKED)
        assert ann.delete(f"{ACTIVITY}/{writing(ann)['id']}").status_code == 200
        assert again.result().json()["error"]["code"] == "request_stopped"


def test_an_answer_of_a_conversation_is_stopped_and_kept(
    server: Gateway, asking: ThreadPoolExecutor
) -> None:
    assert asking
    ask = server.client.post
    talk = "/freehold/v1/conversations"
    made = ask(talk, json={"model": "tiny"}).json()["id"]
    question = ask(f"{talk}/{made}/messages", json={"parent": None, "content": SECRET}).json()
    answer = ask(f"{talk}/{made}/answers", json={"parent": question["id"], "model": "tiny"}).json()
    found = writing(server.client)
    assert found["dialect"] == "freehold"
    server.client.delete(f"{ACTIVITY}/{found['id']}")
    wait_for(lambda: not requests(server.client))

    def kept() -> dict[str, Any]:
        messages = server.client.get(f"{talk}/{made}").json()["messages"]
        (message,) = (each for each in messages if each["id"] == answer["id"])
        assert isinstance(message, dict)
        return message

    wait_for(lambda: kept()["status"] != "running")
    assert kept()["status"] == "stopped"
    assert kept()["content"].startswith("word word")
