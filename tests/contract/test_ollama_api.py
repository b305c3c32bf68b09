"""Ollama's API over the scripted engine: what clients are told, whatever happens."""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx2
import ollama
import pytest

from freehold.api.pulls import MOST_PULLS
from freehold.domain.sampling import Sampling
from freehold.engines.llamacpp.probe_model import CHAT_TEMPLATE
from freehold.engines.scripted import Script
from tests.support.fake_hub import FakeFile, FakeRepository
from tests.support.gateway import Gateway, Scripts, gateway, wait_for
from tests.support.metered_hub import MeteredHub
from tests.support.models import model_bytes
from tests.support.tiny_model import write_tiny_llama

pytestmark = pytest.mark.native  # the text child tokenises with llama.cpp

THINKING_TEMPLATE = "{#- <think> </think> -#}" + CHAT_TEMPLATE
MESSAGES: dict[str, Any] = {"messages": [{"role": "user", "content": "Hello"}]}
ASKED: dict[str, dict[str, Any]] = {"/api/generate": {"prompt": "Hello"}, "/api/chat": MESSAGES}
# What asks for nothing but the model.
EMPTY: dict[str, dict[str, Any]] = {"/api/generate": {"prompt": ""}, "/api/chat": {"messages": []}}
ROUTES = tuple(ASKED)


@pytest.fixture(scope="module")
def thinker(tiny: Path) -> Path:
    return write_tiny_llama(
        tiny.with_name("thinker.gguf"),
        metadata={"tokenizer.chat_template": THINKING_TEMPLATE, "general.license": "mit"},
    )


LARGE = FakeFile(model_bytes("large", elements=1 << 20))


@pytest.fixture(scope="module")
def hub(tiny: Path) -> Iterator[MeteredHub]:
    files = {"tiny.gguf": FakeFile(tiny.read_bytes()), "large.gguf": LARGE}
    with MeteredHub([FakeRepository("maker/Tiny-GGUF", files)]) as running:
        yield running


STORED = "hf:maker/Tiny-GGUF:tiny.gguf"


@pytest.fixture(scope="module")
def shared(
    tmp_path_factory: pytest.TempPathFactory,
    tiny: Path,
    thinker: Path,
    scripts: Scripts,
    hub: MeteredHub,
) -> Iterator[Gateway]:
    home = tmp_path_factory.mktemp("home")
    with gateway(
        home, (tiny, thinker), script=scripts, context=256, hub_endpoint=hub.endpoint
    ) as running:
        yield running


def ask(server: Gateway, route: str, **fields: Any) -> httpx2.Response:
    """Generate or chat, with ``fields`` on top; whole unless they say otherwise."""
    body = {"model": "tiny", "stream": False, **ASKED[route], **fields}
    return server.client.post(route, json=body)


def text_of(answer: dict[str, Any]) -> str:
    text: str = answer["message"]["content"] if "message" in answer else answer["response"]
    return text


def thinking_of(answer: dict[str, Any]) -> str:
    text: str = answer.get("message", answer).get("thinking", "")
    return text


def lines_of(response: httpx2.Response) -> list[dict[str, Any]]:
    assert response.headers["content-type"].startswith("application/x-ndjson")
    assert response.text.endswith("\n")
    return [json.loads(line) for line in response.text.splitlines()]


def error_of(response: httpx2.Response) -> str:
    """The sentence of a refusal; beside it is only our code."""
    body = response.json()
    assert set(body) == {"error", "code", "values"}
    sentence: str = body["error"]
    return sentence


def loaded(server: Gateway) -> list[str]:
    return [model["name"] for model in server.client.get("/api/ps").json()["models"]]


# Answers


@pytest.mark.parametrize("route", ROUTES)
def test_a_whole_answer(server: Gateway, route: str) -> None:
    answer = ask(server, route).json()
    assert text_of(answer) == "All is well."
    assert answer["model"] == "tiny"
    assert (answer["done"], answer["done_reason"]) == (True, "stop")
    assert answer["eval_count"] == 3
    assert answer["prompt_eval_count"] > 5
    assert answer["total_duration"] >= answer["load_duration"] >= 0
    assert {"prompt_eval_duration", "eval_duration"} <= set(answer)
    assert answer["created_at"].endswith("Z")
    datetime.fromisoformat(answer["created_at"])


@pytest.mark.parametrize("route", ROUTES)
def test_stream_is_the_default_and_equals_the_whole(server: Gateway, route: str) -> None:
    whole = ask(server, route).json()
    *more, last = lines_of(ask(server, route, stream=None))
    assert "".join(map(text_of, [*more, last])) == text_of(whole)
    assert [text_of(line) for line in more] == ["All ", "is ", "well."]
    assert all(line["done"] is False and "done_reason" not in line for line in more)
    assert set(last) == set(whole)
    for field in ("done", "done_reason", "eval_count", "prompt_eval_count", "model"):
        assert last[field] == whole[field]


