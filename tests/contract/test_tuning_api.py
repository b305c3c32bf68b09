"""Tuning in a running server: begun, watched, stopped, gone on with, and its result read."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from freehold.engines.scripted import Script
from freehold.runtime.access.caller import Terms
from freehold.runtime.tuned import Tuned
from tests.support.gateway import Gateway, gateway, wait_for
from tests.support.keyed import INFER, issued, sending
from tests.support.tiny_model import write_tiny_llama

pytestmark = pytest.mark.native

TUNING = "/freehold/v1/tuning"
RESULT = f"{TUNING}/result?model=tiny"
LONG = {"model": "tiny", "minutes": 30, "depth": 64, "users": 1, "formats": []}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(
        tmp_path_factory.mktemp("models") / "tiny.gguf", embedding=256, context_length=2048
    )


@pytest.fixture
def server(tmp_path: Path, tiny: Path) -> Iterator[Gateway]:
    with gateway(tmp_path, (tiny,), script=lambda _: Script(), threads=1, parallel=1) as running:
        yield running


def search(server: Gateway) -> dict[str, Any]:
    found = server.client.get(TUNING).json()["search"]
    assert isinstance(found, dict)
    return found


def until(server: Gateway, wanted: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    wait_for(lambda: wanted(search(server)), 120)
    return search(server)


def asked(server: Gateway) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = server.client.get("/freehold/v1/activity").json()["requests"]
    return found


def searching() -> list[psutil.Process]:
    """The children of this process that search. A zombie has ended."""
    found = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.ZombieProcess, psutil.NoSuchProcess):
            if child.is_running() and "--events" in child.cmdline():
                found.append(child)
    return found


def test_begun_stopped_gone_on_with_and_kept(server: Gateway) -> None:
    assert server.client.get(TUNING).json() == {"search": None}
    assert server.client.get(RESULT).json()["tuning"] is None
    assert server.chat().status_code == 200  # it is in memory now
    begun = server.client.post(TUNING, json=LONG)
    assert begun.status_code == 200, begun.text
    assert begun.json()["unloaded"] is True
    assert server.client.get("/freehold/v1/models/loaded").json()["models"] == []
    refused = server.client.post(TUNING, json=LONG)
    assert refused.status_code == 503
    assert "tuning tiny already" in refused.text
    assert refused.json()["error"]["values"] == {"model": "tiny"}
    seen = until(server, lambda now: now["done"] > 0)
    assert seen["state"] == "running"
    assert seen["count"] >= seen["done"]
    assert seen["stage"]
    stopped = server.client.delete(TUNING).json()["search"]
    assert (stopped["state"], stopped["error"], stopped["seconds_left"]) == ("stopped", None, None)
    # Whoever goes on with it need not have begun it.
    assert {"model": "tiny", **stopped["wishes"]} == {**LONG, "max_loss": 0.02}
    assert searching() == []
    assert server.client.get(RESULT).json()["begun"] is True

    again = server.client.post(TUNING, json={**LONG, "minutes": 0.1})
    assert again.json()["unloaded"] is False
    ended = until(server, lambda now: now["state"] != "running")
    assert (ended["state"], ended["error"]) == ("done", None)
    assert "tuning.goes_on" in [note["code"] for note in ended["notes"]]
    told = server.client.get(RESULT).json()
    assert told["begun"] is False
    result = told["tuning"]
    assert result["objection"] is None
    assert (result["depth"], result["users"], result["max_loss"]) == (64, 1, 0.02)
    points = [result["baseline"], *result["points"]]
    assert sum(point["chosen"] for point in points) == 1
    assert result["baseline"]["gain"] == 1
    assert result["baseline"]["loss"] is None
    for point in points:
        assert point["tokens_per_second"]["prefill"] > 0
    # It is the result that the command kept, and the next load runs by it.
    kept = Tuned(server.runtime.settings.home)
    digest = server.runtime.library.local(str(server.runtime.manager.describe("tiny").path)).digest
    assert kept.get(digest) is not None


def test_a_model_that_is_used_is_not_measured(tmp_path: Path, tiny: Path) -> None:
    endless = Script(pieces=("word ",) * 100_000, token_seconds=0.01)
    with gateway(tmp_path, (tiny,), script=lambda _: endless) as server:
        body = {"model": "tiny", "prompt": "Go", "max_tokens": 1500}
        with server.begin("/v1/completions", body):
            wait_for(lambda: [each for each in asked(server) if each["completion_tokens"]])
            refused = server.client.post(TUNING, json=LONG)
            assert refused.status_code == 503
            assert "is being used" in refused.text
            assert server.client.get(TUNING).json() == {"search": None}


def test_what_the_command_refuses_is_said(server: Gateway) -> None:
    for wrong, word in (({"formats": ["Q9_9"]}, "Q9_9"), ({"depth": 100_000}, "was trained for")):
        assert server.client.post(TUNING, json={**LONG, **wrong}).status_code == 200
        ended = until(server, lambda now: now["state"] != "running")
        assert ended["state"] == "failed"
        assert word in ended["error"]
    assert server.client.post(TUNING, json={**LONG, "minutes": 0}).status_code == 400
    assert server.client.post(TUNING, json={**LONG, "model": "absent"}).status_code == 404
    assert server.client.get(f"{TUNING}/result?model=absent").status_code == 404


def test_a_search_that_dies_is_said_to_have(server: Gateway) -> None:
    server.client.post(TUNING, json=LONG)
    until(server, lambda now: now["done"] > 0)
    (child,) = searching()
    os.kill(child.pid, signal.SIGKILL)
    ended = until(server, lambda now: now["state"] != "running")
    assert ended["state"] == "failed"
    assert "was ended by SIGKILL" in ended["error"]


def test_it_ends_with_the_server(tmp_path: Path, tiny: Path) -> None:
    with gateway(tmp_path, (tiny,), script=lambda _: Script()) as server:
        server.client.post(TUNING, json=LONG)
        until(server, lambda now: now["done"] > 0)
        (child,) = searching()
    wait_for(lambda: not child.is_running())
    assert list((tmp_path / "state" / "tuning").glob("*.json"))  # what was measured is kept


def test_only_who_manages_may_begin_one(tmp_path: Path, tiny: Path) -> None:
    with (
        gateway(tmp_path, (tiny,), script=lambda _: Script(), api_key="a-secret-of-ours") as server,
        sending(server.url, issued(tmp_path, "ann", Terms(INFER))) as ann,
    ):
        assert ann.post(TUNING, json=LONG).status_code == 403
        assert ann.delete(TUNING).status_code == 403
        assert ann.get(RESULT).status_code == 200
