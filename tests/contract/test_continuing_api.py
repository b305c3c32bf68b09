"""Answers that were cut: their figures, and going on with them as if nothing had happened."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from freehold.engines.scripted import Script
from tests.contract.test_web_page import NOBODY, ROOT, answer, ask, begun, watched, whole
from tests.support.endless import write_endless_llama
from tests.support.gateway import Gateway, Scripts, gateway, wait_for

pytestmark = pytest.mark.native

GREEDY = {"temperature": 0}
LONG = 60


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("endless")
    return write_endless_llama(folder / "tiny.gguf", layers=4, context_length=4096)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory, endless: Path) -> Iterator[Gateway]:
    """Over llama.cpp: what is gone on with must be real tokens."""
    with gateway(tmp_path_factory.mktemp("real"), (endless,), context=4096) as running:
        yield running


def go_on(server: Gateway, identity: str, message: str) -> dict[str, Any]:
    response = server.client.post(f"{ROOT}/{identity}/messages/{message}/continue", json={})
    assert response.status_code == 200, response.text
    assert response.json()["status"] == "running"
    found: dict[str, Any] = watched(server, identity, message)[-1]["message"]
    return found


def cut_at(server: Gateway, identity: str, question: str, tokens: int) -> dict[str, Any]:
    """An answer of so many tokens."""
    wishes = {**GREEDY, "max_tokens": tokens}
    assert server.client.patch(f"{ROOT}/{identity}", json={"wishes": wishes}).status_code == 200
    found: dict[str, Any] = watched(server, identity, answer(server, identity, question))[-1]
    message: dict[str, Any] = found["message"]
    return message


def test_it_is_the_answer_that_was_never_cut(real: Gateway) -> None:
    identity = begun(real)
    question = ask(real, identity, None, "Go on for long, please")
    uncut = cut_at(real, identity, question, LONG)
    assert uncut["figures"]["completion_tokens"] == LONG, "this model must go on for so long"
    for first in (1, 7, 30):
        cut = cut_at(real, identity, question, first)
        assert (cut["resumable"], cut["figures"]["finish_reason"]) == (True, "length")
        wishes = {"wishes": {**GREEDY, "max_tokens": LONG - first}}
        real.client.patch(f"{ROOT}/{identity}", json=wishes)
        joined = go_on(real, identity, cut["id"])
        assert joined["content"] == uncut["content"]
        assert joined["id"] == cut["id"]
        for name in ("prompt_tokens", "completion_tokens", "finish_reason", "context"):
            assert joined["figures"][name] == uncut["figures"][name], name
        assert joined["figures"]["first_token"] == cut["figures"]["first_token"]


def test_a_stopped_one_has_its_figures_and_goes_on(real: Gateway) -> None:
    identity = begun(real, wishes=GREEDY)
    question = ask(real, identity, None, "Go on for ever")
    answered = answer(real, identity, question)
    address = f"{ROOT}/{identity}/messages/{answered}"
    wait_for(lambda: whole(real, identity)["messages"][1]["content"])
    stopped = real.client.post(f"{address}/stop", json={}).json()
    assert (stopped["status"], stopped["resumable"]) == ("stopped", True)
    figures = stopped["figures"]
    said = figures["completion_tokens"]
    assert figures["finish_reason"] == "stopped"
    assert 0 < said < 4000
    assert min(figures["first_token"], figures["decode"], figures["prompt_tokens"]) > 0
    # What is kept of it is kept on the server.
    assert whole(real, identity)["messages"][1] == stopped
    wishes = {"wishes": {**GREEDY, "max_tokens": 50}}
    real.client.patch(f"{ROOT}/{identity}", json=wishes)
    joined = go_on(real, identity, answered)
    count = joined["figures"]["completion_tokens"]
    assert joined["content"] == cut_at(real, identity, question, count)["content"]
    # A character that is half there is not gone on with, but written again: this model comes to
    # bytes that begin one after the other and end none, if the machine is slow to stop it.
    half = cut_at(real, identity, question, said)["content"].endswith("\ufffd")
    assert 50 < count <= said + 50 if half else count == said + 50


def test_one_whose_server_died_goes_on_in_the_next(endless: Path, tmp_path: Path) -> None:
    with gateway(tmp_path, (endless,), context=512) as server:
        identity = begun(server)
        question = ask(server, identity, None, "Go on for long, please")
        uncut = cut_at(server, identity, question, 40)
        cut = cut_at(server, identity, question, 20)
    path = tmp_path / "state" / "conversations.sqlite"
    with contextlib.closing(sqlite3.connect(path)) as kept, kept:
        kept.execute("UPDATE message SET status = 'running' WHERE id = ?", (cut["id"],))
    with gateway(tmp_path, (endless,), context=512) as server:
        found = whole(server, identity)["messages"][-1]
        assert (found["status"], found["resumable"]) == ("interrupted", True)
        joined = go_on(server, identity, cut["id"])
        assert (joined["status"], joined["content"]) == ("done", uncut["content"])


def test_failing_again_loses_nothing(server: Gateway, scripts: Scripts) -> None:
    """The tokens of scripted engines spell something else: as if the model had been replaced."""
    scripts.now = Script(pieces=("word ",) * 100)
    identity = begun(server, wishes={"max_tokens": 3})
    cut = watched(server, identity, answer(server, identity, ask(server, identity, None, "Go on")))[
        -1
    ]["message"]
    failed = go_on(server, identity, cut["id"])
    assert failed["status"] == "failed"
    assert "its model is not the one that began it" in failed["error"]
    assert failed["content"] == cut["content"] == "word word word "
    assert failed["figures"] == cut["figures"]


def test_what_is_not_gone_on_with(server: Gateway, scripts: Scripts) -> None:
    identity = begun(server)
    question = ask(server, identity, None, "Hello")
    done = answer(server, identity, question)
    watched(server, identity, done)
    scripts.now = Script(pieces=("word ",) * 1000, token_seconds=0.01)
    running = answer(server, identity, question)
    wait_for(lambda: "word" in whole(server, identity)["messages"][-1]["content"])
    root = f"{ROOT}/{identity}/messages"
    for message, status in ((done, 400), (question, 400), (running, 400), (NOBODY, 404)):
        refused = server.client.post(f"{root}/{message}/continue", json={})
        assert refused.status_code == status, refused.text
    server.client.post(f"{root}/{running}/stop", json={})
    assert whole(server, identity)["messages"][-1]["resumable"]
    ask(server, identity, running, "And then?")  # what follows it was said to what it is
    refused = server.client.post(f"{root}/{running}/continue", json={})
    assert refused.status_code == 400
    assert "last answer of a branch" in refused.json()["error"]["message"]


def test_one_that_crashed_has_its_figures(server: Gateway, scripts: Scripts) -> None:
    scripts.now = Script(pieces=("Half ", "of it"), crash_after=2)
    identity = begun(server)
    crashed = watched(
        server, identity, answer(server, identity, ask(server, identity, None, "Hello"))
    )[-1]["message"]
    assert crashed["status"] == "failed"
    assert crashed["figures"]["completion_tokens"] == 2
    assert crashed["figures"]["finish_reason"] == "failed"


def test_who_watches_is_told_how_far_the_prompt_has_been_read(
    server: Gateway, scripts: Scripts
) -> None:
    scripts.now = Script(first_token_seconds=4.0, prompt_steps=4)
    identity = begun(server)
    answered = answer(server, identity, ask(server, identity, None, "word " * 10))
    first, *news, _ = watched(server, identity, answered)
    assert first["type"] == "whole"
    reading = [each for each in news if each["type"] == "reading"]
    assert scripts.asked is not None
    prompt = len(scripts.asked.prompt)
    assert {each["prompt_tokens"] for each in reading} == {prompt}
    seen = [each["tokens"] for each in reading]
    assert seen == sorted(set(seen))
    assert set(seen) <= {0, prompt // 4, prompt * 2 // 4, prompt * 3 // 4}
    assert len(seen) >= 3
    # Nothing of it comes once there is an answer.
    kinds = [each["type"] for each in news]
    assert kinds.index("more") == len(reading)