def test_both_routes_ask_the_same_of_the_model(server: Gateway) -> None:
    generated = ask(server, "/api/generate", system="Be brief.").json()
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    chatted = ask(server, "/api/chat", messages=turns).json()
    assert generated["prompt_eval_count"] == chatted["prompt_eval_count"]
    first, second = server.engines[-1].seen[-2:]
    assert first.prompt == second.prompt


def test_raw_is_the_prompt_and_nothing_else(server: Gateway) -> None:
    answer = ask(server, "/api/generate", prompt="Hi<|im_end|>", raw=True).json()
    assert text_of(answer) == "All is well."
    assert answer["prompt_eval_count"] == 3


@pytest.mark.parametrize("route", ROUTES)
def test_options_reach_the_engine(server: Gateway, route: str) -> None:
    options = {
        "temperature": 0.25,
        "top_p": 0.5,
        "top_k": 7,
        "min_p": 0.1,
        "typical_p": 0.9,
        "repeat_penalty": 1.1,
        "repeat_last_n": 5,
        "presence_penalty": 0.2,
        "frequency_penalty": -0.3,
        "seed": 11,
        "stop": ["is"],
        "num_predict": 2,
    }
    answer = ask(server, route, options=options).json()
    assert (text_of(answer), answer["done_reason"]) == ("All ", "stop")
    seen = server.engines[-1].seen[-1]
    assert seen.max_tokens == 2
    assert seen.sampling == Sampling(
        temperature=0.25,
        top_p=0.5,
        top_k=7,
        min_p=0.1,
        typical_p=0.9,
        repetition_penalty=1.1,
        penalty_window=5,
        presence_penalty=0.2,
        frequency_penalty=-0.3,
        seed=11,
        stop=("is",),
    )


def test_what_is_left_out_keeps_our_default(server: Gateway) -> None:
    ask(server, "/api/chat")
    assert server.engines[-1].seen[-1].sampling == Sampling()


@pytest.mark.parametrize("route", ROUTES)
def test_how_long_an_answer_may_be(server: Gateway, route: str) -> None:
    cut = ask(server, route, options={"num_predict": 1}).json()
    assert (text_of(cut), cut["done_reason"]) == ("All ", "length")
    for unbounded in (-1, -2):
        assert ask(server, route, options={"num_predict": unbounded}).status_code == 200
        seen = server.engines[-1].seen[-1]
        assert seen.max_tokens == 256 - len(seen.prompt)


def test_options_that_ask_nothing_here_are_accepted(server: Gateway) -> None:
    options = {
        "num_thread": 4,
        "num_gpu": -1,
        "main_gpu": 0,
        "use_mmap": True,
        "numa": False,
        "num_batch": 512,
        "low_vram": True,
        "f16_kv": True,
        "use_mlock": False,
        "vocab_only": False,
        "logits_all": False,
        "penalize_newline": True,
        "num_keep": 4,
        "mirostat": 0,
        "mirostat_tau": 5.0,
        "tfs_z": 1.0,
        "num_ctx": 256,
    }
    fields: dict[str, Any] = {"truncate": False, "shift": False, "keep_alive": "5m"}
    for route in ROUTES:
        assert ask(server, route, options=options, **fields).status_code == 200


# Thinking


@pytest.mark.parametrize("route", ROUTES)
def test_thinking_has_a_place_of_its_own(server: Gateway, scripts: Scripts, route: str) -> None:
    scripts.now = Script(pieces=("<think>", "Let me ", "see.", "</think>", "\n\n", "Yes", "."))
    whole = ask(server, route, model="thinker", think=True).json()
    assert (thinking_of(whole), text_of(whole)) == ("Let me see.", "Yes.")
    told = lines_of(ask(server, route, model="thinker", stream=True))
    assert "".join(map(thinking_of, told)) == "Let me see."
    assert "".join(map(text_of, told)) == "Yes."


def test_think_false_closes_the_reasoning_before_it_begins(server: Gateway) -> None:
    for think in (None, False):
        assert ask(server, "/api/chat", model="thinker", think=think).status_code == 200
    open_, closed = server.engines[-1].seen[-2:]
    assert closed.prompt[: len(open_.prompt)] == open_.prompt
    assert len(closed.prompt) > len(open_.prompt)


@pytest.mark.parametrize("route", ROUTES)
def test_a_model_that_cannot_think(server: Gateway, route: str) -> None:
    for think in (True, "high"):
        for stream in (False, True):
            response = ask(server, route, think=think, stream=stream)
            assert response.status_code == 400
            sentence = error_of(response)
            assert sentence.startswith('think: "tiny" does not support')
    assert ask(server, route, think=False).status_code == 200


