"""OpenAI's completions without chat, over the scripted engine and over the real one."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from openai.types import Completion

from freehold.domain.sampling import Sampling
from freehold.engines.scripted import Script
from tests.support.gateway import Gateway, Scripts, gateway

pytestmark = pytest.mark.native  # the text child tokenises with llama.cpp


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Iterator[Gateway]:
    """The tiny model itself: log-probabilities are an engine's."""
    with gateway(tmp_path_factory.mktemp("real"), (tiny,), context=256) as running:
        yield running


def ask(server: Gateway, **fields: Any) -> httpx2.Response:
    body = json.dumps(
        {"model": "tiny", "prompt": "Once", **fields}
    )  # in ASCII, half characters too
    return server.client.post(
        "/v1/completions", content=body, headers={"content-type": "application/json"}, timeout=60
    )


def answered(server: Gateway, **fields: Any) -> Any:
    response = ask(server, **fields)
    assert response.status_code == 200, response.text
    body = response.json()
    if not (fields.get("echo") and "logprobs" in fields):  # their type forgets the nulls there
        Completion.model_validate(body)
    for choice in body["choices"]:  # no two answers take the same time
        assert choice.pop("timings")["decode"] >= 0
    return body


def streamed(server: Gateway, **fields: Any) -> list[Any]:
    """The JSON of each event but the end mark."""
    response = ask(server, stream=True, **fields)
    assert response.status_code == 200, response.text
    data = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert data[-1] == "[DONE]"
    return [json.loads(item) for item in data[:-1]]


def joined(events: list[Any], index: int = 0) -> Any:
    """The chunks of one choice, put together as a client would."""
    parts = [c for event in events for c in event["choices"] if c["index"] == index]
    scored = [part["logprobs"] for part in parts if part["logprobs"]]
    return {
        "text": "".join(part["text"] for part in parts),
        "index": index,
        "logprobs": (
            {key: [item for each in scored for item in each[key]] for key in scored[0]}
            if scored
            else None
        ),
        "finish_reason": parts[-1]["finish_reason"],
    }


# Answers


def test_whole_answer_with_usage(server: Gateway) -> None:
    body = answered(server)
    assert body["object"] == "text_completion"
    assert body["model"] == "tiny"
    assert body["choices"] == [
        {"text": "All is well.", "index": 0, "logprobs": None, "finish_reason": "stop"}
    ]
    assert body["usage"]["completion_tokens"] == 3
    assert body["usage"]["prompt_tokens"] == 4


def test_stream_equals_whole(server: Gateway) -> None:
    asked: dict[str, Any] = {"prompt": ["Once", "Upon a"], "n": 2, "echo": True}
    whole = answered(server, **asked)
    *events, last = streamed(server, **asked, stream_options={"include_usage": True})
    assert [joined(events, index) for index in range(4)] == whole["choices"]
    assert (last["choices"], last["usage"]) == ([], whole["usage"])
    assert len({event["id"] for event in events}) == 1
    assert all("usage" not in event for event in events)


def test_no_usage_chunk_unless_asked(server: Gateway) -> None:
    assert all("usage" not in event for event in streamed(server))


def test_prompts_run_together_and_are_numbered_in_order(server: Gateway) -> None:
    engine_saw = len(server.engines[-1].seen) if server.engines else 0
    body = answered(server, prompt=[[79, 110], "Twice", "Thrice"], n=2, seed=5)
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2, 3, 4, 5]
    seen = server.engines[-1].seen[engine_saw:]
    assert sorted((request.prompt, request.sampling.seed or 0) for request in seen) == sorted(
        (tuple(prompt), seed) for prompt in (b"On", b"Twice", b"Thrice") for seed in (5, 6)
    )
    assert body["usage"]["prompt_tokens"] == 2 + 5 + 6


def test_echo(server: Gateway) -> None:
    assert answered(server, echo=True)["choices"][0]["text"] == "OnceAll is well."
    assert answered(server, echo=True, prompt=[79, 110])["choices"][0]["text"] == "OnAll is well."


def test_max_tokens_0_generates_nothing_to_see(server: Gateway) -> None:
    body = answered(server, max_tokens=0, echo=True)
    assert body["choices"][0]["text"] == "Once"
    assert body["choices"][0]["finish_reason"] == "length"
    assert body["usage"]["completion_tokens"] == 0
    assert answered(server, max_tokens=0)["choices"][0]["text"] == ""
    assert joined(streamed(server, max_tokens=0, echo=True)) == body["choices"][0]


def test_max_tokens_and_stop_have_effect(server: Gateway) -> None:
    cut = answered(server, max_tokens=1)["choices"][0]
    assert (cut["text"], cut["finish_reason"]) == ("All ", "length")
    stopped = answered(server, stop=["never", "wel"])["choices"][0]
    assert (stopped["text"], stopped["finish_reason"]) == ("All is ", "stop")


def test_sixteen_tokens_unless_said(server: Gateway, scripts: Scripts) -> None:
    scripts.now = Script(pieces=("word ",) * 20)
    assert answered(server)["usage"]["completion_tokens"] == 16


