"""Several models in one server: which are in memory, who waits, what is told of it."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from freehold.api import stream
from freehold.cli.main import cli
from freehold.domain.errors import FreeholdError, InvalidRequest, NotFound, ServerUnreachable
from freehold.engines.scripted import Script
from tests.support.gateway import Gateway, Scripts, gateway, wait_for
from tests.support.routes import ANSWERING
from tests.support.tiny_model import write_tiny_llama

pytestmark = pytest.mark.native  # the text child tokenises with llama.cpp

# MiB; each of the models is expected to need 63, most of it for its process.
ROOM_FOR_ONE = 100
LOADED = "/freehold/v1/models/loaded"


@pytest.fixture(scope="module")
def other(tiny: Path) -> Path:
    return write_tiny_llama(tiny.with_name("other.gguf"), metadata={"general.name": "other"})


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def shared(home: Path, tiny: Path, other: Path, scripts: Scripts) -> Iterator[Gateway]:
    flags = {"context": 256, "memory_budget": ROOM_FOR_ONE, "deadline": 5}
    with gateway(home, (tiny, other), script=scripts, **flags) as running:
        yield running


@pytest.fixture
def alone(server: Gateway) -> Gateway:
    """With nothing in memory."""
    wait_for(lambda: not any(unload(server, name)["left"] for name in ("tiny", "other")))
    return server


def post(server: Gateway, action: str, **body: Any) -> Any:
    response = server.client.post(f"/freehold/v1/models/{action}", json=body)
    assert response.status_code == 200, response.text
    return response.json()


def unload(server: Gateway, name: str) -> Any:
    return post(server, "unload", model=name)


def loaded(server: Gateway) -> dict[str, Any]:
    models = server.client.get(LOADED).json()["models"]
    return {model["model"]: model for model in models}


def lifetime(model: dict[str, Any]) -> float:
    """Seconds from now until it expires."""
    return (datetime.fromisoformat(model["expires"]) - datetime.now(UTC)).total_seconds()


def test_loading_and_unloading_are_seen(alone: Gateway) -> None:
    assert loaded(alone) == {}
    told = post(alone, "load", model="tiny", keep_alive="10m")
    assert loaded(alone) == {"tiny": told}
    assert (told["state"], told["users"], told["waiting"], told["pinned"]) == ("ready", 0, 0, False)
    assert told["context"] == 256
    assert told["memory"]["expected_bytes"] > 50e6
    assert told["memory"]["measured_bytes"] is None  # a scripted engine has no process
    assert 590 < lifetime(told) <= 601
    assert alone.client.get(LOADED).json()["budget_bytes"] == ROOM_FOR_ONE * 1024**2
    assert unload(alone, "tiny") == {"model": "tiny", "left": None}
    assert loaded(alone) == {}


@pytest.mark.parametrize(
    ("action", "body", "status", "field"),
    [
        ("load", {"model": "absent"}, 404, None),
        ("unload", {"model": "absent"}, 404, None),
        ("pin", {"model": "absent", "pinned": False}, 404, None),
        ("load", {"model": "tiny", "keep_alive": "soon"}, 400, "keep_alive"),
        ("load", {"model": "tiny", "keep_alive": True}, 400, "keep_alive"),
        ("load", {"model": "tiny", "forever": True}, 400, "forever"),
        ("unload", {}, 400, "model"),
    ],
)
def test_what_is_wrong_is_named(
    server: Gateway, action: str, body: dict[str, Any], status: int, field: str | None
) -> None:
    response = server.client.post(f"/freehold/v1/models/{action}", json=body)
    assert response.status_code == status
    assert response.json()["error"]["param"] == field


@pytest.mark.parametrize(
    ("keep_alive", "seconds"), [("5m", 300), (300, 300), ("1h30m", 5400), (-1, None), ("-1", None)]
)
def test_keep_alive_of_ollamas_clients(
    server: Gateway, keep_alive: object, seconds: float | None
) -> None:
    body = {"model": "tiny", "prompt": "Hello", "stream": False, "keep_alive": keep_alive}
    for fields in ({}, {"prompt": ""}):
        assert server.client.post("/api/generate", json={**body, **fields}).status_code == 200
        (model,) = server.client.get("/api/ps").json()["models"]
        expires = datetime.fromisoformat(model["expires_at"])
        if seconds is None:
            assert expires.year == 9999
        else:
            assert seconds - 10 < (expires - datetime.now(UTC)).total_seconds() <= seconds


def test_a_short_life_ends(server: Gateway) -> None:
    body = {"model": "tiny", "input": "Hello", "keep_alive": "1ms"}
    assert server.client.post("/api/embed", json=body).status_code == 200
    engine = server.engines[-1]
    wait_for(lambda: "tiny" not in loaded(server))
    assert engine.closed


def test_one_leaves_for_the_other(alone: Gateway) -> None:
    for name in ("tiny", "other", "tiny"):
        assert alone.chat(model=name).status_code == 200
        assert list(loaded(alone)) == [name]
    assert alone.engines[-2].closed


def test_two_crowds_are_all_answered(alone: Gateway) -> None:
    outcomes: list[int] = []

    def ask(name: str) -> None:
        for _ in range(4):
            outcomes.append(alone.chat(model=name).status_code)

    made = len(alone.engines)
    crowd = [threading.Thread(target=ask, args=(name,)) for name in ("tiny", "other") * 3]
    for each in crowd:
        each.start()
    for each in crowd:
        each.join()
    assert outcomes == [200] * 24
    assert len(alone.engines) - made <= 4
    assert len(loaded(alone)) == 1


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/api/chat"])
def test_who_waits_too_long_hears_why(tiny: Path, other: Path, tmp_path: Path, path: str) -> None:
    scripts = Scripts()
    scripts.now = Script(first_token_seconds=60)
    flags = {"context": 256, "memory_budget": ROOM_FOR_ONE, "deadline": 1}
    with gateway(tmp_path, (tiny, other), script=scripts, **flags) as server:
        body = {"model": "tiny", **ANSWERING[path], "stream": False}
        slow = threading.Thread(target=server.client.post, args=(path,), kwargs={"json": body})
        slow.start()
        wait_for(lambda: server.engines and server.engines[-1].seen)
        response = server.client.post(path, json={**body, "model": "other"})
        slow.join()
        assert response.status_code == 503
        assert "other had no room beside tiny" in response.text


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/api/chat"])
def test_what_never_fits_is_refused_with_both_numbers(
    tiny: Path, tmp_path: Path, path: str
) -> None:
    with gateway(tmp_path, (tiny,), script=Scripts(), memory_budget=50) as server:
        response = server.client.post(path, json={"model": "tiny", **ANSWERING[path]})
        assert response.status_code == 503
        assert "GB of memory, and 0.05 GB are available to it" in response.text
        assert server.engines == []


def test_pinned_models_stay(alone: Gateway) -> None:
    assert post(alone, "load", model="tiny", pin=True, keep_alive=0)["pinned"]
    refused = alone.chat(model="other")
    assert refused.status_code == 503
    assert "pinned (tiny)" in refused.json()["error"]["message"]
    body = {"model": "tiny", "prompt": "", "keep_alive": 0}
    assert "pinned" in alone.client.post("/api/generate", json=body).json()["error"]
    assert post(alone, "load", model="tiny", keep_alive="5m")["pinned"]
    assert not post(alone, "pin", model="tiny", pinned=False)["pinned"]
    assert alone.chat(model="other").status_code == 200
    assert post(alone, "pin", model="tiny", pinned=False) is None


def test_a_stream_is_alive_while_its_model_loads(
    alone: Gateway, scripts: Scripts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "LOADING_SECONDS", 0.02)
    scripts.now = Script(load_seconds=0.5)
    body = {"model": "tiny", "stream": True, **ANSWERING["/v1/chat/completions"]}
    with alone.client.stream("POST", "/v1/chat/completions", json=body) as response:
        lines = response.iter_lines()
        assert next(lines) == ": keep-alive"
        (standing,) = loaded(alone).values()
        assert (standing["state"], standing["waiting"]) == ("loading", 1)
        assert list(lines)[-2:] == ["data: [DONE]", ""]


def test_ready_once_the_pinned_models_are_loaded(tiny: Path, tmp_path: Path) -> None:
    scripts = Scripts()
    scripts.now = Script(load_seconds=0.5)
    with gateway(tmp_path, (tiny,), script=scripts, pin="tiny") as server:
        early = server.client.get("/readyz")
        assert (early.status_code, early.json()) == (
            503,
            {"ready": False, "reason": "Still to be loaded: tiny."},
        )
        assert server.client.get("/healthz").status_code == 200
        wait_for(lambda: server.client.get("/readyz").status_code == 200)
        (model,) = loaded(server).values()
        assert (model["pinned"], model["expires"]) == (True, None)


# The commands


@pytest.fixture
def run(home: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("FREEHOLD_HOME", str(home))

    def run(*words: str) -> Result:
        result = CliRunner().invoke(cli, words)
        if isinstance(result.exception, FreeholdError):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result

    return run


def test_load_ps_and_stop(alone: Gateway, run: Any) -> None:
    assert "No model is in memory" in run("ps").stderr
    assert run("load", "tiny", "--keep-alive", "10m").stderr == "tiny is loaded.\n"
    heading, row = run("ps").stdout.splitlines()
    assert heading.split()[5] == "PROFILE"
    assert heading.split()[:4] == ["NAME", "STATE", "MEASURED", "EXPECTED"]
    assert row.startswith("tiny  ready")
    assert row.endswith(("in 10m", "in 9m59s"))
    (listed,) = json.loads(run("ps", "--json").stdout)
    assert listed["server"] == alone.url
    assert [model["model"] for model in listed["models"]] == ["tiny"]
    assert run("load", "tiny", "--pin").stderr == "tiny is loaded. It is pinned.\n"
    assert "never (pinned)" in run("ps").stdout
    assert run("stop", "tiny").stderr == "tiny is not in memory any more.\n"
    assert loaded(alone) == {}


def test_stopping_what_is_in_use(alone: Gateway, scripts: Scripts, run: Any) -> None:
    scripts.now = Script(first_token_seconds=60)
    body = {"model": "tiny", **ANSWERING["/v1/chat/completions"]}
    with contextlib.closing(alone.begin("/v1/chat/completions", body)):
        wait_for(lambda: alone.engines and alone.engines[-1].seen)
        engine = alone.engines[-1]
        assert "in use by 1 request, and leaves" in run("stop", "tiny").stderr
        assert not engine.closed
    wait_for(lambda: engine.closed)


def test_commands_asked_wrongly(
    server: Gateway, run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(NotFound, match="absent"):
        run("load", "absent")
    with pytest.raises(InvalidRequest, match="no duration"):
        run("load", "tiny", "--keep-alive", "soon")
    with pytest.raises(InvalidRequest, match="No server of this store runs at"):
        run("stop", "tiny", "--server", "http://127.0.0.1:1")
    monkeypatch.setenv("FREEHOLD_HOME", str(tmp_path))
    for words in (("ps",), ("stop", "tiny"), ("load", "tiny")):
        with pytest.raises(ServerUnreachable, match="No server of this store is running"):
            run(*words)