# Refusals: one sentence, the field by name

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"foo": 1}, "does not know the field foo."),
    ({"options": {"foo": 1}}, "does not know the field options.foo."),
    ({"options": []}, "The field options is not valid"),
    ({"options": {"temperature": -1}}, "options.temperature is not valid"),
    ({"options": {"temperature": "hot"}}, "options.temperature is not valid"),
    ({"options": {"top_p": 0}}, "options.top_p is not valid"),
    ({"options": {"top_k": -1}}, "options.top_k is not valid"),
    ({"options": {"min_p": 2}}, "options.min_p is not valid"),
    ({"options": {"seed": -2}}, "options.seed is not valid"),
    ({"options": {"num_predict": 0}}, "options.num_predict must be at least 1"),
    ({"options": {"num_predict": -3}}, "options.num_predict is not valid"),
    ({"options": {"num_predict": 10**30}}, "options.num_predict is not valid"),
    ({"options": {"stop": ["x"] * 9}}, "options.stop is not valid"),
    ({"options": {"stop": ["x" * 65]}}, "options.stop.0 is not valid"),
    ({"options": {"mirostat": 1}}, "options.mirostat is not valid"),
    ({"options": {"mirostat": 2}}, "options.mirostat is not valid"),
    ({"options": {"tfs_z": 0.5}}, "options.tfs_z is not valid"),
    ({"options": {"vocab_only": True}}, "options.vocab_only is not valid"),
    ({"options": {"repeat_last_n": -2}}, "options.repeat_last_n is not valid"),
    ({"options": {"num_ctx": 257}}, "options.num_ctx is 257, and tiny is loaded with a"),
    ({"options": {"num_predict": 256}}, "asks for 256 more"),
    ({"format": "xml"}, "The field format is not valid: it must be"),
    ({"format": "json"}, "format: This engine cannot constrain answers."),
    ({"think": "very"}, "The field think is not valid: it must be"),
    ({"keep_alive": "soon"}, "The field keep_alive is not valid: it must be seconds"),
    ({"truncate": True}, "The field truncate is not valid"),
    ({"shift": True}, "The field shift is not valid"),
    ({"stream": "yes"}, "The field stream is not valid"),
    ({"logprobs": True}, "logprobs: This engine does not give log-probabilities."),
    ({"top_logprobs": 3}, "top_logprobs has a meaning only with logprobs: true."),
    ({"top_logprobs": 21}, "The field top_logprobs is not valid"),
    ({"model": ""}, "The field model is not valid"),
    ({"model": "hf:a/b:../x"}, "neither a GGUF file"),
]
REFUSED_PROMPTS: list[tuple[dict[str, Any], str]] = [
    ({"template": "{{ .Prompt }}"}, "template cannot replace it"),
    ({"context": [1, 2]}, "no context"),
    ({"images": ["aGk="]}, "images"),
    ({"suffix": "end"}, 'suffix: "tiny" does not support insert.'),
    ({"raw": True, "system": "x"}, "system is the template's business"),
    ({"raw": True, "think": True}, "think is the template's business"),
    ({"prompt": 7}, "The field prompt is not valid"),
    ({"prompt": "word " * 200}, "the context holds 256"),
    ({"messages": []}, "does not know the field messages."),
    ({"tools": []}, "does not know the field tools."),
]
TOOL = {"type": "function", "function": {"name": "weather"}}
REFUSED_CONVERSATIONS: list[tuple[dict[str, Any], str]] = [
    ({"prompt": "x"}, "does not know the field prompt."),
    ({"tools": [TOOL]}, '"tiny" does not support tools.'),
    ({"tools": [{"type": "retrieval"}]}, "tools.0.type"),
    ({"tools": [{"type": "function"}]}, "The field tools.0.function is missing."),
    ({"messages": [{"role": "robot", "content": "x"}]}, "The field messages.0.role"),
    ({"messages": [{"content": "x"}]}, "The field messages.0.role is missing."),
    ({"messages": [{"role": "user", "content": 7}]}, "messages.0.content"),
    ({"messages": [{"role": "user", "images": ["aGk="]}]}, "messages.0.images"),
    ({"messages": [{"role": "user", "thinking": "x"}]}, "the field messages.0.thinking."),
    (
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "a b"}}]}]},
        "messages.0.tool_calls.0.function.name",
    ),
    (
        {
            "messages": [
                {
                    "role": "assistant",
                    "tool_calls": [{"function": {"name": "a", "arguments": "{}"}}],
                }
            ]
        },
        "messages.0.tool_calls.0.function.arguments",
    ),
    ({"messages": [{"role": "user", "content": "word " * 200}]}, "the context holds 256"),
]


