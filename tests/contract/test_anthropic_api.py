"""Anthropic's API over the scripted engine: what clients are told, whatever happens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import pytest

from freehold.domain.sampling import Sampling
from freehold.engines.llamacpp.probe_model import tokeniser_metadata
from freehold.engines.scripted import Script
from freehold.weights.gguf_writer import Array
from tests.support.gateway import Gateway, Scripts, gateway
from tests.support.tiny_model import write_tiny_llama

pytestmark = pytest.mark.native  # the text child tokenises with llama.cpp

HELLO = {"role": "user", "content": "Hello"}
TOOL = {"name": "clock", "input_schema": {"type": "object"}}
IMAGE = {"type": "image", "source": {"type": "url", "url": "https://example.org/x.png"}}
REASONING_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{{ m.content.split('</think>')[-1] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    folder = tmp_path_factory.mktemp("models")
    template = {"tokenizer.chat_template": REASONING_TEMPLATE}
    return (
        write_tiny_llama(folder / "tiny.gguf"),
        write_tiny_llama(folder / "thinker.gguf", metadata=template),
    )


def ask(server: Gateway, **fields: Any) -> httpx2.Response:
    body = {"model": "tiny", "max_tokens": 20, "messages": [HELLO], **fields}
    return server.client.post("/v1/messages", json=body)


def count(server: Gateway, **fields: Any) -> httpx2.Response:
    body = {"model": "tiny", "messages": [HELLO], **fields}
    return server.client.post("/v1/messages/count_tokens", json=body)


def events(response: httpx2.Response) -> list[Any]:
    """The JSON of each event, whose name is its type."""
    found = []
    for block in response.text.removesuffix("\n\n").split("\n\n"):
        name, data = block.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    return found


def refusal(response: httpx2.Response) -> tuple[str, str]:
    """Kind and message of an error, whose shape is looked at on the way."""
    body = response.json()
    assert set(body) == {"type", "error"}
    assert body["type"] == "error"
    assert set(body["error"]) == {"type", "message"}
    return body["error"]["type"], body["error"]["message"]


def prompt(scripts: Scripts) -> str:
    """What the engine was asked to go on from."""
    assert scripts.asked is not None
    tokens = tokeniser_metadata()["tokenizer.ggml.tokens"]
    assert isinstance(tokens, Array)
    spelled = "".join(str(tokens.items[token]) for token in scripts.asked.prompt)
    return spelled.replace("Ġ", " ").replace("Ċ", "\n")


# Answers


def test_whole_answer_with_usage(server: Gateway) -> None:
    body = ask(server).json()
    assert body.pop("id").startswith("msg_")
    usage = body.pop("usage")
    assert body == {
        "type": "message",
        "role": "assistant",
        "model": "tiny",
        "content": [{"type": "text", "text": "All is well."}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
    }
    assert usage["output_tokens"] == 3
    assert usage["input_tokens"] > 3


def test_stream_equals_whole(server: Gateway) -> None:
    whole = ask(server).json()
    response = ask(server, stream=True)
    assert response.headers["content-type"].startswith("text/event-stream")
    found = events(response)
    assert [event["type"] for event in found] == [
        "message_start",
        "content_block_start",
        *["content_block_delta"] * 3,
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert found[0]["message"]["model"] == "tiny"
    text = "".join(event["delta"]["text"] for event in found[2:5])
    assert text == whole["content"][0]["text"]
    assert found[-2]["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}
    assert found[-2]["usage"] == whole["usage"]


def test_thinking_is_a_block_of_its_own(server: Gateway, scripts: Scripts) -> None:
    scripts.now = Script(pieces=("<think>", "So ", "be it.", "</think>", "Yes."))
    whole = ask(server, model="thinker").json()
    assert whole["content"] == [
        {"type": "thinking", "thinking": "So be it.", "signature": "unsigned"},
        {"type": "text", "text": "Yes."},
    ]
    found = events(ask(server, model="thinker", stream=True))
    deltas = [event["delta"] for event in found if event["type"] == "content_block_delta"]
    assert "".join(delta.get("thinking", "") for delta in deltas) == "So be it."
    assert [delta["type"] for delta in deltas][-2:] == ["signature_delta", "text_delta"]


def test_thinking_that_is_switched_off(server: Gateway, scripts: Scripts) -> None:
    answer = ask(server, model="thinker", thinking={"type": "disabled"})
    assert [block["type"] for block in answer.json()["content"]] == ["text"]
    assert prompt(scripts).endswith("<think>\n\n</think>\n\n")


def test_max_tokens_and_stop_sequences_have_effect(server: Gateway) -> None:
    cut = ask(server, max_tokens=1).json()
    assert (cut["content"][0]["text"], cut["stop_reason"]) == ("All ", "max_tokens")
    stopped = ask(server, stop_sequences=["never", "wel"]).json()
    assert stopped["content"][0]["text"] == "All is "


def test_sampling_reaches_the_engine(server: Gateway, scripts: Scripts) -> None:
    ask(server, temperature=0.25, top_p=0.5, top_k=7, seed=11, stop_sequences=["x"])
    assert scripts.asked is not None
    assert scripts.asked.sampling == Sampling(
        temperature=0.25, top_p=0.5, top_k=7, seed=11, stop=("x",)
    )


def test_a_prefill_ends_the_prompt(server: Gateway, scripts: Scripts) -> None:
    ask(server, messages=[HELLO, {"role": "assistant", "content": "The answer is ("}])
    assert prompt(scripts).endswith("assistant\nThe answer is (")


def test_turns_of_tools_reach_the_template(server: Gateway, scripts: Scripts) -> None:
    """Old calls and their results are told even where no tool may be called now."""
    called = {"type": "tool_use", "id": "toolu_1", "name": "clock", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "12:00"}
    turns = [
        HELLO,
        {"role": "assistant", "content": [called]},
        {"role": "user", "content": [{"type": "text", "text": "Well?"}, result]},
    ]
    assert ask(server, messages=turns).status_code == 200
    told = prompt(scripts).replace("<|im_start|>", "<").replace("<|im_end|>\n", ">")
    assert told == "<user\nHello><assistant\n><tool\n12:00><user\nWell?><assistant\n"


def test_fields_without_effect_are_accepted(server: Gateway) -> None:
    cached = {"type": "ephemeral", "ttl": "1h"}
    response = ask(
        server,
        messages=[
            {"role": "user", "content": [{"type": "text", "text": "x", "cache_control": cached}]}
        ],
        system=[{"type": "text", "text": "y", "cache_control": cached, "citations": None}],
        metadata={"user_id": "me"},
        service_tier="auto",
        cache_control=cached,
        tools=[{**TOOL, "cache_control": cached, "eager_input_streaming": True}],
        tool_choice={"type": "none"},
        thinking={"type": "adaptive"},
    )
    assert response.status_code == 200, response.text


def test_headers_that_are_not_known_are_fine(server: Gateway) -> None:
    response = server.client.post(
        "/v1/messages?beta=true",
        json={"model": "tiny", "max_tokens": 1, "messages": [HELLO]},
        headers={"anthropic-version": "2023-06-01", "anthropic-beta": "x", "x-api-key": "none"},
    )
    assert response.status_code == 200


# Counting


def test_a_count_is_what_the_request_takes(server: Gateway) -> None:
    fields = {"system": "Be brief.", "messages": [HELLO, {"role": "assistant", "content": "I"}]}
    assert count(server, **fields).json() == {
        "input_tokens": ask(server, **fields).json()["usage"]["input_tokens"]
    }


def test_counting_loads_nothing(models: tuple[Path, ...], tmp_path: Path) -> None:
    with gateway(tmp_path, models, script=lambda _: Script()) as server:
        assert count(server).json()["input_tokens"] > 3
        assert server.engines == []


def test_a_count_is_refused_as_the_request_is(server: Gateway) -> None:
    assert count(server, model="absent").status_code == 404
    for fields in ({"tools": [TOOL]}, {"thinking": {"type": "enabled", "budget_tokens": 1}}):
        counted, asked = count(server, **fields), ask(server, **fields)
        assert (counted.status_code, counted.json()) == (400, asked.json())
    assert refusal(count(server, max_tokens=1))[1].endswith("does not know the field max_tokens.")


# Refusals: one shape, the field by name


def user(*blocks: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(blocks)}]}


def assistant(*blocks: Any) -> dict[str, Any]:
    return {"messages": [HELLO, {"role": "assistant", "content": list(blocks)}]}


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"foo": 1}, "does not know the field foo."),
    ({"reasoning": 1}, "does not know the field reasoning."),
    ({"max_tokens": None}, "The field max_tokens is not valid"),
    ({"max_tokens": 0}, "The field max_tokens is not valid"),
    ({"max_tokens": 256}, "asks for 256 more; the context holds 256"),
    ({"temperature": "hot"}, "The field temperature is not valid"),
    ({"top_p": 0}, "The field top_p is not valid"),
    ({"stop_sequences": ["x"] * 9}, "The field stop_sequences is not valid"),
    ({"stop_sequences": [""]}, "The field stop_sequences.0 is not valid"),
    ({"service_tier": "priority"}, "The field service_tier is not valid"),
    ({"messages": []}, "The field messages is not valid"),
    ({"messages": [{"role": "user"}]}, "The field messages.0.content is missing"),
    ({"messages": [{"role": "robot", "content": "x"}]}, "The field messages.0.role is not valid"),
    (user(), "The field messages.0.content is not valid"),
    (user(7), "The field messages.0.content.0.type is not valid"),
    (user({"text": "x"}), "The field messages.0.content.0.type is not valid"),
    (user(IMAGE), "The field messages.0.content.0.type is not valid"),
    (user({"type": "document", "source": {}}), "it must be one of 'text', 'tool_result'"),
    (user({"type": "text"}), "The field messages.0.content.0.text is missing"),
    (user({"type": "text", "text": 7}), "The field messages.0.content.0.text is not valid"),
    (
        user({"type": "text", "text": "x", "foo": 1}),
        "does not know the field messages.0.content.0.foo.",
    ),
    (
        user({"type": "tool_result", "tool_use_id": "a", "content": [IMAGE]}),
        "The field messages.0.content.0.content.0.type is not valid",
    ),
    (user({"type": "tool_use", "id": "a", "name": "b", "input": {}}), "one of 'text'"),
    (
        assistant({"type": "thinking", "thinking": 7}),
        "The field messages.1.content.0.thinking is not valid",
    ),
    (assistant({"type": "server_tool_use"}), "The field messages.1.content.0.type is not valid"),
    (
        assistant({"type": "tool_use", "id": "a", "name": "b", "input": {}}),
        "messages: The last turn calls a tool",
    ),
    ({"system": [IMAGE]}, "The field system.0.type is not valid"),
    ({"tools": [TOOL]}, "tools: This model's chat template does not know of tools."),
    (
        {"tools": [{"type": "web_search_20250305", "name": "web_search"}]},
        "The field tools.0.type is not valid: this server has no tool 'web_search_20250305'",
    ),
    ({"tools": [{"name": "x"}]}, "The field tools.0.input_schema is missing"),
    ({"tools": [{**TOOL, "name": "a b"}]}, "The field tools.0.name is not valid"),
    ({"tool_choice": {"type": "any"}}, "tool_choice: A tool is to be called"),
    ({"tool_choice": {"type": "all"}}, "The field tool_choice.type is not valid"),
    ({"tool_choice": {"type": "tool"}}, "The field tool_choice.name is missing"),
    (
        {"thinking": {"type": "enabled", "budget_tokens": 5}},
        "thinking: This model does not reason",
    ),
    ({"thinking": {"type": "enabled"}}, "The field thinking.budget_tokens is missing"),
    (
        {"thinking": {"type": "enabled", "budget_tokens": 20}},
        "thinking.budget_tokens: It must be less than max_tokens",
    ),
    ({"thinking": {"type": "between_tools"}}, "The field thinking.type is not valid"),
    (
        {"thinking": {"type": "adaptive", "display": "omitted"}},
        "The field thinking.display is not valid",
    ),
    (
        {"model": "thinker", "thinking": {"type": "enabled", "budget_tokens": 5}},
        "thinking: This model's reasoning cannot be cut",
    ),
    (
        {"output_config": {"effort": "low"}},
        "output_config.effort: This model's chat template knows no levels",
    ),
    (
        {"output_config": {"format": {"type": "json_schema", "schema": {"type": "nonsense"}}}},
        "output_config.format: ",
    ),
    ({"output_config": {"format": {"type": "xml"}}}, "output_config.format.type"),
]


@pytest.mark.parametrize(("fields", "words"), REFUSED)
def test_refused_fields(server: Gateway, fields: dict[str, Any], words: str) -> None:
    for stream in (False, True):
        response = ask(server, **fields, stream=stream)
        assert response.status_code == 400
        kind, message = refusal(response)
        assert kind == "invalid_request_error"
        assert words in message


def test_max_tokens_is_required(server: Gateway) -> None:
    response = server.client.post("/v1/messages", json={"model": "tiny", "messages": [HELLO]})
    assert refusal(response)[1] == "The field max_tokens is missing."


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("claude-sonnet", "no model called 'claude-sonnet'"),
        ("../../etc/passwd", "named when the server starts"),
        ("deepseek-r1:1.5b", "freehold pull deepseek-r1:1.5b"),
    ],
)
def test_models_that_are_not_there(server: Gateway, model: str, words: str) -> None:
    response = ask(server, model=model)
    assert response.status_code == 404
    kind, message = refusal(response)
    assert kind == "not_found_error"
    assert words in message


def test_every_refusal_has_the_same_shape(server: Gateway) -> None:
    client, path = server.client, "/v1/messages"
    json_type = {"content-type": "application/json"}
    responses = [
        client.post(path, content=b'{"model": ', headers=json_type),
        client.post(path, content=b"[1]", headers=json_type),
        client.get(f"{path}/nothing"),
        client.get(path),
        client.post(path, content=b"{}", headers={"content-type": "text/plain"}),
        client.post(path, content=b"x" * (8 << 20) + b"x", headers=json_type),
        client.get(path, headers={"host": "evil.test"}),
        client.post(path, json={}, headers={"origin": "https://evil.test"}),
    ]
    assert [(each.status_code, refusal(each)[0]) for each in responses] == [
        (400, "invalid_request_error"),
        (400, "invalid_request_error"),
        (404, "not_found_error"),
        (405, "invalid_request_error"),
        (415, "invalid_request_error"),
        (413, "request_too_large"),
        (403, "permission_error"),
        (403, "permission_error"),
    ]


# Failures of the engine


def test_a_crash_before_the_first_token_is_not_seen_by_the_client(
    server: Gateway, scripts: Scripts
) -> None:
    for stream in (False, True):
        scripts.per_attempt = [Script(crash_after=0), Script()]
        response = ask(server, stream=stream)
        assert response.status_code == 200
        assert "well." in response.text


def test_a_crash_after_the_first_token_is_an_event(server: Gateway, scripts: Scripts) -> None:
    scripts.per_attempt = [Script(crash_after=2)]
    found = events(ask(server, stream=True))
    assert [event["type"] for event in found[:3]] == [
        "message_start",
        "content_block_start",
        "content_block_delta",
    ]
    assert found[-1]["type"] == "error"
    assert found[-1]["error"]["type"] == "overloaded_error"
    assert "told to crash" in found[-1]["error"]["message"]
    assert ask(server).status_code == 200


def test_deadline_answers_503_with_retry_after(models: tuple[Path, ...], tmp_path: Path) -> None:
    slow = Script(first_token_seconds=30)
    with gateway(tmp_path, models, script=lambda _: slow, deadline=1) as server:
        for stream in (False, True):
            response = ask(server, stream=stream)
            assert response.status_code == 503
            assert int(response.headers["retry-after"]) > 0
            assert refusal(response)[0] == "overloaded_error"


def test_load_failure_is_told(models: tuple[Path, ...], tmp_path: Path) -> None:
    broken = Script(load_error="Out of luck.")
    with gateway(tmp_path, models, script=lambda _: broken) as server:
        response = ask(server)
        assert response.status_code == 503
        assert refusal(response) == ("api_error", "Out of luck.")


# Who may ask


def test_a_key_may_come_as_anthropic_clients_send_it(
    models: tuple[Path, ...], tmp_path: Path
) -> None:
    with gateway(tmp_path, models, script=lambda _: Script(), api_key="secret") as server:

        def status(**headers: str) -> int:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            return server.client.get("/v1/models", headers=named).status_code

        assert status(x_api_key="secret") == 200
        assert status(authorization="Bearer secret") == 200
        assert status(authorization="Bearer other", x_api_key="secret") == 200
        assert status(x_api_key="secreT") == 401
        assert status(x_api_key="") == 401
        assert status(authorization="Basic secret") == 401
        assert status() == 401
        assert refusal(ask(server))[0] == "authentication_error"
        with (
            anthropic.Anthropic(base_url=server.url, api_key="other", max_retries=0) as client,
            pytest.raises(anthropic.AuthenticationError, match="x-api-key"),
        ):
            client.messages.count_tokens(
                model="tiny", messages=[{"role": "user", "content": "Hello"}]
            )


# The official client


def test_official_client(server: Gateway, scripts: Scripts) -> None:
    hello: Any = [HELLO]
    with anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0) as client:
        whole = client.messages.create(model="tiny", max_tokens=20, messages=hello)
        assert whole.stop_reason == "end_turn"
        scripts.now = Script(pieces=("<think>", "So ", "be it.", "</think>", "Yes."))
        with client.messages.stream(model="thinker", max_tokens=20, messages=hello) as stream:
            final = stream.get_final_message()
        thought, said = final.content
        assert isinstance(thought, anthropic.types.ThinkingBlock)
        assert isinstance(said, anthropic.types.TextBlock)
        assert (thought.thinking, thought.signature) == ("So be it.", "unsigned")
        assert said.text == "Yes."
        assert final.usage.output_tokens == 5
        # What the client was given it may give back.
        again: Any = [HELLO, {"role": "assistant", "content": final.content}, HELLO]
        client.messages.create(model="thinker", max_tokens=20, messages=again)
        scripts.now = Script()
        scripts.per_attempt = [Script(crash_after=2)]
        with (
            client.messages.stream(model="tiny", max_tokens=20, messages=hello) as stream,
            pytest.raises(anthropic.APIStatusError, match="told to crash"),
        ):
            stream.get_final_message()
