"""Streams while there is nothing to tell: what keeps them alive, in every dialect."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import anthropic
import ollama
import openai
import pytest

from freehold.engines.scripted import Script
from tests.support.gateway import Gateway, Scripts, gateway, wait_for
from tests.support.routes import ANSWERING, HELLO

pytestmark = pytest.mark.native  # the text child tokenises with llama.cpp

SILENCE = 0.05
COMMENT = ": keep-alive\n\n"
PING = 'event: ping\ndata: {"type":"ping"}\n\n'
BEATS = {
    "/v1/chat/completions": COMMENT,
    "/v1/completions": COMMENT,
    "/v1/responses": COMMENT,
    "/v1/messages": PING,
}
SLOW = Script(first_token_seconds=4 * SILENCE, token_seconds=4 * SILENCE)


@pytest.fixture(scope="module")
def shared(
    tmp_path_factory: pytest.TempPathFactory, models: tuple[Path, ...], scripts: Scripts
) -> Iterator[Gateway]:
    home = tmp_path_factory.mktemp("home")
    with gateway(home, models, script=scripts, silence=SILENCE) as running:
        yield running


def streamed(server: Gateway, path: str) -> str:
    body = {"model": "tiny", "stream": True, **ANSWERING[path]}
    response = server.client.post(path, json=body)
    assert response.status_code == 200, response.text
    return response.text


def kinds(text: str) -> list[list[str]]:
    """The keys of each thing that was told."""
    data = [line.removeprefix("data: ") for line in text.splitlines() if "{" in line]
    return [sorted(json.loads(line)) for line in data]


@pytest.mark.parametrize("path", BEATS)
def test_a_silence_is_filled_and_changes_nothing(
    server: Gateway, scripts: Scripts, path: str
) -> None:
    beat = BEATS[path]
    quick = streamed(server, path)
    scripts.now = SLOW
    slow = streamed(server, path)
    assert slow.startswith(beat)
    assert slow.count(beat) >= 4
    assert kinds(slow.replace(beat, "")) == kinds(quick.replace(beat, ""))


@pytest.mark.parametrize("path", ["/api/generate", "/api/chat"])
def test_lines_of_json_leave_no_room_for_it(server: Gateway, scripts: Scripts, path: str) -> None:
    scripts.now = SLOW
    lines = [json.loads(line) for line in streamed(server, path).splitlines()]
    assert [line["done"] for line in lines] == [False, False, False, True]


@pytest.mark.parametrize("path", BEATS)
def test_a_model_that_is_loading_is_a_silence_too(tiny: Path, tmp_path: Path, path: str) -> None:
    broken = Script(load_seconds=4 * SILENCE, load_error="Out of luck.")
    with gateway(tmp_path, (tiny,), script=lambda _: broken, silence=SILENCE) as server:
        text = streamed(server, path)
        beat = BEATS[path]
        assert text.startswith(beat)
        assert "Out of luck." in text.replace(beat, "").split("\n\n")[-2]
        if path == "/v1/responses":
            told = [line for line in text.splitlines() if line.startswith("event")]
            assert [line.removeprefix("event: response.") for line in told] == [
                "created",
                "in_progress",
                "failed",
            ]


@pytest.mark.parametrize("path", BEATS)
def test_an_error_has_its_status_if_it_comes_before_a_silence_is_over(
    tiny: Path, tmp_path: Path, path: str
) -> None:
    broken = Script(load_error="Out of luck.")
    with gateway(tmp_path, (tiny,), script=lambda _: broken) as server:
        body = {"model": "tiny", "stream": True, **ANSWERING[path]}
        response = server.client.post(path, json=body)
        assert response.status_code == 503
        assert "Out of luck." in response.text


@pytest.mark.parametrize("path", BEATS)
def test_a_client_that_leaves_in_a_silence_frees_its_sequence(
    server: Gateway, scripts: Scripts, path: str
) -> None:
    assert server.chat().status_code == 200
    engine = server.engines[-1]
    cancelled = len(engine.cancelled)
    scripts.now = Script(first_token_seconds=60)
    body = {"model": "tiny", "stream": True, **ANSWERING[path]}
    with server.begin(path, body) as connection:
        told = b""
        while BEATS[path].encode() not in told:
            told += connection.recv(1000)
    wait_for(lambda: len(engine.cancelled) > cancelled)


def test_the_official_clients_do_not_notice(server: Gateway, scripts: Scripts) -> None:
    scripts.now = SLOW
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        chunks = client.chat.completions.create(model="tiny", messages=HELLO, stream=True)
        assert "".join(each.choices[0].delta.content or "" for each in chunks) == "All is well."
        texts = client.completions.create(model="tiny", prompt="Hello", stream=True)
        assert "".join(each.choices[0].text for each in texts) == "All is well."
        with client.responses.stream(model="tiny", input="Hello") as response:
            assert response.get_final_response().output_text == "All is well."
    with (
        anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0) as claude,
        claude.messages.stream(model="tiny", max_tokens=20, messages=HELLO) as message,
    ):
        assert message.get_final_text() == "All is well."
    with ollama.Client(server.url) as llama:
        parts = llama.chat("tiny", HELLO, stream=True)
        assert "".join(part["message"]["content"] for part in parts) == "All is well."


def test_the_official_clients_see_what_fails_after_a_silence(tiny: Path, tmp_path: Path) -> None:
    broken = Script(load_seconds=4 * SILENCE, load_error="Out of luck.")
    with gateway(tmp_path, (tiny,), script=lambda _: broken, silence=SILENCE) as server:
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
            with pytest.raises(openai.APIError, match="Out of luck"):
                list(client.chat.completions.create(model="tiny", messages=HELLO, stream=True))
            with client.responses.stream(model="tiny", input="Hello") as response:
                last = list(response)[-1]
            assert last.type == "response.failed"
            assert last.response.error is not None
            assert last.response.error.message == "Out of luck."
        with (
            anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0) as claude,
            pytest.raises(anthropic.APIStatusError, match="Out of luck"),
            claude.messages.stream(model="tiny", max_tokens=20, messages=HELLO) as message,
        ):
            message.get_final_text()