@pytest.mark.parametrize(
    ("route", "fields", "words"),
    [
        *((route, *refused) for route in ROUTES for refused in REFUSED),
        *(("/api/generate", *refused) for refused in REFUSED_PROMPTS),
        *(("/api/chat", *refused) for refused in REFUSED_CONVERSATIONS),
    ],
)
def test_refused_fields(server: Gateway, route: str, fields: dict[str, Any], words: str) -> None:
    for stream in (False, True):
        response = ask(server, route, **{"stream": stream, **fields})
        assert response.status_code == 400
        assert words in error_of(response)


def test_a_context_that_is_not_there_is_refused_with_both_numbers(server: Gateway) -> None:
    for route in ROUTES:
        for asked in (ASKED[route], EMPTY[route]):
            sentence = error_of(ask(server, route, options={"num_ctx": 4096}, **asked))
            assert re.findall(r"\d+", sentence) == ["4096", "256"]


def test_models_that_are_not_there(server: Gateway) -> None:
    cases = {
        "tinny:1b": "no model called",
        "../../etc/passwd": "named when the server starts",
        "deepseek-r1:1.5b": "freehold pull deepseek-r1:1.5b",
    }
    for name, words in cases.items():
        for path in (*ROUTES, "/api/show"):
            body = {"model": name, **ASKED.get(path, {})}
            response = server.client.post(path, json=body)
            assert response.status_code == 404, path
            assert words in error_of(response)


BODIES: dict[str, tuple[str, dict[str, Any]]] = {
    "/api/generate": ("POST", {"model": "tiny"}),
    "/api/chat": ("POST", {"model": "tiny"}),
    "/api/show": ("POST", {"model": "tiny"}),
    "/api/pull": ("POST", {"model": "tiny"}),
    "/api/copy": ("POST", {"source": "a", "destination": "b"}),
    "/api/delete": ("DELETE", {"model": "tiny"}),
}


@pytest.mark.parametrize("path", BODIES)
def test_every_route_refuses_in_the_same_shape(server: Gateway, path: str) -> None:
    client, (method, body) = server.client, BODIES[path]
    json_type = {"content-type": "application/json"}
    for content in (b'{"model": ', b"", b"[1]", b'"x"', b"\xff\xfe", b"{}", b'{"a":' * 100_000):
        response = client.request(method, path, content=content, headers=json_type)
        assert response.status_code == 400, content[:20]
        assert error_of(response)
    unknown = client.request(method, path, json={**body, "foo": 1})
    assert unknown.status_code == 400
    assert "does not know the field foo." in error_of(unknown)
    form = client.request(method, path, content=b"{}", headers={"content-type": "text/plain"})
    assert form.status_code in (400, 415)
    assert error_of(form)
    large = client.request(method, path, content=b"x" * (8 << 20) + b"x", headers=json_type)
    assert large.status_code == 413
    assert error_of(large)
    for headers in (
        {"host": "evil.test"},
        {"origin": "https://evil.test"},
        {"sec-fetch-site": "cross-site"},
    ):
        elsewhere = client.request(method, path, json=body, headers=headers)
        assert elsewhere.status_code == 403
        assert error_of(elsewhere)
    wrong = client.get(path)
    assert wrong.status_code == 405
    assert error_of(wrong)


def test_what_is_not_here_is_not_found(server: Gateway) -> None:
    for path in ("/api/create", "/api/push", "/api/blobs/sha256:0", "/api/nothing"):
        response = server.client.post(path, json={})
        assert response.status_code == 404
        assert error_of(response)


def test_reading_routes_refuse_in_the_same_shape(server: Gateway) -> None:
    for path in ("/api/tags", "/api/ps", "/api/version"):
        assert server.client.post(path, json={}).status_code == 405
        response = server.client.get(path, headers={"host": "evil.test"})
        assert response.status_code == 403
        assert error_of(response)


def test_with_a_key_every_route_needs_it(tiny: Path, tmp_path: Path) -> None:
    with gateway(tmp_path, (tiny,), script=lambda _: Script(), api_key="secret") as server:
        for path, (method, body) in BODIES.items():
            response = server.client.request(method, path, json=body)
            assert response.status_code == 401
            assert error_of(response)
        for path in ("/api/tags", "/api/ps", "/api/version"):
            assert server.client.head(path).status_code == 401
        assert server.client.head("/").status_code == 200  # says only that a server is there


# Failures of the engine


@pytest.mark.parametrize("route", ROUTES)
def test_a_crash_before_the_first_token_is_not_seen_by_the_client(
    server: Gateway, scripts: Scripts, route: str
) -> None:
    for stream in (False, True):
        scripts.per_attempt = [Script(crash_after=0), Script()]
        response = ask(server, route, stream=stream)
        assert response.status_code == 200
        assert "well." in response.text


