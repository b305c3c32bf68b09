"""Fetching in the background: nobody has to stay, everybody sees it, and somebody can stop it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from freehold.engines.scripted import Script
from tests.support.gateway import Gateway, gateway, wait_for
from tests.support.large_model import LARGE, NAME, hub_of_a_large_model
from tests.support.metered_hub import MeteredHub

pytestmark = pytest.mark.native

ADDRESS = "/freehold/v1/pulls"


@pytest.fixture
def hub() -> Iterator[MeteredHub]:
    with hub_of_a_large_model() as running:
        yield running


@pytest.fixture
def server(tiny: Path, tmp_path: Path, hub: MeteredHub) -> Iterator[Gateway]:
    with gateway(
        tmp_path, (tiny,), script=lambda _: Script(), hub_endpoint=hub.endpoint
    ) as running:
        yield running


def told(server: Gateway) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = server.client.get(ADDRESS).json()["pulls"]
    return found


def begin(server: Gateway, model: str = NAME) -> dict[str, Any]:
    response = server.client.post(ADDRESS, json={"model": model})
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def stop(server: Gateway, model: str = NAME) -> dict[str, Any]:
    response = server.client.delete(ADDRESS, params={"model": model})
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def state(server: Gateway) -> str:
    (only,) = told(server)
    found: str = only["state"]
    return found


def test_it_comes_while_nobody_waits(server: Gateway, hub: MeteredHub) -> None:
    hub.meter.hold_after = 100_000
    begun = begin(server)
    assert (begun["model"], begun["state"], begun["background"]) == (NAME, "going", True)
    hub.meter.wait_until_held()
    assert begin(server)["state"] == "going"  # the same: it is not fetched twice
    (only,) = told(server)
    assert only["total"] == len(LARGE.content)
    hub.meter.release()
    wait_for(lambda: state(server) == "done")
    names = [one["id"] for one in server.client.get("/v1/models").json()["data"]]
    assert NAME in names
    assert stop(server)["state"] == "done"  # taken away, not undone
    assert told(server) == []
    assert NAME in [one["id"] for one in server.client.get("/v1/models").json()["data"]]


def test_stopped_it_goes_on_from_where_it_was(server: Gateway, hub: MeteredHub) -> None:
    partial = server.runtime.settings.home / "partial" / LARGE.sha256
    hub.meter.hold_after = 100_000
    begin(server)
    hub.meter.wait_until_held()
    wait_for(lambda: partial.exists() and partial.stat().st_size > 0)
    assert stop(server)["state"] == "stopping"
    hub.meter.release()
    wait_for(lambda: state(server) == "stopped")
    (only,) = told(server)
    assert (only["error"], only["stopping"]) == (None, False)
    kept = partial.stat().st_size
    assert 0 < kept < len(LARGE.content)
    begin(server)
    wait_for(lambda: state(server) == "done")
    assert hub.ranges[-1] == f"bytes={kept}-"


def test_why_it_failed_is_told_until_it_is_taken_away(server: Gateway, hub: MeteredHub) -> None:
    hub.faults.wrong_content = True
    begin(server)
    wait_for(lambda: state(server) == "failed")
    (only,) = told(server)
    assert only["error_code"] == "digest_mismatch"
    assert "SHA-256" in only["error"]
    hub.faults.wrong_content = False
    begin(server)
    wait_for(lambda: state(server) == "done")


@pytest.mark.parametrize(
    ("model", "status", "code"),
    [
        ("tinny:1b", 404, "model_not_found"),
        ("two words", 400, "invalid_reference"),
        ("./tiny.gguf", 400, "invalid_request"),
        ("", 400, "invalid_field"),
    ],
)
def test_what_is_refused_at_once(server: Gateway, model: str, status: int, code: str) -> None:
    refused = server.client.post(ADDRESS, json={"model": model})
    assert (refused.status_code, refused.json()["error"]["code"]) == (status, code)
    assert told(server) == []


def test_what_is_not_fetched_is_not_stopped(server: Gateway, hub: MeteredHub) -> None:
    refused = server.client.delete(ADDRESS, params={"model": NAME})
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "pull_not_found")
    # One whose client waits is that client's.
    hub.meter.hold_after = 100_000
    with server.begin("/api/pull", {"model": NAME}):
        hub.meter.wait_until_held()
        (only,) = told(server)
        assert (only["background"], only["state"]) == (False, "going")
        assert server.client.delete(ADDRESS, params={"model": NAME}).status_code == 404
    hub.meter.release()
    wait_for(lambda: told(server) == [])


def test_it_ends_with_the_server(tiny: Path, tmp_path: Path, hub: MeteredHub) -> None:
    hub.meter.hold_after = 100_000
    with gateway(tmp_path, (tiny,), script=lambda _: Script(), hub_endpoint=hub.endpoint) as server:
        begin(server)
        hub.meter.wait_until_held()
        partial = tmp_path / "partial" / LARGE.sha256
        wait_for(lambda: partial.exists() and partial.stat().st_size > 0)
    hub.meter.release()
    assert partial.exists()
    assert partial.stat().st_size < len(LARGE.content)
