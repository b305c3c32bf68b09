"""OpenAI's responses over the scripted engine."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from freehold.engines.scripted import Script
from tests.support.gateway import Gateway, Scripts
from tests.support.tiny_model import write_tiny_llama

pytestmark = pytest.mark.native  # the text child tokenises with llama.cpp

EVENTS: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}]{{ m.reasoning_content or '' }}|{{ m.content }}"
    "{% endfor %}[assistant]"
)
THINKS = TEMPLATE + "{# drops old </think> #}"
CALLS = (
    '{# <tool_call>{"name": ...} #}'
    "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}[{{ m.role }}]"
    "{{ m.content }}{% for c in m.tool_calls or [] %}<tool_call>{{ c.function | tojson }}"
    "</tool_call>{% endfor %}{% endfor %}[assistant]"
)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    folder = tmp_path_factory.mktemp("models")
    return tuple(
        write_tiny_llama(folder / f"{name}.gguf", metadata={"tokenizer.chat_template": template})
        for name, template in (("tiny", TEMPLATE), ("thinker", THINKS), ("caller", CALLS))
    )


@pytest.fixture
def saw(server: Gateway, scripts: Scripts) -> Callable[[], str]:
    """The prompt of the latest request."""

    def shown() -> str:
        assert scripts.asked is not None
        asked = {"model": "tiny", "tokens": list(scripts.asked.prompt)}
        content: str = server.client.post("/detokenize", json=asked).json()["content"]
        return content

    return shown


def ask(server: Gateway, **fields: Any) -> httpx2.Response:
    body = json.dumps(
        {"model": "tiny", "input": "Hello", **fields}
    )  # in ASCII, half characters too
    return server.client.post(
        "/v1/responses", content=body, headers={"content-type": "application/json"}
    )


def answered(server: Gateway, **fields: Any) -> Any:
    response = ask(server, **fields)
    assert response.status_code == 200, response.text
    Response.model_validate(response.json())
    return response.json()


def streamed(server: Gateway, **fields: Any) -> list[Any]:
    """All events, each checked against the official types."""
    response = ask(server, stream=True, **fields)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    events = []
    for text in response.text.split("\n\n"):
        if text:
            name, data = text.split("\n")
            event = json.loads(data.removeprefix("data: "))
            assert name == f"event: {event['type']}"
            EVENTS.validate_python(event)
            events.append(event)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    return events


def without_ids(response: Any) -> Any:
    """A response as it would be at any other time."""
    text = re.sub(r"(resp|msg|rs|fc)_[0-9a-f]{32}", r"\1", json.dumps(response))
    return {**json.loads(text), "created_at": 0, "timings": None}


def text_of(response: Any) -> str:
    return "".join(
        part["text"]
        for item in response["output"]
        if item["type"] == "message"
        for part in item["content"]
    )


# Answers


def test_whole_answer(server: Gateway, saw: Callable[[], str]) -> None:
    body = answered(server, metadata={"a": "b"}, user="me")
    assert body["object"] == "response"
    assert body["status"] == "completed"
    assert body["model"] == "tiny"
    assert body["metadata"] == {"a": "b"}
    (item,) = body["output"]
    assert (item["type"], item["status"], item["role"]) == ("message", "completed", "assistant")
    assert item["content"] == [
        {"type": "output_text", "text": "All is well.", "annotations": [], "logprobs": []}
    ]
    assert body["usage"]["output_tokens"] == 3
    assert saw() == "[user]|Hello[assistant]"


@pytest.mark.parametrize("fields", [{}, {"max_output_tokens": 2}, {"stop": "is"}])
def test_stream_equals_whole(server: Gateway, fields: dict[str, Any]) -> None:
    whole = answered(server, seed=3, **fields)
    events = streamed(server, seed=3, **fields)
    assert without_ids(events[-1]["response"]) == without_ids(whole)
    deltas = [e["delta"] for e in events if e["type"] == "response.output_text.delta"]
    assert "".join(deltas) == text_of(whole)


def test_the_end_of_the_room_is_incomplete(server: Gateway) -> None:
    body = answered(server, max_output_tokens=1)
    assert body["status"] == "incomplete"
    assert body["incomplete_details"] == {"reason": "max_output_tokens"}
    assert streamed(server, max_output_tokens=1)[-1]["type"] == "response.incomplete"


def test_reasoning_is_an_item_of_its_own(
    server: Gateway, scripts: Scripts, saw: Callable[[], str]
) -> None:
    scripts.now = Script(pieces=("<think>", "Hm", ".", "</think>", "Well", "."))
    body = answered(server, model="thinker")
    assert [item["type"] for item in body["output"]] == ["reasoning", "message"]
    assert body["output"][0]["content"] == [{"type": "reasoning_text", "text": "Hm."}]
    assert body["output"][0]["summary"] == []
    assert body["usage"]["output_tokens_details"]["reasoning_tokens"] > 0
    assert without_ids(streamed(server, model="thinker")[-1]["response"]) == without_ids(body)
    answered(server, model="thinker", input="And?", previous_response_id=body["id"])
    assert saw() == "[user]|Hello[assistant]Hm.|Well.[user]|And?[assistant]"
    answered(server, model="thinker", input=[*body["output"], {"role": "user", "content": "So?"}])
    assert saw() == "[assistant]Hm.|Well.[user]|So?[assistant]"


def test_calls_are_items_and_their_results_go_on(
    server: Gateway, scripts: Scripts, saw: Callable[[], str]
) -> None:
    tool = {"type": "function", "name": "look", "parameters": {"type": "object"}}
    asked: dict[str, Any] = {"model": "caller", "tools": [tool]}
    scripts.now = Script(pieces=('<tool_call>{"name": "look", ', '"arguments": {}}</tool_call>'))
    body = answered(server, **asked)
    (call,) = body["output"]
    assert (call["type"], call["name"], call["arguments"]) == ("function_call", "look", "{}")
    assert body["status"] == "completed"
    events = streamed(server, **asked)
    assert "response.function_call_arguments.done" in [event["type"] for event in events]
    told = without_ids(events[-1]["response"])
    assert told["output"][0].pop("call_id") != call["call_id"]
    assert told["output"][0]["arguments"] == "{}"
    scripts.now = Script()
    result = {"type": "function_call_output", "call_id": call["call_id"], "output": "grey"}
    last = answered(server, **asked, input=[result], previous_response_id=body["id"])
    assert text_of(last) == "All is well."
    assert "[user]Hello[assistant]<tool_call>" in saw()
    assert saw().endswith("</tool_call>[tool]grey[assistant]")


def test_fields_without_effect_are_accepted(server: Gateway) -> None:
    answered(
        server,
        user="me",
        safety_identifier="x",
        prompt_cache_key="y",
        service_tier="auto",
        truncation="disabled",
        background=False,
        reasoning={"summary": "auto"},
        include=["reasoning.encrypted_content"],
        text={"format": {"type": "text"}, "verbosity": "medium"},
        tools=[],
        tool_choice="auto",
    )


# What is kept


def test_a_response_goes_on_from_another(server: Gateway, saw: Callable[[], str]) -> None:
    first = answered(server, instructions="Be brief.")
    assert saw() == "[system]|Be brief.[user]|Hello[assistant]"
    second = answered(server, input="More?", previous_response_id=first["id"])
    assert second["previous_response_id"] == first["id"]
    assert saw() == "[user]|Hello[assistant]|All is well.[user]|More?[assistant]"
    answered(server, input="Yes?", previous_response_id=second["id"], instructions="Be long.")
    assert saw() == (
        "[system]|Be long.[user]|Hello[assistant]|All is well.[user]|More?"
        "[assistant]|All is well.[user]|Yes?[assistant]"
    )


def test_a_streamed_response_is_kept_before_its_last_event(server: Gateway) -> None:
    body = {"model": "tiny", "input": "Hello", "stream": True}
    with server.client.stream("POST", "/v1/responses", json=body) as response:
        for line in response.iter_lines():
            if line.startswith("data: ") and '"response.completed"' in line:
                told = json.loads(line.removeprefix("data: "))["response"]
                kept = server.client.get(f"/v1/responses/{told['id']}")
                assert kept.json() == told
                return
    raise AssertionError("no last event came")


def test_kept_responses_are_told_again_and_deleted(server: Gateway) -> None:
    body = answered(server)
    path = f"/v1/responses/{body['id']}"
    assert server.client.get(path).json() == body
    assert server.client.get(path, params={"stream": "true"}).json()["error"]["param"] == "stream"
    assert server.client.delete(path).json() == {
        "id": body["id"],
        "object": "response",
        "deleted": True,
    }
    for gone in (server.client.get(path), server.client.delete(path)):
        assert gone.status_code == 404
        assert gone.json()["error"]["param"] == "response_id"
    gone = ask(server, previous_response_id=body["id"])
    assert gone.status_code == 404
    assert gone.json()["error"]["param"] == "previous_response_id"
    assert gone.json()["error"]["code"] == "response_not_found"


def test_what_is_not_to_be_stored_is_not(server: Gateway) -> None:
    body = answered(server, store=False)
    assert body["store"] is False
    assert server.client.get(f"/v1/responses/{body['id']}").status_code == 404


# Refusals


REFUSED: list[tuple[dict[str, Any], int, str | None, str]] = [
    ({"foo": 1}, 400, "foo", "does not know the field foo"),
    ({"background": True}, 400, "background", "False"),
    ({"conversation": "conv_1"}, 400, "conversation", "None"),
    ({"prompt": {"id": "x"}}, 400, "prompt", "None"),
    ({"truncation": "auto"}, 400, "truncation", "'disabled'"),
    ({"input": []}, 400, "input", "at least 1"),
    ({"input": [{"role": "robot", "content": "x"}]}, 400, "input.0.role", "'user'"),
    ({"input": [{"type": "item_reference", "id": "x"}]}, 400, "input.0.type", "'message'"),
    (
        {"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
        400,
        "input.0.content.0.type",
        "'input_text'",
    ),
    ({"tools": [{"type": "web_search"}]}, 400, "tools.0.type", "'web_search'"),
    ({"tools": [{"type": "function"}]}, 400, "tools.0.name", "missing"),
    ({"tool_choice": {"type": "mcp"}}, 400, "tool_choice.type", "'required'"),
    ({"tool_choice": "required"}, 400, "tool_choice", "there are none"),
    ({"reasoning": {"effort": "high"}}, 400, "reasoning.effort", "no levels"),
    ({"max_output_tokens": 0}, 400, "max_output_tokens", "greater than or equal to 1"),
    ({"top_logprobs": 2}, 400, "top_logprobs", "include"),
    ({"include": ["message.output_text.logprobs"]}, 400, "include", "log-probabilities"),
    ({"text": {"format": {"type": "xml"}}}, 400, "text.format.type", "'json_schema'"),
    ({"text": {"format": {"type": "json_object"}}}, 400, "text.format", "constrain"),
    ({"metadata": {"a": 1}}, 400, "metadata.a", "valid string"),
    ({"user": "\ud800"}, 400, "user", "unicode"),
    ({"input": "\ud800"}, 400, "input", "half a character"),
    (
        {"tools": [{"type": "function", "name": "x", "parameters": {"x": "\ud800"}}]},
        400,
        "tools.0.parameters",
        "half a character",
    ),
    ({"temperature": 3}, 400, "temperature", "less than or equal to 2"),
    ({"previous_response_id": "resp_x"}, 404, "previous_response_id", "no response"),
    ({"model": "tinny:1b"}, 404, None, "no model called"),
    ({"input": "word " * 200}, 400, None, "context holds 256"),
]


@pytest.mark.parametrize(("fields", "status", "param", "words"), REFUSED)
def test_refused_fields(
    server: Gateway, fields: dict[str, Any], status: int, param: str | None, words: str
) -> None:
    for stream in ({}, {"stream": True}):
        response = ask(server, **fields, **stream)
        assert response.status_code == status, response.text
        error = response.json()["error"]
        assert set(error) == {"message", "type", "param", "code", "values"}
        assert error["param"] == param
        assert words in error["message"]


# Failures, and clients that leave


def test_an_error_after_the_first_byte_is_the_last_event(server: Gateway, scripts: Scripts) -> None:
    scripts.now = Script(crash_after=2)
    *_, last = streamed(server)
    assert last["type"] == "response.failed"
    assert last["response"]["status"] == "failed"
    assert last["response"]["error"]["code"] == "server_error"
    assert text_of(last["response"]) == "All is "
    assert server.client.get(f"/v1/responses/{last['response']['id']}").status_code == 404
    assert ask(server).status_code == 503


# The official client


def test_official_client(server: Gateway, saw: Callable[[], str]) -> None:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        whole = client.responses.create(model="tiny", input="Hello")
        assert whole.output_text == "All is well."
        assert client.responses.retrieve(whole.id).output_text == whole.output_text
        with client.responses.stream(model="tiny", input="Hello") as stream:
            text = "".join(
                event.delta for event in stream if event.type == "response.output_text.delta"
            )
            assert text == stream.get_final_response().output_text == "All is well."
        back: Any = [*whole.output, {"role": "user", "content": "More?"}]
        client.responses.create(model="tiny", input=back)
        assert saw() == "[assistant]|All is well.[user]|More?[assistant]"
        client.responses.delete(whole.id)
        with pytest.raises(openai.NotFoundError, match="no response"):
            client.responses.create(model="tiny", input="x", previous_response_id=whole.id)