@pytest.mark.parametrize("route", ROUTES)
def test_a_crash_after_the_first_token(server: Gateway, scripts: Scripts, route: str) -> None:
    scripts.per_attempt = [Script(crash_after=2)]
    first, *_, last = lines_of(ask(server, route, stream=True))
    assert text_of(first) == "All "
    assert set(last) == {"error", "code", "values"}
    scripts.per_attempt = [Script(crash_after=2)]
    response = ask(server, route)
    assert response.status_code == 503
    assert error_of(response)
    assert ask(server, route).status_code == 200


def test_a_deadline_answers_503_with_retry_after(tiny: Path, tmp_path: Path) -> None:
    slow = Script(first_token_seconds=30)
    with gateway(tmp_path, (tiny,), script=lambda _: slow, deadline=1) as server:
        for route in ROUTES:
            response = ask(server, route, stream=route == "/api/chat")
            assert response.status_code == 503
            assert int(response.headers["retry-after"]) > 0
            assert "deadline" in error_of(response)


def test_a_load_failure_is_told(tiny: Path, tmp_path: Path) -> None:
    broken = Script(load_error="Out of luck.")
    with gateway(tmp_path, (tiny,), script=lambda _: broken) as server:
        for route in ROUTES:
            for asked in (ASKED[route], EMPTY[route]):
                response = ask(server, route, **asked)
                assert response.status_code == 503
                assert "Out of luck." in error_of(response)


# Loading and unloading


@pytest.mark.parametrize("route", ROUTES)
def test_loading_and_unloading(server: Gateway, route: str) -> None:
    empty = EMPTY[route]
    for stream in (False, None):
        answer = ask(server, route, stream=stream, **empty).json()
        assert (text_of(answer), answer["done"], answer["done_reason"]) == ("", True, "load")
        assert "tiny" in loaded(server)
        answer = ask(server, route, stream=stream, keep_alive=0, **empty).json()
        assert (text_of(answer), answer["done"], answer["done_reason"]) == ("", True, "unload")
        assert "tiny" not in loaded(server)
    again = ask(server, route, keep_alive=0, **empty).json()
    assert again["done_reason"] == "unload"
    assert ask(server, route).status_code == 200


@pytest.mark.parametrize("route", ROUTES)
def test_keep_alive_0_unloads_after_the_answer(server: Gateway, route: str) -> None:
    for stream in (False, True):
        for keep_alive in (0, "0s"):
            response = ask(server, route, stream=stream, keep_alive=keep_alive)
            assert "well." in response.text
            wait_for(lambda: "tiny" not in loaded(server))
            assert server.engines[-1].closed
    for keep_alive in (-1, "1h", 30, "-1"):
        assert ask(server, route, keep_alive=keep_alive).status_code == 200
        assert "tiny" in loaded(server)


def test_a_model_in_use_is_not_unloaded(server: Gateway, scripts: Scripts) -> None:
    assert ask(server, "/api/chat").status_code == 200
    engine = server.engines[-1]
    seen, cancelled = len(engine.seen), len(engine.cancelled)
    scripts.now = Script(first_token_seconds=60)
    with server.begin("/api/chat", {"model": "tiny", **MESSAGES}):
        wait_for(lambda: len(engine.seen) > seen)
        response = ask(server, "/api/generate", prompt="", keep_alive=0)
        assert response.status_code == 503
        assert "in use" in error_of(response)
        scripts.now = Script()
        assert ask(server, "/api/generate", keep_alive=0).status_code == 200
        assert "tiny" in loaded(server)
        assert not engine.closed
    wait_for(lambda: len(engine.cancelled) > cancelled)
    wait_for(lambda: ask(server, "/api/chat", messages=[], keep_alive=0).status_code == 200)
    assert engine.closed


# Models


def test_names_may_have_the_default_tag(server: Gateway, tiny: Path) -> None:
    for name in ("tiny", "tiny:latest", str(tiny)):
        answer = ask(server, "/api/chat", model=name).json()
        assert (answer["model"], text_of(answer)) == (name, "All is well.")
        assert server.client.post("/api/show", json={"model": name}).status_code == 200
        assert server.client.post("/api/show", json={"name": name}).status_code == 200