def test_sampling_reaches_the_engine(server: Gateway) -> None:
    answered(
        server,
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


def test_fields_without_effect_are_accepted(server: Gateway) -> None:
    answered(server, user="me", n=1, best_of=1, echo=False, suffix=None, metadata={"a": "b"})


# Refusals


REFUSED: list[tuple[dict[str, Any], int, str | None, str]] = [
    ({"foo": 1}, 400, "foo", "does not know the field foo"),
    ({"messages": []}, 400, "messages", "does not know"),
    ({"prompt": []}, 400, "prompt", "not empty"),
    ({"prompt": ""}, 400, "prompt", "is empty"),
    ({"prompt": None}, 400, "prompt", "a text, token ids"),
    ({"prompt": ["x"] * 65}, 400, "prompt", "at most 64"),
    ({"prompt": ["x"] * 40, "n": 2}, 400, "n", "too many"),
    ({"prompt": [7_000]}, 400, "prompt", "no token 7000"),
    ({"prompt": "\ud800"}, 400, "prompt", "half a character"),
    ({"n": 17}, 400, "n", "less than or equal to 16"),
    ({"n": 2, "best_of": 4}, 400, "best_of", "as many as n"),
    ({"logprobs": 6}, 400, "logprobs", "less than or equal to 5"),
    ({"logprobs": True}, 400, "logprobs", "valid integer"),
    ({"logprobs": 1}, 400, "logprobs", "does not give log-probabilities"),
    ({"max_tokens": -1}, 400, "max_tokens", "greater than or equal to 0"),
    ({"suffix": "end"}, 400, "suffix", "cannot fill in"),
    ({"suffix": "end", "echo": True}, 400, "echo", "hole"),
    ({"suffix": "end", "prompt": [1, 2]}, 400, "suffix", "token ids"),
    ({"temperature": 3}, 400, "temperature", "less than or equal to 2"),
    ({"model": "tinny:1b"}, 404, None, "no model called"),
    ({"prompt": "word " * 200}, 400, None, "context holds 256"),
    ({"max_tokens": 256}, 400, None, "asks for 256 more"),
]


@pytest.mark.parametrize(("fields", "status", "param", "words"), REFUSED)
def test_refused_fields(
    server: Gateway, fields: dict[str, Any], status: int, param: str | None, words: str
) -> None:
    for stream in ({}, {"stream": True}):
        response = ask(server, **fields, **stream)
        assert response.status_code == status
        error = response.json()["error"]
        assert set(error) == {"message", "type", "param", "code", "values"}
        assert error["param"] == param
        assert words in error["message"]


def test_an_error_after_the_first_byte_is_an_event(server: Gateway, scripts: Scripts) -> None:
    scripts.now = Script(crash_after=2)
    response = ask(server, stream=True)
    assert response.status_code == 200
    *_, last = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert json.loads(last)["error"]["code"] == "engine_crashed"


# Log-probabilities, by the real engine


def test_echo_with_logprobs_scores_the_prompt(real: Gateway) -> None:
    """As programs that rank answers ask: one token more than the prompt, which they drop."""
    prompts = [[79, 110, 99, 101], [84, 119, 105, 99, 101, 33]]
    fields: dict[str, Any] = {
        "prompt": prompts,
        "temperature": 0,
        "max_tokens": 1,
        "logprobs": 1,
        "seed": 1234,
        "echo": True,
    }
    whole = answered(real, **fields)
    for prompt, choice in zip(prompts, whole["choices"], strict=True):
        found = choice["logprobs"]
        assert {len(entries) for entries in found.values()} == {len(prompt) + 1}
        assert found["tokens"][:-1] == [chr(token) for token in prompt]
        assert found["text_offset"] == list(range(len(prompt) + 1))
        assert found["token_logprobs"][0] is None
        assert found["top_logprobs"][0] is None
        scores = found["token_logprobs"][1:-1]
        assert math.isfinite(sum(scores))
        for token, score, top in zip(
            found["tokens"][1:-1], scores, found["top_logprobs"][1:-1], strict=True
        ):
            assert top[token] == score <= max(top.values())
    *events, _ = streamed(real, **fields, stream_options={"include_usage": True})
    assert [joined(events, index) for index in range(2)] == whole["choices"]


def test_max_tokens_0_scores_the_prompt_alone(real: Gateway) -> None:
    scored = answered(real, prompt="Once upon", max_tokens=0, echo=True, logprobs=0)
    (choice,) = scored["choices"]
    assert "".join(choice["logprobs"]["tokens"]) == choice["text"] == "Once upon"
    assert scored["usage"]["completion_tokens"] == 0
    longer = answered(real, prompt="Once upon", max_tokens=1, echo=True, logprobs=0, temperature=0)
    assert longer["choices"][0]["logprobs"]["token_logprobs"][1:-1] == pytest.approx(
        choice["logprobs"]["token_logprobs"][1:], abs=1e-4
    )


def test_answers_are_scored_with_the_likeliest_beside_them(real: Gateway) -> None:
    fields: dict[str, Any] = {"max_tokens": 5, "logprobs": 3, "temperature": 0, "ignore_eos": True}
    (choice,) = answered(real, **fields)["choices"]
    found = choice["logprobs"]
    assert len(found["tokens"]) == 5
    assert all(len(top) >= 3 for top in found["top_logprobs"])
    for token, score, top in zip(
        found["tokens"], found["token_logprobs"], found["top_logprobs"], strict=True
    ):
        assert top[token] == score == max(top.values())
    assert found["text_offset"][0] == 4
