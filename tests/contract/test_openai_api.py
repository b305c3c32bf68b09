"""OpenAI's API over the scripted engine: what clients are told, whatever happens."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from freehold.domain.errors import InvalidSetting
from freehold.domain.sampling import Sampling
from freehold.domain.settings import resolve
from freehold.engines.scripted import Script
from tests.support.gateway import Gateway, Scripts, gateway

pytestmark = pytest.mark.native  # the text child tokenises with llama.cpp


def chunks(response: httpx2.Response) -> list[Any]:
    """The JSON of each event; the end mark stays a string."""
    lines = [line for line in response.text.split("\n\n") if line]
    assert all(line.startswith("data: ") for line in lines)
    data = [line.removeprefix("data: ") for line in lines]
    return [item if item == "[DONE]" else json.loads(item) for item in data]


# Answers


def test_whole_answer_with_usage(server: Gateway) -> None:
    body = server.chat().json()
    assert body["object"] == "chat.completion"
    assert body["model"] == "tiny"
    assert body["choices"][0]["message"] == {
        "role": "assistant",
        "content": "All is well.",
        "refusal": None,
    }
    assert body["choices"][0]["finish_reason"] == "stop"
    usage = body["usage"]
    assert usage["completion_tokens"] == 3
    assert usage["total_tokens"] == usage["prompt_tokens"] + 3


def test_stream_equals_whole(server: Gateway) -> None:
    whole = server.chat().json()
    response = server.chat(stream=True, stream_options={"include_usage": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    *events, last = chunks(response)
    assert last == "[DONE]"
    text = "".join(
        choice["delta"].get("content", "") for event in events for choice in event["choices"]
    )
    assert text == whole["choices"][0]["message"]["content"]
    assert events[0]["choices"][0]["delta"]["role"] == "assistant"
    assert events[-2]["choices"][0]["finish_reason"] == "stop"
    assert events[-1]["choices"] == []
    assert events[-1]["usage"] == whole["usage"]
    assert len({event["id"] for event in events}) == 1


def test_no_usage_chunk_unless_asked(server: Gateway) -> None:
    events = chunks(server.chat(stream=True))[:-1]
    assert all("usage" not in event for event in events)


def test_max_tokens_and_stop_have_effect(server: Gateway) -> None:
    cut = server.chat(max_tokens=1).json()["choices"][0]
    assert (cut["message"]["content"], cut["finish_reason"]) == ("All ", "length")
    stopped = server.chat(stop="is").json()["choices"][0]
    assert (stopped["message"]["content"], stopped["finish_reason"]) == ("All ", "stop")
    assert server.chat(stop=["never", "wel"]).json()["choices"][0]["message"]["content"] == (
        "All is "
    )


def test_content_may_come_in_parts(server: Gateway) -> None:
    whole = server.chat(messages=[{"role": "user", "content": "one two"}]).json()
    parts = [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]
    split = server.chat(messages=[{"role": "user", "content": parts}]).json()
    assert split["usage"] == whole["usage"]


def test_sampling_reaches_the_engine(server: Gateway) -> None:
    server.chat(
        temperature=0.25,
        top_p=0.5,
        top_k=7,
        min_p=0.1,
        typical_p=0.9,
        repetition_penalty=1.1,
        presence_penalty=0.2,
        frequency_penalty=-0.3,
        logit_bias={"5": -100},
        ignore_eos=True,
        seed=11,
        stop="x",
    )
    assert server.engines[-1].seen[-1].sampling == Sampling(
        temperature=0.25,
        top_p=0.5,
        top_k=7,
        min_p=0.1,
        typical_p=0.9,
        repetition_penalty=1.1,
        presence_penalty=0.2,
        frequency_penalty=-0.3,
        logit_bias=((5, -100.0),),
        ignore_end=True,
        seed=11,
        stop=("x",),
    )


def test_what_is_left_out_keeps_its_default(server: Gateway) -> None:
    server.chat()
    assert server.engines[-1].seen[-1].sampling == Sampling()


def test_fields_without_effect_are_accepted(server: Gateway) -> None:
    response = server.chat(
        user="me", metadata={"a": "b"}, store=False, service_tier="auto", n=1, presence_penalty=0.0
    )
    assert response.status_code == 200


def test_the_path_as_given_and_the_stem_mean_the_same_model(server: Gateway, tiny: Path) -> None:
    assert server.chat(model=str(tiny)).json()["model"] == "tiny"
    assert server.client.get(f"/v1/models/{tiny}").json()["id"] == "tiny"


def test_models_are_listed(server: Gateway, tiny: Path) -> None:
    listed = server.client.get("/v1/models").json()
    assert [model["id"] for model in listed["data"]] == ["tiny"]
    assert listed["data"][0]["freehold"]["aliases"] == [str(tiny)]
    assert server.client.get("/v1/models/tiny").json()["id"] == "tiny"


# Refusals: one shape, one sentence, the field by name


REFUSED: list[tuple[dict[str, Any], int, str | None, str]] = [
    ({"foo": 1}, 400, "foo", "does not know the field foo"),
    ({"functions": []}, 400, "functions", "does not know the field functions"),
    ({"tools": [{"type": "retrieval"}]}, 400, "tools.0.type", "'function'"),
    ({"tools": [{"type": "function"}]}, 400, "tools.0.function", "is missing"),
    (
        {"tools": [{"type": "function", "function": {"name": "a b"}}]},
        400,
        "tools.0.function.name",
        "match pattern",
    ),
    ({"tool_choice": "always"}, 400, "tool_choice.type", "'required'"),
    ({"tool_choice": "required"}, 400, "tool_choice", "there are none"),
    ({"reasoning_effort": "high"}, 400, "reasoning_effort", "no levels"),
    ({"reasoning_budget": 10}, 400, "reasoning_budget", "does not reason"),
    ({"temperature": 3}, 400, "temperature", "less than or equal to 2"),
    ({"temperature": "hot"}, 400, "temperature", "valid number"),
    ({"top_p": 0}, 400, "top_p", "greater than 0"),
    ({"n": 17}, 400, "n", "less than or equal to 16"),
    ({"n": True}, 400, "n", "valid integer"),
    ({"max_tokens": 0}, 400, "max_tokens", "greater than or equal to 1"),
    ({"max_tokens": 1e3}, 400, "max_tokens", "valid integer"),
    ({"max_tokens": 10**30}, 400, "max_tokens", "less than or equal"),
    ({"max_tokens": 5, "max_completion_tokens": 5}, 400, "max_tokens", "one of them"),
    ({"frequency_penalty": 2.5}, 400, "frequency_penalty", "less than or equal to 2"),
    ({"top_logprobs": 3}, 400, "top_logprobs", "only with logprobs"),
    ({"logprobs": True}, 400, "logprobs", "does not give log-probabilities"),
    ({"logit_bias": {"x": 1}}, 400, "logit_bias.x.[key]", "match pattern"),
    ({"logit_bias": {"1": 101}}, 400, "logit_bias.1", "less than or equal to 100"),
    ({"min_p": 2}, 400, "min_p", "less than or equal to 1"),
    ({"response_format": {"type": "xml"}}, 400, "response_format.type", "'json_schema'"),
    (
        {"response_format": {"type": "json_schema"}},
        400,
        "response_format.json_schema",
        "is missing",
    ),
    ({"stop": ["x"] * 9}, 400, "stop", "at most 8"),
    ({"stop": "x" * 65}, 400, "stop.0", "at most 64"),
    ({"seed": -1}, 400, "seed", "greater than or equal to 0"),
    ({"messages": []}, 400, "messages", "at least 1"),
    ({"messages": [{"role": "user"}]}, 400, "messages.0.content", "is missing"),
    ({"messages": [{"role": "robot", "content": "x"}]}, 400, "messages.0.role", "'system'"),
    ({"messages": [{"role": "user", "content": 7}]}, 400, "messages.0.content", "valid list"),
    ({"stream_options": {"include_usage": True}}, 400, "stream_options", "stream: true"),
    ({"model": ""}, 400, "model", "at least 1"),
    ({"model": "tinny:1b"}, 404, None, "no model called"),
    ({"model": "../../etc/passwd"}, 404, None, "named when the server starts"),
    ({"model": "deepseek-r1:1.5b"}, 404, None, "freehold pull deepseek-r1:1.5b"),
    ({"model": "hf:a/b:../x"}, 400, None, "neither a GGUF file"),
]


@pytest.mark.parametrize(("fields", "status", "param", "words"), REFUSED)
def test_refused_fields(
    server: Gateway, fields: dict[str, Any], status: int, param: str | None, words: str
) -> None:
    for stream in ({}, {"stream": True}):
        if "stream_options" in fields and stream:
            continue
        response = server.chat(**fields, **stream)
        assert response.status_code == status
        error = response.json()["error"]
        assert set(error) == {"message", "type", "param", "code", "values"}
        assert error["param"] == param
        assert words in error["message"]


def test_prompt_longer_than_the_context_names_both_numbers(server: Gateway) -> None:
    response = server.chat(messages=[{"role": "user", "content": "word " * 200}])
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["code"] == "context_length_exceeded"
    shown = [int(number) for number in re.findall(r"\d+", error["message"])]
    assert shown[0] > 256
    assert shown[1] == 256


def test_an_answer_that_cannot_fit_is_refused_not_shortened(server: Gateway) -> None:
    response = server.chat(max_tokens=256)
    assert response.status_code == 400
    assert "asks for 256 more" in response.json()["error"]["message"]


def test_malformed_json(server: Gateway) -> None:
    for body in (b'{"model": ', b"", b"[1]", b'"x"', b"\xff\xfe", b'{"a":' * 100_000):
        response = server.client.post(
            "/v1/chat/completions", content=body, headers={"content-type": "application/json"}
        )
        assert response.status_code == 400, body[:20]
        assert set(response.json()["error"]) == {"message", "type", "param", "code", "values"}


def test_every_refusal_has_the_same_shape(server: Gateway) -> None:
    client = server.client
    json_type = {"content-type": "application/json"}
    responses = [
        client.get("/nothing"),
        client.delete("/v1/models"),
        client.get("/v1/models/unknown-model"),
        client.post("/v1/chat/completions", content=b"{}", headers={"content-type": "text/plain"}),
        client.post("/v1/chat/completions", content=b"x" * (8 << 20) + b"x", headers=json_type),
        client.get("/v1/models", headers={"host": "evil.test"}),
        client.get("/v1/models", headers={"host": "127.0.0.1:1"}),
        client.get("/v1/models", headers={"origin": "https://evil.test"}),
        client.get("/v1/models", headers={"sec-fetch-site": "cross-site"}),
    ]
    assert [r.status_code for r in responses] == [404, 405, 404, 415, 413, 403, 403, 403, 403]
    for response in responses:
        assert set(response.json()["error"]) == {"message", "type", "param", "code", "values"}
        assert "access-control-allow-origin" not in response.headers


def test_a_body_without_a_declared_length_is_capped_too(server: Gateway) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(10):
            yield b"x" * (1 << 20)

    response = server.client.post(
        "/v1/chat/completions", content=endless(), headers={"content-type": "application/json"}
    )
    assert response.status_code == 413


def test_hosts_of_this_machine_are_accepted(server: Gateway) -> None:
    port = server.url.rpartition(":")[2]
    for host in (f"localhost:{port}", f"[::1]:{port}", f"127.0.0.1:{port}", "localhost"):
        assert server.client.get("/v1/models", headers={"host": host}).status_code == 200


# Failures of the engine


def test_a_crash_before_the_first_token_is_not_seen_by_the_client(
    server: Gateway, scripts: Scripts
) -> None:
    for stream in (False, True):
        scripts.per_attempt = [Script(crash_after=0), Script()]
        response = server.chat(stream=stream)
        assert response.status_code == 200
        assert "well." in response.text


def test_a_crash_after_the_first_token_ends_the_stream_with_the_error(
    server: Gateway, scripts: Scripts
) -> None:
    scripts.per_attempt = [Script(crash_after=2)]
    *events, last = chunks(server.chat(stream=True))
    assert last["error"]["code"] == "engine_crashed"
    assert any(e["choices"][0]["delta"].get("content") == "All " for e in events)
    assert server.chat().status_code == 200


def test_a_request_in_two_crashes_is_poison(server: Gateway, scripts: Scripts) -> None:
    message = [{"role": "user", "content": "poison"}]
    scripts.per_attempt = [Script(crash_after=0), Script(crash_after=0)]
    assert server.chat(messages=message).json()["error"]["code"] == "poison_request"
    assert server.chat(messages=message).json()["error"]["code"] == "poison_request"
    assert server.chat().status_code == 200


def test_deadline_answers_503_with_retry_after(tiny: Path, tmp_path: Path) -> None:
    slow = Script(first_token_seconds=30)
    with gateway(tmp_path, (tiny,), script=lambda _: slow, deadline=1) as server:
        for stream in (False, True):
            response = server.chat(stream=stream)
            assert response.status_code == 503
            assert int(response.headers["retry-after"]) > 0
            assert response.json()["error"]["code"] == "deadline_exceeded"


def test_load_failure_is_told(tiny: Path, tmp_path: Path) -> None:
    broken = Script(load_error="Out of luck.")
    with gateway(tmp_path, (tiny,), script=lambda _: broken) as server:
        response = server.chat()
        assert response.status_code == 503
        assert "Out of luck." in response.json()["error"]["message"]


# Many clients


def test_many_at_once(server: Gateway, scripts: Scripts) -> None:
    scripts.now = Script(token_seconds=0.01)
    answers: list[str] = []

    def ask() -> None:
        answers.append(server.chat().json()["choices"][0]["message"]["content"])

    threads = [threading.Thread(target=ask) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == ["All is well."] * 20


# Who may ask


def test_beyond_loopback_needs_a_key(tmp_path: Path) -> None:
    from freehold.api.server import bind

    settings = resolve({"home": str(tmp_path), "host": "0.0.0.0", "port": 0}, environ={})
    with pytest.raises(InvalidSetting, match="API key"):
        bind(settings)


# The official client


def test_official_client(server: Gateway) -> None:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        messages: Any = [{"role": "user", "content": "Hello"}]
        whole = client.chat.completions.create(model="tiny", messages=messages)
        assert whole.choices[0].message.content == "All is well."
        assert whole.usage is not None
        assert whole.usage.completion_tokens == 3
        stream = client.chat.completions.create(model="tiny", messages=messages, stream=True)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
        assert text == "All is well."
        assert [model.id for model in client.models.list()] == ["tiny"]
        with pytest.raises(openai.NotFoundError, match="no model called"):
            client.chat.completions.create(model="absent", messages=messages)
        with pytest.raises(openai.BadRequestError, match="context holds 256"):
            client.chat.completions.create(
                model="tiny", messages=[{"role": "user", "content": "word " * 200}]
            )