def test_tags_list_what_can_be_asked_for(server: Gateway, tiny: Path) -> None:
    ask(server, "/api/chat")
    listed = {model["name"]: model for model in server.client.get("/api/tags").json()["models"]}
    assert {"tiny", "thinker"} <= set(listed)
    model = listed["tiny"]
    assert model["model"] == "tiny"
    assert model["size"] == tiny.stat().st_size
    assert re.fullmatch("[0-9a-f]{64}", model["digest"])
    assert datetime.fromisoformat(model["modified_at"])
    details = model["details"]
    assert (details["format"], details["family"], details["families"]) == (
        "gguf",
        "llama",
        ["llama"],
    )
    assert details["quantization_level"] == "F32"
    assert re.fullmatch(r"[0-9.]+K", details["parameter_size"])


def test_ps_lists_what_is_loaded(server: Gateway) -> None:
    ask(server, "/api/chat", keep_alive=-1)
    models = server.client.get("/api/ps").json()["models"]
    (model,) = [model for model in models if model["name"] == "tiny"]
    assert model["context_length"] == 256
    assert model["size_vram"] == 0
    assert model["size"] > 0
    assert model["details"]["family"] == "llama"
    assert datetime.fromisoformat(model["expires_at"]).year == 9999


def test_show_tells_what_the_header_says(server: Gateway) -> None:
    shown = server.client.post("/api/show", json={"model": "thinker"}).json()
    assert shown["template"] == THINKING_TEMPLATE
    assert shown["capabilities"] == ["completion", "thinking"]
    assert shown["license"].startswith("MIT\n")
    assert shown["details"]["family"] == "llama"
    info = shown["model_info"]
    assert info["general.architecture"] == "llama"
    assert info["llama.context_length"] == 512
    assert info["general.parameter_count"] > 10_000
    assert info["tokenizer.ggml.tokens"] == []
    assert "tokenizer.chat_template" not in info
    assert "num_ctx" in shown["parameters"]
    verbose = server.client.post("/api/show", json={"model": "thinker", "verbose": True}).json()
    assert len(verbose["model_info"]["tokenizer.ggml.tokens"]) == 288


def test_show_knows_whether_a_middle_can_be_filled(tiny: Path, tmp_path: Path) -> None:
    marks = {"prefix": 285, "suffix": 286, "middle": 287}
    filler = write_tiny_llama(
        tmp_path / "filler.gguf",
        metadata={f"tokenizer.ggml.{name}_token_id": token for name, token in marks.items()},
    )
    with gateway(tmp_path / "home", (filler,), script=lambda _: Script()) as server:
        shown = server.client.post("/api/show", json={"model": "filler"}).json()
        assert shown["capabilities"] == ["completion", "insert"]
        answer = ask(server, "/api/generate", model="filler", prompt="ab", suffix="c").json()
        assert text_of(answer) == "All is well."
        assert server.engines[-1].seen[-1].prompt == (285, 97, 98, 286, 99, 287)


def test_liveness_and_version(server: Gateway) -> None:
    assert server.client.head("/").status_code == 200
    assert re.match(r"\d+\.", server.client.get("/api/version").json()["version"])


# Pulling, copying, deleting


def pull(server: Gateway, name: str, **fields: Any) -> httpx2.Response:
    return server.client.post("/api/pull", json={"model": name, **fields})


def remove(server: Gateway, name: str) -> httpx2.Response:
    return server.client.request("DELETE", "/api/delete", json={"model": name})


def test_a_pull_tells_its_progress(server: Gateway, hub: MeteredHub) -> None:
    for name in ("hf.co/maker/Tiny-GGUF:large.gguf", "hf:maker/Tiny-GGUF:large.gguf"):
        *_, arrived, last = lines_of(pull(server, name))
        assert arrived["digest"] == f"sha256:{LARGE.sha256}"
        assert arrived["total"] == arrived["completed"] == len(LARGE.content)
        assert last == {"status": "success"}
    assert pull(server, "hf:maker/Tiny-GGUF:large.gguf", stream=False).json() == {
        "status": "success"
    }
    assert remove(server, "hf:maker/Tiny-GGUF:large.gguf").status_code == 200


def test_what_cannot_be_pulled(server: Gateway, tiny: Path) -> None:
    cases = {
        "hf:maker/Nothing:x.gguf": (404, "no model called"),
        "tinny:1b": (404, "no model called"),
        str(tiny): (400, "over HTTP"),
        "two words": (400, "not the name of a model"),
    }
    for name, (status, words) in cases.items():
        for stream in (True, False):
            response = pull(server, name, stream=stream)
            assert response.status_code == status
            assert words in error_of(response)
    insecure = pull(server, "tiny", insecure=True)
    assert insecure.status_code == 400
    assert "insecure" in error_of(insecure)


def test_offline_nothing_is_pulled(tiny: Path, tmp_path: Path) -> None:
    with gateway(tmp_path, (tiny,), script=lambda _: Script(), offline=True) as server:
        response = pull(server, "deepseek-r1:1.5b")
        assert response.status_code == 503
        assert "offline" in error_of(response)


