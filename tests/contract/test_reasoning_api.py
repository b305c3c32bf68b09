"""Reasoning through OpenAI's chat completions, over the scripted engine."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from freehold.engines.scripted import Script
from tests.support.gateway import Gateway, Scripts, gateway
from tests.support.tiny_model import write_tiny_llama

pytestmark = pytest.mark.native

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content.split('</think>')[-1] }}"
    "<|im_end|>\n{% endfor %}<|im_start|>assistant\n{{ start }}"
)
THINKS = ("<think>", "Hm", "m.\n", "</think>", "\n\n", "Yes", ".")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, scripts: Scripts) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("models")
    served = tuple(
        write_tiny_llama(
            folder / f"{name}.gguf",
            metadata={"tokenizer.chat_template": TEMPLATE.replace("{{ start }}", start)},
        )
        for name, start in {"asks": "", "begins": "<think>\n"}.items()
    )
    with gateway(tmp_path_factory.mktemp("home"), served, script=scripts, context=512) as running:
        yield running


@pytest.fixture
def server(shared: Gateway, scripts: Scripts) -> Gateway:
    scripts.reset()
    scripts.now = Script(pieces=THINKS)
    return shared


def choice(response: Any) -> Any:
    assert response.status_code == 200, response.text
    return response.json()["choices"][0]


def streamed(response: Any) -> tuple[str, str]:
    reasoning = content = ""
    for line in response.text.split("\n\n")[:-2]:
        for one in json.loads(line.removeprefix("data: "))["choices"]:
            reasoning += one["delta"].get("reasoning_content", "")
            content += one["delta"].get("content", "")
    return reasoning, content


def prompt_of(shared: Gateway, model: str, **fields: Any) -> str:
    body = {"model": model, "messages": [{"role": "user", "content": "Hello"}], **fields}
    prompt: str = shared.client.post("/apply-template", json=body).json()["prompt"]
    return prompt


def test_reasoning_and_answer_are_kept_apart(server: Gateway) -> None:
    answer = choice(server.chat(model="asks"))
    assert answer["message"]["reasoning_content"] == "Hmm."
    assert answer["message"]["content"] == "Yes."
    assert answer["timings"]["first_answer"] > 0
    assert streamed(server.chat(model="asks", stream=True)) == ("Hmm.", "Yes.")


def test_a_template_that_begins_the_reasoning_itself(server: Gateway, scripts: Scripts) -> None:
    assert prompt_of(server, "begins").endswith("<think>")
    scripts.now = Script(pieces=THINKS[1:])
    message = choice(server.chat(model="begins"))["message"]
    assert (message["reasoning_content"], message["content"]) == ("Hmm.", "Yes.")


def test_a_model_that_never_ends_its_reasoning(server: Gateway, scripts: Scripts) -> None:
    scripts.now = Script(pieces=("Hm", "m."))
    answer = choice(server.chat(model="begins"))
    assert (answer["message"]["reasoning_content"], answer["message"]["content"]) == ("Hmm.", "")
    assert answer["timings"]["first_answer"] is None


def test_responses_and_completions_tell_when_the_answer_began_too(server: Gateway) -> None:
    asked = {"model": "asks", "input": "Hello"}
    whole = server.client.post("/v1/responses", json=asked).json()
    assert whole["timings"]["decode"] >= 0
    assert whole["timings"]["first_answer"] > 0
    kept = server.client.get(f"/v1/responses/{whole['id']}").json()
    assert kept["timings"] == whole["timings"]
    text = server.client.post("/v1/responses", json={**asked, "stream": True}).text
    told = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: ")]
    timed = [event["type"] for event in told if event.get("response", {}).get("timings")]
    assert timed == ["response.completed"]
    for stream in (False, True):
        body = {"model": "asks", "prompt": "Hello", "stream": stream}
        text = server.client.post("/v1/completions", json=body).text
        assert text.count('"timings"') == 1
        assert re.search(r'"first_answer":0\.\d', text)


@pytest.mark.parametrize("model", ["asks", "begins"])
def test_reasoning_switched_off(server: Gateway, scripts: Scripts, model: str) -> None:
    prompt = prompt_of(server, model, reasoning_effort="none")
    assert prompt.rstrip().endswith("</think>")
    scripts.now = Script(pieces=("Yes", "."))
    message = choice(server.chat(model=model, reasoning_effort="none"))["message"]
    assert message["content"] == "Yes."
    assert "reasoning_content" not in message


def test_a_model_that_reasons_anyway_is_not_hidden(server: Gateway, scripts: Scripts) -> None:
    """Promised nothing, shown as it is."""
    scripts.now = Script(pieces=("Yes", " </think> ", "no"))
    assert choice(server.chat(model="asks"))["message"]["content"] == "Yes </think> no"


def test_levels_of_effort_are_for_templates_that_know_them(server: Gateway) -> None:
    response = server.chat(model="asks", reasoning_effort="high")
    assert response.json()["error"]["param"] == "reasoning_effort"


@pytest.mark.parametrize("depth", [100, 600, 900])
def test_what_is_nested_deeply_is_refused_and_nothing_dies(server: Gateway, depth: int) -> None:
    value: Any = 1
    for _ in range(depth):
        value = {"x": value}
    function = {"name": "f", "parameters": {"type": "object", "properties": value}}
    schema = server.chat(model="asks", tools=[{"type": "function", "function": function}])
    assert schema.status_code == 400
    call = {"id": "1", "function": {"name": "f", "arguments": json.dumps(value)}}
    messages = [
        {"role": "user", "content": "x"},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "y"},
    ]
    assert server.chat(model="asks", messages=messages).status_code in (200, 400)
    assert server.chat(model="asks").status_code == 200


def test_more_ids_than_the_context_holds_are_counted_not_spelled(server: Gateway) -> None:
    response = server.client.post(
        "/v1/completions", json={"model": "asks", "prompt": [5] * 600, "max_tokens": 1}
    )
    assert response.json()["error"]["code"] == "context_length_exceeded"
