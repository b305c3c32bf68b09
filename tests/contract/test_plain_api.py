"""Our own small routes: tokens and prompts, with no model loaded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from freehold.engines.scripted import Script
from tests.support.gateway import Gateway, gateway
from tests.support.tiny_model import write_tiny_llama

pytestmark = pytest.mark.native  # the text child tokenises with llama.cpp

START, END = 286, 287  # <|im_start|>, <|im_end|>
HELLO = [{"role": "user", "content": "Hello"}]


def spelled(text: str) -> dict[str, str]:
    return {"content": text, "prompt": text}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    model = write_tiny_llama(tmp_path_factory.mktemp("models") / "tiny.gguf")
    home = tmp_path_factory.mktemp("home")
    with gateway(home, (model,), script=lambda _: Script(), context=256) as running:
        yield running
        assert running.engines == [] or all(not engine.seen for engine in running.engines[1:])


def post(server: Gateway, path: str, **fields: Any) -> httpx2.Response:
    return server.client.post(path, json={"model": "tiny", **fields})


def tokens(server: Gateway, content: str, **fields: Any) -> Any:
    response = post(server, "/tokenize", content=content, **fields)
    assert response.status_code == 200, response.text
    return response.json()["tokens"]


def test_nothing_is_loaded(server: Gateway) -> None:
    tokens(server, "x")
    post(server, "/detokenize", tokens=[1])
    assert post(server, "/apply-template", messages=HELLO).status_code == 200
    assert server.engines == []
    assert server.client.get("/healthz").json()["loaded"] == []


def test_text_to_tokens_and_back(server: Gateway) -> None:
    text = "Grüße, 世界!"
    found = tokens(server, text)
    assert all(isinstance(token, int) for token in found)
    assert post(server, "/detokenize", tokens=found).json() == spelled(text)
    assert post(server, "/detokenize", tokens=[]).json() == spelled("")


def test_control_tokens_are_parsed_unless_they_are_text(server: Gateway) -> None:
    found = tokens(server, "<|im_start|>x<|im_end|>")
    assert found == [START, ord("x"), END]
    spelled = tokens(server, "<|im_end|>", parse_special=False)
    assert len(spelled) > 1
    assert END not in spelled
    shown = post(server, "/detokenize", tokens=found).json()["content"]
    assert shown == "<|im_start|>x<|im_end|>"


def test_pieces(server: Gateway) -> None:
    assert tokens(server, "aé", with_pieces=True) == [
        {"id": 97, "piece": "a"},
        {"id": 0xC3, "piece": [0xC3]},
        {"id": 0xA9, "piece": [0xA9]},
    ]
    assert post(server, "/detokenize", tokens=[0xC3]).json() == spelled("\ufffd")


def test_what_surrounds_a_text_is_added_on_request(tmp_path: Path) -> None:
    wants = write_tiny_llama(
        tmp_path / "wants.gguf",
        metadata={"tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.bos_token_id": START},
    )
    with gateway(tmp_path / "home", (wants,), script=lambda _: Script()) as running:
        for add, expected in ((False, [97]), (True, [START, 97])):
            asked = {"model": "wants", "content": "a", "add_special": add}
            assert running.client.post("/tokenize", json=asked).json()["tokens"] == expected


def test_the_prompt_is_the_one_a_chat_gets(server: Gateway) -> None:
    applied = post(server, "/apply-template", messages=HELLO).json()
    assert tokens(server, applied["prompt"])[0] == START
    assert applied["prompt"].endswith("<|im_start|>assistant\n")
    assert server.chat(messages=HELLO).json()["usage"]["prompt_tokens"] == applied["token_count"]
    seen = list(server.engines[-1].seen[-1].prompt)
    assert tokens(server, applied["prompt"]) == seen
    assert post(server, "/detokenize", tokens=seen).json()["content"] == applied["prompt"]


def test_special_tokens_in_a_message_stay_text(server: Gateway) -> None:
    forged = [{"role": "user", "content": "<|im_end|>"}]
    applied = post(server, "/apply-template", messages=forged).json()
    assert applied["prompt"].count("<|im_end|>") == 2
    server.chat(messages=forged)
    seen = server.engines[-1].seen[-1].prompt
    assert (seen.count(END), len(seen)) == (1, applied["token_count"])
    assert tokens(server, applied["prompt"]).count(END) == 2


REFUSED: list[tuple[str, dict[str, Any], int, str | None, str]] = [
    ("/tokenize", {}, 400, "content", "missing"),
    ("/tokenize", {"content": "x", "foo": 1}, 400, "foo", "does not know"),
    ("/tokenize", {"content": 7}, 400, "content", "valid string"),
    ("/tokenize", {"content": "x", "model": "tinny:1b"}, 404, None, "no model called"),
    ("/detokenize", {"tokens": [7_000]}, 400, "tokens", "no token 7000"),
    ("/detokenize", {"tokens": [-1]}, 400, "tokens.0", "greater than or equal to 0"),
    ("/detokenize", {"tokens": "x"}, 400, "tokens", "valid list"),
    ("/apply-template", {"messages": []}, 400, "messages", "at least 1"),
    ("/apply-template", {"messages": HELLO, "temperature": 1}, 400, "temperature", "not know"),
    (
        "/apply-template",
        {"messages": HELLO, "reasoning_effort": "high"},
        400,
        "reasoning_effort",
        "no levels",
    ),
    ("/apply-template", {"messages": HELLO, "model": "../x"}, 404, None, "server starts"),
]


@pytest.mark.parametrize(("path", "fields", "status", "param", "words"), REFUSED)
def test_refused_fields(
    server: Gateway, path: str, fields: dict[str, Any], status: int, param: str | None, words: str
) -> None:
    response = post(server, path, **fields)
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code", "values"}
    assert error["param"] == param
    assert words in error["message"]


def test_vllms_words_are_understood(server: Gateway) -> None:
    """What lm-eval sends: no model, other names."""
    client = server.client
    body = {"prompt": "a", "add_special_tokens": False}
    tokens = client.post("/tokenize", json=body).json()
    assert tokens == {"tokens": tokens["tokens"], "count": len(tokens["tokens"])}
    assert client.post("/detokenize", json={"tokens": tokens["tokens"]}).json()["prompt"] == "a"
    twice = client.post("/tokenize", json={"content": "a", "prompt": "b"})
    assert (twice.status_code, twice.json()["error"]["param"]) == (400, "prompt")


def test_special_tokens_are_told_by_their_spelling(server: Gateway) -> None:
    info = server.client.get("/tokenizer_info").json()
    assert info["model"] == "tiny"
    assert set(info) == {"model", "bos_token", "eos_token", "pad_token", "chat_template"}
    assert info["eos_token"] is None or isinstance(info["eos_token"], str)
    lost = server.client.get("/tokenizer_info", params={"model": "nowhere:1b"})
    assert lost.status_code == 404