def test_a_failure_in_the_middle_of_a_pull_is_a_line(server: Gateway, hub: MeteredHub) -> None:
    hub.faults.wrong_content = True
    hub.meter.hold_after = 1000
    threading.Timer(0.5, hub.meter.release).start()
    try:
        first, *_, last = lines_of(pull(server, "hf:maker/Tiny-GGUF:large.gguf"))
    finally:
        hub.faults.wrong_content = False
        hub.meter.release()
    assert first["total"] == len(LARGE.content)
    assert last["code"] == "digest_mismatch"
    assert "SHA-256" in last["error"]


def test_a_client_that_leaves_stops_its_pull_and_the_next_goes_on_from_there(
    tiny: Path, tmp_path: Path
) -> None:
    repository = FakeRepository("maker/Tiny-GGUF", {"large.gguf": LARGE})
    partial = tmp_path / "partial" / LARGE.sha256
    name = "hf:maker/Tiny-GGUF:large.gguf"
    with (
        MeteredHub([repository]) as hub,
        gateway(tmp_path, (tiny,), script=lambda _: Script(), hub_endpoint=hub.endpoint) as server,
    ):
        hub.meter.hold_after = 100_000
        with server.begin("/api/pull", {"model": name}) as connection:
            hub.meter.wait_until_held()
            wait_for(lambda: partial.exists() and partial.stat().st_size > 0)
            assert connection.recv(100)
            assert [(each["model"], each["stopping"]) for each in pulls(server)] == [(name, False)]
        wait_for(lambda: pulls(server)[0]["stopping"])
        hub.meter.release()
        wait_for(lambda: not pulling_threads())
        wait_for(lambda: pulls(server) == [])
        kept = partial.stat().st_size
        assert 0 < kept < len(LARGE.content)
        assert lines_of(pull(server, name))[-1] == {"status": "success"}
        assert hub.ranges[-1] == f"bytes={kept}-"


def test_only_so_many_pulls_go_on_at_once(tiny: Path, tmp_path: Path) -> None:
    files = {f"{n}.gguf": FakeFile(model_bytes(f"{n}")) for n in range(MOST_PULLS + 1)}
    *others, last = (f"hf:maker/Many-GGUF:{name}" for name in files)
    with (
        MeteredHub([FakeRepository("maker/Many-GGUF", files)]) as hub,
        gateway(tmp_path, (tiny,), script=lambda _: Script(), hub_endpoint=hub.endpoint) as server,
        contextlib.ExitStack() as connections,
    ):
        hub.meter.hold_after = 1000
        for name in others:
            connections.enter_context(server.begin("/api/pull", {"model": name}))
        wait_for(lambda: len(pulling_threads()) == MOST_PULLS)
        for stream in (True, False):
            response = pull(server, last, stream=stream)
            assert response.status_code == 429
            assert int(response.headers["retry-after"]) > 0
            assert error_of(response).startswith(f"{MOST_PULLS} models are being pulled")
        assert pull(server, "tinny:1b").status_code == 404  # which says more
        hub.meter.release()
        wait_for(lambda: pull(server, last, stream=False).status_code == 200)
        wait_for(lambda: not pulling_threads())
        kept = {model["name"] for model in server.client.get("/api/tags").json()["models"]}
        assert kept == {"tiny", *others, last}


def pulls(server: Gateway) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = server.client.get("/freehold/v1/pulls").json()["pulls"]
    return found


def pulling_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("pull ")]


def test_a_copy_is_one_more_name(server: Gateway) -> None:
    assert pull(server, STORED, stream=False).status_code == 200
    copied = server.client.post("/api/copy", json={"source": STORED, "destination": "mine"})
    assert (copied.status_code, copied.content) == (200, b"")
    for name in ("mine", "mine:latest"):
        assert text_of(ask(server, "/api/chat", model=name).json()) == "All is well."
    assert "mine:latest" in loaded(server)
    listed = {model["name"]: model for model in server.client.get("/api/tags").json()["models"]}
    assert listed["mine:latest"]["digest"] == listed[STORED]["digest"]
    assert remove(server, STORED).status_code == 200
    assert remove(server, STORED).status_code == 404
    assert text_of(ask(server, "/api/chat", model="mine").json()) == "All is well."
    assert remove(server, "mine").status_code == 200
    assert "mine:latest" not in loaded(server)
    gone = ask(server, "/api/chat", model="mine")
    assert gone.status_code == 404
    assert error_of(gone)


