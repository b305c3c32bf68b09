"""Ollama's words and ours, both ways, without a server."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import ValidationError

from freehold.api.ollama import convert, lines, models
from freehold.api.ollama.lines import Lines, Moment, Speaker, Wording, as_json
from freehold.api.ollama.names import bare_name, tagged_name
from freehold.api.ollama.schema import ChatRequest, GenerateRequest
from freehold.api.problem import Problem
from freehold.domain import answers
from freehold.domain import chat as domain
from freehold.domain.answers import Part
from freehold.domain.chat import CompletionRequest, Message, ReasoningWish, Role, ToolCall
from freehold.domain.errors import InvalidRequest
from freehold.domain.events import Alternative, Timings, TokenLogprob
from freehold.domain.sampling import Constraint, Grammar, Sampling
from freehold.runtime.answering import Collector

NOW = Moment(datetime(2026, 1, 2, 3, 4, 5, 678, UTC), 2.5)


def chat(**fields: Any) -> domain.ChatRequest:
    body = ChatRequest.model_validate(
        {"model": "m", "messages": [{"role": "user", "content": "Hi"}], **fields}
    )
    return convert.chat_request(body, "ours", cache_scope="s", deadline=9.0)


def generate(**fields: Any) -> domain.ChatRequest | CompletionRequest:
    body = GenerateRequest.model_validate({"model": "m", "prompt": "Hi", **fields})
    return convert.generate_request(body, "ours", cache_scope="s", deadline=9.0)


# Requests


def test_what_is_left_out_keeps_our_defaults() -> None:
    request = chat()
    assert request == domain.ChatRequest(
        "ours",
        domain.Conversation((Message(Role.USER, "Hi"),)),
        cache_scope="s",
        deadline=9.0,
    )
    assert generate() == request
    assert generate(options={}, format="", system="", suffix="", images=[], context=[]) == request


def test_every_option_with_an_effect_has_it() -> None:
    options = {
        "temperature": 0.5,
        "top_k": 3,
        "top_p": 0.4,
        "min_p": 0.1,
        "typical_p": 0.9,
        "seed": 7,
        "stop": ["a", "b"],
        "repeat_penalty": 1.2,
        "repeat_last_n": 32,
        "presence_penalty": 0.3,
        "frequency_penalty": -0.4,
        "num_predict": 12,
    }
    request = chat(options=options)
    assert request.max_tokens == 12
    assert request.sampling == Sampling(
        temperature=0.5,
        top_k=3,
        top_p=0.4,
        min_p=0.1,
        typical_p=0.9,
        seed=7,
        stop=("a", "b"),
        repetition_penalty=1.2,
        penalty_window=32,
        presence_penalty=0.3,
        frequency_penalty=-0.4,
    )
    assert generate(options=options).sampling == request.sampling
    assert generate(options=options, raw=True).sampling == request.sampling


@pytest.mark.parametrize(("given", "window"), [(-1, None), (0, 0), (64, 64)])
def test_how_far_penalties_look_back(given: int, window: int | None) -> None:
    assert chat(options={"repeat_last_n": given}).sampling.penalty_window == window


@pytest.mark.parametrize("given", [-1, -2, None])
def test_an_answer_without_a_bound(given: int | None) -> None:
    assert chat(options={"num_predict": given}).max_tokens is None


def test_no_tokens_at_all_are_no_answer() -> None:
    with pytest.raises(InvalidRequest, match="at least 1") as caught:
        chat(options={"num_predict": 0})
    assert caught.value.field == "options.num_predict"


def test_seed_minus_one_is_none() -> None:
    assert chat(options={"seed": -1}).sampling.seed is None
    assert chat(options={"seed": 0}).sampling.seed == 0


def test_a_system_prompt_is_a_turn() -> None:
    request = generate(system="Be brief.")
    assert isinstance(request, domain.ChatRequest)
    assert request.conversation.messages == (
        Message(Role.SYSTEM, "Be brief."),
        Message(Role.USER, "Hi"),
    )


def test_raw_and_suffix_go_on_with_text_as_it_is() -> None:
    raw = generate(raw=True, options={"num_predict": 3}, format="json")
    assert raw == CompletionRequest(
        "ours",
        "Hi",
        max_tokens=3,
        cache_scope="s",
        deadline=9.0,
        constraint=Constraint(Grammar.JSON_SCHEMA, '{"type": "object"}'),
    )
    hole = generate(suffix="end")
    assert isinstance(hole, CompletionRequest)
    assert (hole.prompt, hole.suffix) == ("Hi", "end")


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"raw": True, "system": "x"}, "system"),
        ({"raw": True, "think": False}, "think"),
        ({"suffix": "x", "think": True}, "think"),
        ({"template": "{{ .Prompt }}"}, "template"),
        ({"context": [1, 2]}, "context"),
        ({"images": ["aGk="]}, "images"),
        ({"top_logprobs": 2}, "top_logprobs"),
    ],
)
def test_what_generate_cannot_do_is_refused_by_name(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        generate(**fields)
    assert caught.value.field == field
    told = convert.error_body(Problem(400, "x", caught.value.message, caught.value.field))
    assert field in told.error


def test_images_in_a_conversation_are_refused_where_they_are() -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "user", "images": ["aGk="]}]
    with pytest.raises(InvalidRequest) as caught:
        chat(messages=turns)
    assert caught.value.field == "messages.1.images"
    assert chat(messages=[{"role": "user", "content": "a", "images": []}])


@pytest.mark.parametrize("role", ["system", "user", "assistant", "tool"])
def test_whoever_speaks_may_show_no_images_and_no_one_may_show_some(role: str) -> None:
    """Some clients put the list on every turn."""
    asked = {"role": "user", "content": "a"}
    assert chat(messages=[asked, {"role": role, "content": "b", "images": []}])
    with pytest.raises(InvalidRequest) as caught:
        chat(messages=[asked, {"role": role, "content": "b", "images": ["aGk="]}])
    assert caught.value.field == "messages.1.images"


@pytest.mark.parametrize(
    ("given", "wish"),
    [
        (None, ReasoningWish()),
        (True, ReasoningWish(enabled=True)),
        (False, ReasoningWish(enabled=False)),
        ("high", ReasoningWish(effort="high")),
    ],
)
def test_think(given: Any, wish: ReasoningWish) -> None:
    assert chat(think=given).conversation.reasoning == wish
    request = generate(think=given)
    assert isinstance(request, domain.ChatRequest)
    assert request.conversation.reasoning == wish


def test_format_is_a_word_or_a_schema() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    constraint = chat(format=schema).constraint
    assert constraint is not None
    assert json.loads(constraint.text) == schema
    assert chat(format="json").constraint == Constraint(Grammar.JSON_SCHEMA, '{"type": "object"}')


def test_logprobs() -> None:
    assert chat(logprobs=True).top_logprobs == 0
    assert chat(logprobs=True, top_logprobs=4).top_logprobs == 4
    assert chat(logprobs=False, top_logprobs=0).top_logprobs is None


def test_tools_are_told_with_their_schema() -> None:
    parameters = {"type": "object", "properties": {"city": {"type": "string"}}}
    function = {"name": "weather", "description": "Tells it.", "parameters": parameters}
    (tool,) = chat(tools=[{"function": function}]).conversation.tools
    assert (tool.name, tool.description) == ("weather", "Tells it.")
    assert json.loads(tool.parameters) == parameters


def called(name: str, identity: str | None = None, **arguments: Any) -> dict[str, Any]:
    call: dict[str, Any] = {"function": {"name": name, "arguments": arguments}}
    return call if identity is None else {"id": identity, **call}


def test_results_find_the_calls_they_answer() -> None:
    turns = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "thinking": "hm", "tool_calls": [called("a", x=1), called("b")]},
        {"role": "tool", "tool_name": "b", "content": "B"},
        {"role": "tool", "content": "A"},
        {"role": "assistant", "tool_calls": [called("a", "mine", y=None)]},
        {"role": "tool", "tool_call_id": "mine", "content": "A2"},
        {"role": "tool", "tool_name": "c", "content": "nobody asked"},
    ]
    messages = chat(messages=turns).conversation.messages
    first, second = messages[1].tool_calls
    assert first == ToolCall("call_0", "a", '{"x": 1}')
    assert second == ToolCall("call_1", "b", "{}")
    assert messages[1].reasoning == "hm"
    assert (messages[2].tool_call_id, messages[2].tool_name) == ("call_1", "b")
    assert (messages[3].tool_call_id, messages[3].tool_name) == ("call_0", "a")
    assert (messages[5].tool_call_id, messages[5].tool_name) == ("mine", "a")
    assert (messages[6].tool_call_id, messages[6].tool_name) == (None, "c")


@pytest.mark.parametrize(
    ("keep_alive", "unloads"),
    [
        *((each, True) for each in (0, 0.0, -0.0, "0", "0s", "0h0m", "-0")),
        *((each, False) for each in (None, -1, 300, 0.5, "5m", "-1", "1h30m", "1.5h", "10µs")),
    ],
)
def test_keep_alive(keep_alive: Any, unloads: bool) -> None:
    body = ChatRequest.model_validate({"model": "m", "keep_alive": keep_alive})
    assert convert.unloads(body) is unloads


@pytest.mark.parametrize(
    "keep_alive",
    ["", "soon", "5 minutes", "5x", "5m\n", True, [], float("inf"), float("nan"), 10**400],
)
def test_what_is_no_duration(keep_alive: Any) -> None:
    with pytest.raises(ValidationError):
        ChatRequest.model_validate({"model": "m", "keep_alive": keep_alive})


def test_what_only_loads() -> None:
    prompts: tuple[dict[str, Any], ...] = ({}, {"prompt": ""}, {"prompt": None}, {"system": "x"})
    for fields in prompts:
        assert convert.only_loads(GenerateRequest.model_validate({"model": "m", **fields}))
    turns: tuple[dict[str, Any], ...] = ({}, {"messages": []}, {"messages": None})
    for fields in turns:
        assert convert.only_loads(ChatRequest.model_validate({"model": "m", **fields}))
    assert not convert.only_loads(GenerateRequest.model_validate({"model": "m", "prompt": "x"}))


def test_the_context_that_is_needed_must_be_there() -> None:
    body = ChatRequest.model_validate({"model": "m", "options": {"num_ctx": 512}})
    convert.require_context(body, 512)
    with pytest.raises(InvalidRequest, match=r"num_ctx is 512.* context of 511\.") as caught:
        convert.require_context(body, 511)
    assert caught.value.field == "options.num_ctx"


# Names


@pytest.mark.parametrize(
    ("given", "bare", "tagged"),
    [
        ("tiny", "tiny", "tiny:latest"),
        ("tiny:latest", "tiny", "tiny:latest"),
        ("Tiny", "Tiny", "tiny:latest"),
        ("tiny:1b", "tiny:1b", None),
        ("./tiny.gguf", "./tiny.gguf", None),
        ("hf:owner/repo:Q4_K_M", "hf:owner/repo:Q4_K_M", None),
        ("hf.co/owner/repo:Q4_K_M", "hf:owner/repo:Q4_K_M", None),
        ("huggingface.co/owner/repo:latest", "hf:owner/repo", None),
        ("two words", "two words", None),
        ("\ud800", "\ud800", None),
    ],
)
def test_names(given: str, bare: str, tagged: str | None) -> None:
    assert bare_name(given) == bare
    assert tagged_name(bare) == tagged


# Answers

BEGUN = answers.Begun(5, 2)
ENDED = answers.Ended(
    answers.EndReason.STOP,
    answers.AnswerUsage(5, 2, 7),
    Timings(queued=0.1, prefill=0.25, decode=1.5),
    seed=1,
)
LOGPROB = TokenLogprob(
    Alternative(1, b"y\xc3", -0.5), (Alternative(1, b"y\xc3", -0.5), Alternative(2, b"n", -1e30))
)
PARTS: tuple[Part, ...] = (
    BEGUN,
    answers.ReasoningDelta("hm"),
    answers.ReasoningDelta(" hm"),
    answers.ContentDelta("I ", (LOGPROB,)),
    answers.ContentDelta("call."),
    answers.ToolCallBegun(0, "call_a", "weather"),
    answers.ToolCallDelta(0, '{"city": '),
    answers.ToolCallDelta(0, '"Oslo", "day": null}'),
    answers.ToolCallBegun(1, "call_b", "time"),
    answers.ToolCallDelta(1, "{}"),
    ENDED,
)


def told(wording: Wording, parts: tuple[Part, ...]) -> list[dict[str, Any]]:
    """Each line as JSON."""
    speaker = Lines(Speaker(wording, "m", 0.5))
    return [json.loads(as_json(line)) for part in parts for line in speaker.of(part, NOW)]


def whole(wording: Wording, parts: tuple[Part, ...]) -> dict[str, Any]:
    collector = Collector()
    for part in parts:
        collector.add(part)
    made: dict[str, Any] = json.loads(
        as_json(Speaker(wording, "m", 0.5).whole(collector.whole(), NOW))
    )
    return made


CALLS = [
    {"id": "call_a", "function": {"name": "weather", "arguments": {"city": "Oslo", "day": None}}},
    {"id": "call_b", "function": {"name": "time", "arguments": {}}},
]


def test_a_conversations_lines() -> None:
    said = told(lines.chatted, PARTS)
    assert all(line["model"] == "m" for line in said)
    assert all(line["created_at"] == "2026-01-02T03:04:05.000678Z" for line in said)
    assert [line["done"] for line in said] == [False] * 6 + [True]
    assert [line["message"] for line in said] == [
        {"role": "assistant", "content": "", "thinking": "hm"},
        {"role": "assistant", "content": "", "thinking": " hm"},
        {"role": "assistant", "content": "I "},
        {"role": "assistant", "content": "call."},
        {"role": "assistant", "content": "", "tool_calls": CALLS[:1]},
        {"role": "assistant", "content": "", "tool_calls": CALLS[1:]},
        {"role": "assistant", "content": ""},
    ]
    assert said[2]["logprobs"] == [
        {
            "token": "y\ufffd",
            "logprob": -0.5,
            "bytes": [121, 195],
            "top_logprobs": [
                {"token": "y\ufffd", "logprob": -0.5, "bytes": [121, 195]},
                {"token": "n", "logprob": -9999.0, "bytes": [110]},
            ],
        }
    ]
    assert said[-1] == {
        "model": "m",
        "created_at": "2026-01-02T03:04:05.000678Z",
        "message": {"role": "assistant", "content": ""},
        "done": True,
        "done_reason": "stop",
        "total_duration": 2_500_000_000,
        "load_duration": 500_000_000,
        "prompt_eval_count": 5,
        "prompt_eval_duration": 250_000_000,
        "eval_count": 7,
        "eval_duration": 1_500_000_000,
    }


def test_a_whole_conversation_says_what_its_lines_say() -> None:
    said, at_once = told(lines.chatted, PARTS), whole(lines.chatted, PARTS)
    assert at_once["message"] == {
        "role": "assistant",
        "content": "".join(line["message"]["content"] for line in said),
        "thinking": "".join(line["message"].get("thinking", "") for line in said),
        "tool_calls": [c for line in said for c in line["message"].get("tool_calls", [])],
    }
    assert at_once["logprobs"] == said[2]["logprobs"]
    for field in set(said[-1]) - {"message"}:
        assert at_once[field] == said[-1][field]


def test_generated_lines_and_the_whole() -> None:
    parts = (*PARTS[:5], ENDED)
    said, at_once = told(lines.generated, parts), whole(lines.generated, parts)
    assert [(line["response"], line.get("thinking")) for line in said] == [
        ("", "hm"),
        ("", " hm"),
        ("I ", None),
        ("call.", None),
        ("", None),
    ]
    assert (at_once["response"], at_once["thinking"]) == ("I call.", "hm hm")
    assert at_once["done_reason"] == "stop"


@pytest.mark.parametrize(
    ("reason", "told_as"),
    [
        (answers.EndReason.STOP, "stop"),
        (answers.EndReason.STOP_STRING, "stop"),
        (answers.EndReason.LENGTH, "length"),
        (answers.EndReason.TOOL_CALLS, "stop"),
    ],
)
def test_why_it_ended(reason: answers.EndReason, told_as: str) -> None:
    ended = answers.Ended(reason, ENDED.usage, ENDED.timings, seed=None)
    assert told(lines.chatted, (BEGUN, ended))[-1]["done_reason"] == told_as


def test_a_request_that_only_loads_is_over_at_once() -> None:
    line = json.loads(as_json(Speaker(lines.generated, "m", 0.5).nothing("load", NOW)))
    assert (line["response"], line["done"], line["done_reason"]) == ("", True, "load")
    assert "eval_count" not in line


# Errors


@pytest.mark.parametrize(
    ("field", "message", "sentence"),
    [
        ("reasoning", "No.", 'think: "m" does not support thinking. No.'),
        ("reasoning_effort", "No.", 'think: "m" does not support levels of thinking. No.'),
        ("tools", "No.", '"m" does not support tools. No.'),
        ("suffix", "No.", 'suffix: "m" does not support insert. No.'),
        ("response_format", "No.", "format: No."),
        ("logprobs", "No.", "logprobs: No."),
        (None, "No.", "No."),
    ],
)
def test_a_refusal_names_the_callers_own_field(
    field: str | None, message: str, sentence: str
) -> None:
    error = convert.in_own_words(InvalidRequest(message, field=field), "m")
    body = convert.error_body(Problem(400, error.code, error.message, error.field))
    values = {} if error.field is None else {"field": error.field}
    assert body.model_dump() == {"error": sentence, "code": "invalid_request", "values": values}


# Models


@pytest.mark.parametrize(
    ("count", "text"),
    [(288, "288"), (12_500, "12.50K"), (494_032_768, "494.03M"), (8_030_261_248, "8.0B")],
)
def test_human_counts(count: int, text: str) -> None:
    assert models.human_count(count) == text


def test_capabilities_show_in_the_template() -> None:
    assert models.capabilities("", fills_holes=False) == ["completion"]
    assert models.capabilities("</think>", fills_holes=True) == [
        "completion",
        "thinking",
        "insert",
    ]


def test_parameters_are_our_defaults() -> None:
    pairs = dict(line.split() for line in models.parameters(256).splitlines())
    assert pairs == {
        "num_ctx": "256",
        "repeat_penalty": "1.0",
        "temperature": "0.7",
        "top_k": "40",
        "top_p": "0.95",
    }