def test_copies_that_are_refused(server: Gateway, tiny: Path) -> None:
    for name in (STORED, "hf:maker/Tiny-GGUF:large.gguf"):
        assert pull(server, name, stream=False).status_code == 200
    cases = [
        (STORED, "tiny", 400, "tiny is the name of another model"),
        (STORED, "tiny:latest", 400, "tiny is the name of another model"),
        (STORED, "deepseek-r1:1.5b", 400, "name of another model"),
        (STORED, "deepseek-r1", 400, "name of another model"),
        (STORED, "hf:a/b:c", 400, "destination: A copy is named"),
        (STORED, "two words", 400, "not the name of a model"),
        ("tiny", "other", 400, "a file of yours"),
        ("absent:1b", "other", 404, "no model called"),
        ("deepseek-r1:1.5b", "other", 404, "not on this machine"),
    ]
    for source, destination, status, words in cases:
        body = {"source": source, "destination": destination}
        response = server.client.post("/api/copy", json=body)
        assert response.status_code == status, body
        assert words in error_of(response)
    for source, status in ((STORED, 200), (STORED, 200), ("hf:maker/Tiny-GGUF:large.gguf", 400)):
        body = {"source": source, "destination": "taken"}
        assert server.client.post("/api/copy", json=body).status_code == status
    for name in (STORED, "hf:maker/Tiny-GGUF:large.gguf", "taken"):
        assert remove(server, name).status_code == 200


def test_an_alias_is_a_name_but_no_model(tiny: Path, tmp_path: Path) -> None:
    aliases = {"gpt-4o": "tiny"}
    with gateway(tmp_path, (tiny,), script=lambda _: Script(), aliases=aliases) as server:
        for name in ("gpt-4o", "gpt-4o:latest"):
            assert text_of(ask(server, "/api/chat", model=name).json()) == "All is well."
        listed = server.client.get("/api/tags").json()["models"]
        assert [model["name"] for model in listed] == ["tiny", "gpt-4o"]
        assert loaded(server) == ["tiny"]
        assert ask(server, "/api/chat", model="gpt-4o", messages=[], keep_alive=0).is_success
        assert loaded(server) == []


def test_an_alias_is_neither_deleted_nor_overwritten(
    tiny: Path, tmp_path: Path, hub: MeteredHub
) -> None:
    with gateway(
        tmp_path,
        (tiny,),
        script=lambda _: Script(),
        hub_endpoint=hub.endpoint,
        aliases={"gpt-4o": STORED},
    ) as server:
        assert pull(server, STORED, stream=False).status_code == 200
        response = remove(server, "gpt-4o")
        assert response.status_code == 400
        assert f"an alias of {STORED}" in error_of(response)
        body = {"source": STORED, "destination": "gpt-4o"}
        assert server.client.post("/api/copy", json=body).status_code == 400
        body = {"source": "gpt-4o", "destination": "mine"}
        assert server.client.post("/api/copy", json=body).status_code == 200


def test_what_is_not_deleted(server: Gateway, scripts: Scripts, tiny: Path) -> None:
    assert "a file of yours" in error_of(remove(server, "tiny"))
    assert tiny.exists()
    for name in ("absent:1b", "deepseek-r1:1.5b"):
        response = remove(server, name)
        assert response.status_code == 404
        assert error_of(response)
    assert pull(server, STORED, stream=False).status_code == 200
    assert ask(server, "/api/chat", model=STORED).status_code == 200
    engine = server.engines[-1]
    seen = len(engine.seen)
    scripts.now = Script(first_token_seconds=60)
    with server.begin("/api/chat", {"model": STORED, **MESSAGES}):
        wait_for(lambda: len(engine.seen) > seen)
        response = remove(server, STORED)
        assert response.status_code == 503
        assert "in use" in error_of(response)
    wait_for(lambda: remove(server, STORED).status_code == 200)


# The official client


def test_the_official_client_sees_errors_as_its_own(server: Gateway, scripts: Scripts) -> None:
    with ollama.Client(server.url) as client:
        messages = MESSAGES["messages"]
        assert client.chat("tiny", messages)["message"]["content"] == "All is well."
        with pytest.raises(ollama.ResponseError, match="no model called") as caught:
            client.chat("absent", messages)
        assert caught.value.status_code == 404
        with pytest.raises(ollama.ResponseError, match="does not support thinking"):
            client.chat("tiny", messages, think=True)
        scripts.per_attempt = [Script(crash_after=2)]
        stream = client.generate("tiny", "Hello", stream=True)
        assert next(stream).response == "All "
        with pytest.raises(ollama.ResponseError, match="crash"):
            list(stream)


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "./tiny.gguf", "~/x.gguf", "https://127.0.0.1:1/x.gguf"]
)
def test_paths_and_addresses_are_not_pulled_for_a_client(server: Gateway, name: str) -> None:
    response = server.client.post("/api/pull", json={"model": name})
    assert response.status_code == 400
    assert "/home" not in response.text
    assert "/root" not in response.text
