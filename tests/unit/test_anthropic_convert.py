"""Anthropic's words into ours and back."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freehold.api.anthropic import convert
from freehold.api.anthropic.schema import MessageRequest, TokenCountRequest
from freehold.api.problem import Problem, problem_of
from freehold.domain.answers import (
    AnswerUsage,
    Begun,
    ContentDelta,
    Ended,
    EndReason,
    Part,
    ReasoningDelta,
    ToolCallBegun,
    ToolCallDelta,
)
from freehold.domain.chat import (
    ChatRequest,
    Conversation,
    Message,
    ReasoningWish,
    Role,
    Tool,
    ToolCall,
    ToolChoice,
    ToolUse,
)
from freehold.domain.errors import DeadlineExceeded, EngineError, InvalidRequest, UnknownModel
from freehold.domain.events import Timings
from freehold.domain.sampling import Constraint, Grammar, Sampling

HELLO = {"role": "user", "content": "Hello"}
TOOL = {"name": "clock", "input_schema": {"type": "object", "properties": {}}}


def asked(**fields: Any) -> ChatRequest:
    body = {"model": "m", "max_tokens": 2000, "messages": [HELLO], **fields}
    request = MessageRequest.model_validate(body)
    return convert.chat_request(request, cache_scope="mine", deadline=7.0)


def told(*messages: dict[str, Any], **fields: Any) -> tuple[Message, ...]:
    return asked(messages=list(messages), **fields).conversation.messages


def text(words: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": words, **more}


def use(identity: str, name: str = "clock", **given: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": identity, "name": name, "input": given}


def result(identity: str, content: Any = None, **more: Any) -> dict[str, Any]:
    said = {} if content is None else {"content": content}
    return {"type": "tool_result", "tool_use_id": identity, **said, **more}


# Requests


def test_what_is_left_out_keeps_its_default() -> None:
    assert asked() == ChatRequest(
        model="m",
        conversation=Conversation((Message(Role.USER, "Hello"),)),
        max_tokens=2000,
        cache_scope="mine",
        deadline=7.0,
    )


def test_sampling() -> None:
    request = asked(temperature=1, top_p=0.5, top_k=7, seed=11, stop_sequences=["x", "y"])
    assert request.sampling == Sampling(
        temperature=1.0, top_p=0.5, top_k=7, seed=11, stop=("x", "y")
    )


@pytest.mark.parametrize("system", ["Be brief.", [text("Be brief.")]])
def test_a_system_prompt_comes_first(system: Any) -> None:
    assert told(HELLO, system=system) == (
        Message(Role.SYSTEM, "Be brief."),
        Message(Role.USER, "Hello"),
    )


def test_blocks_that_somebody_wrote_stay_apart() -> None:
    system = [text("One.", cache_control={"type": "ephemeral"}), text("Two.")]
    user = {"role": "user", "content": [text("Three."), text("Four.")]}
    assert told(user, system=system) == (
        Message(Role.SYSTEM, "One.\n\nTwo."),
        Message(Role.USER, "Three.\n\nFour."),
    )


def test_consecutive_turns_of_one_role_are_one() -> None:
    assert told(
        HELLO,
        {"role": "user", "content": "Is anyone there?"},
        {"role": "assistant", "content": "I"},
        {"role": "assistant", "content": [text(" am.")]},
        HELLO,
    ) == (
        Message(Role.USER, "Hello\n\nIs anyone there?"),
        Message(Role.ASSISTANT, "I am."),
        Message(Role.USER, "Hello"),
    )


def test_instructions_between_turns_stay_where_they_are() -> None:
    assert [each.role for each in told(HELLO, {"role": "system", "content": "Be brief."})] == [
        Role.USER,
        Role.SYSTEM,
    ]


def test_a_conversation_with_tools_and_thinking() -> None:
    messages = told(
        HELLO,
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Which day?", "signature": "x"},
                {"type": "redacted_thinking", "data": "AAAA"},
                text("I look."),
                use("a", zone="Ü"),
                use("b", "calendar"),
            ],
        },
        {
            "role": "user",
            "content": [
                text("Well?"),
                result("a", "12:00"),
                result("b", [text("Mon"), text("day")], is_error=True),
                result("c"),
            ],
        },
        tools=[TOOL],
    )
    assert messages[1:] == (
        Message(
            Role.ASSISTANT,
            "I look.",
            reasoning="Which day?",
            tool_calls=(ToolCall("a", "clock", '{"zone": "Ü"}'), ToolCall("b", "calendar", "{}")),
        ),
        Message(Role.TOOL, "12:00", tool_call_id="a", tool_name="clock"),
        Message(Role.TOOL, "Error: Mon\n\nday", tool_call_id="b", tool_name="calendar"),
        Message(Role.TOOL, "", tool_call_id="c"),
        Message(Role.USER, "Well?"),
    )


def test_results_alone_make_no_turn_of_the_user() -> None:
    called = {"role": "assistant", "content": [use("a")]}
    answered = {"role": "user", "content": [result("a", "12:00")]}
    assert [each.role for each in told(HELLO, called, answered)] == [
        Role.USER,
        Role.ASSISTANT,
        Role.TOOL,
    ]


def test_a_prefill_is_gone_on_with() -> None:
    begun = {"role": "assistant", "content": "The answer is ("}
    conversation = asked(messages=[HELLO, begun]).conversation
    assert conversation.continues
    assert conversation.messages[-1] == Message(Role.ASSISTANT, "The answer is (")
    assert not asked().conversation.continues


def test_tools() -> None:
    request = asked(tools=[{**TOOL, "type": "custom", "description": "The time."}])
    assert request.conversation.tools == (
        Tool("clock", "The time.", '{"type": "object", "properties": {}}'),
    )


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"type": "auto"}, ToolChoice()),
        ({"type": "any"}, ToolChoice(ToolUse.REQUIRED)),
        ({"type": "none"}, ToolChoice(ToolUse.NONE)),
        ({"type": "tool", "name": "clock"}, ToolChoice(ToolUse.REQUIRED, "clock")),
        (
            {"type": "any", "disable_parallel_tool_use": True},
            ToolChoice(ToolUse.REQUIRED, parallel=False),
        ),
        (
            {"type": "tool", "name": "clock", "disable_parallel_tool_use": True},
            ToolChoice(ToolUse.REQUIRED, "clock", parallel=False),
        ),
    ],
)
def test_tool_choice(choice: dict[str, Any], expected: ToolChoice) -> None:
    assert asked(tools=[TOOL], tool_choice=choice).tool_choice == expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, ReasoningWish()),
        ({"thinking": {"type": "adaptive"}}, ReasoningWish()),
        ({"thinking": {"type": "disabled"}}, ReasoningWish(enabled=False)),
        (
            {"thinking": {"type": "enabled", "budget_tokens": 1024}},
            ReasoningWish(enabled=True, budget=1024),
        ),
        (
            {"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}},
            ReasoningWish(effort="low"),
        ),
    ],
)
def test_thinking(fields: dict[str, Any], expected: ReasoningWish) -> None:
    assert asked(**fields).conversation.reasoning == expected


def test_a_schema_for_the_answer() -> None:
    form = {"type": "json_schema", "schema": {"type": "object"}}
    assert asked(output_config={"format": form}).constraint == Constraint(
        Grammar.JSON_SCHEMA, '{"type": "object"}'
    )


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        (
            {"max_tokens": 50, "thinking": {"type": "enabled", "budget_tokens": 50}},
            "thinking.budget_tokens",
        ),
        (
            {
                "messages": [HELLO, {"role": "assistant", "content": "So"}],
                "thinking": {"type": "enabled", "budget_tokens": 50},
            },
            "thinking",
        ),
        (
            {
                "messages": [HELLO, {"role": "assistant", "content": "{"}],
                "output_config": {"format": {"type": "json_schema", "schema": {}}},
            },
            "output_config.format",
        ),
        ({"messages": [HELLO, {"role": "assistant", "content": [use("a")]}]}, "messages"),
    ],
)
def test_fields_that_contradict_each_other(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        asked(**fields)
    assert caught.value.field == field


def test_a_count_is_of_the_same_prompt() -> None:
    prompted: dict[str, Any] = {
        "model": "m",
        "messages": [HELLO],
        "system": "Be brief.",
        "tools": [TOOL],
        "tool_choice": {"type": "none"},
        "thinking": {"type": "disabled"},
    }
    counted = convert.count_request(TokenCountRequest.model_validate(prompted), deadline=7.0)
    request = asked(**prompted)
    assert counted.conversation == request.conversation
    assert counted.tool_choice == request.tool_choice


# Answers


def ended(reason: EndReason = EndReason.STOP, stop: str | None = None) -> Ended:
    usage = AnswerUsage(prompt_tokens=10, cached_tokens=4, completion_tokens=6, reasoning_tokens=2)
    return Ended(reason, usage, Timings(0.0, 0.0, 0.0), seed=1, stop=stop)


THOUGHT_AND_CALLED: tuple[Part, ...] = (
    Begun(10, 4),
    ReasoningDelta("Which "),
    ReasoningDelta("day?"),
    ContentDelta("I "),
    ContentDelta(""),
    ContentDelta("look."),
    ToolCallBegun(0, "call_1f", "clock"),
    ToolCallDelta(0, '{"zone": '),
    ToolCallDelta(0, '"UTC"}'),
    ToolCallBegun(1, "call_2f", "clock"),
    ToolCallDelta(1, "{}"),
    ended(EndReason.TOOL_CALLS),
)
USAGE = {
    "input_tokens": 6,
    "cache_creation_input_tokens": 0,
    "cache_read_input_tokens": 4,
    "output_tokens": 6,
    "output_tokens_details": {"thinking_tokens": 2},
}


def whole(*parts: Part) -> Any:
    return convert.message("msg_1", "m", parts).model_dump()


def streamed(*parts: Part) -> list[Any]:
    events = convert.Events("msg_1", "m")
    return [event.model_dump() for part in parts for event in events.of(part)]


def test_a_whole_answer() -> None:
    assert whole(*THOUGHT_AND_CALLED) == {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [
            {"type": "thinking", "thinking": "Which day?", "signature": "unsigned"},
            {"type": "text", "text": "I look."},
            {"type": "tool_use", "id": "toolu_1f", "name": "clock", "input": {"zone": "UTC"}},
            {"type": "tool_use", "id": "toolu_2f", "name": "clock", "input": {}},
        ],
        "stop_reason": "tool_use",
        "stop_sequence": None,
        "usage": USAGE,
    }


@pytest.mark.parametrize(
    ("reason", "stop", "expected"),
    [
        (EndReason.STOP, None, "end_turn"),
        (EndReason.LENGTH, None, "max_tokens"),
        (EndReason.STOP_STRING, "END", "stop_sequence"),
    ],
)
def test_why_an_answer_ended(reason: EndReason, stop: str | None, expected: str) -> None:
    parts = (Begun(10, 4), ContentDelta("x"), ended(reason, stop))
    for found in (whole(*parts), streamed(*parts)[-2]["delta"]):
        assert (found["stop_reason"], found["stop_sequence"]) == (expected, stop)


def test_an_answer_without_a_word() -> None:
    assert whole(Begun(10, 4), ended())["content"] == []
    assert [event["type"] for event in streamed(Begun(10, 4), ended())] == [
        "message_start",
        "message_delta",
        "message_stop",
    ]


def test_the_sequence_of_events() -> None:
    events = streamed(*THOUGHT_AND_CALLED)
    assert [
        (event["type"].removeprefix("content_block_"), event.get("index")) for event in events
    ] == [
        ("message_start", None),
        *[("start", 0), ("delta", 0), ("delta", 0), ("delta", 0), ("stop", 0)],
        *[("start", 1), ("delta", 1), ("delta", 1), ("stop", 1)],
        *[("start", 2), ("delta", 2), ("delta", 2), ("stop", 2)],
        *[("start", 3), ("delta", 3), ("stop", 3)],
        ("message_delta", None),
        ("message_stop", None),
    ]
    assert events[0]["message"]["content"] == []
    assert events[0]["message"]["stop_reason"] is None
    assert events[0]["message"]["usage"] == {
        **USAGE,
        "output_tokens": 0,
        "output_tokens_details": {"thinking_tokens": 0},
    }
    assert events[4]["delta"] == {"type": "signature_delta", "signature": "unsigned"}
    assert events[10]["content_block"] == {
        "type": "tool_use",
        "id": "toolu_1f",
        "name": "clock",
        "input": {},
    }
    assert events[-2]["usage"] == USAGE


def put_together(events: list[Any]) -> list[Any]:
    """The blocks of a stream, as a client puts them together."""
    blocks: list[Any] = []
    arguments: dict[int, str] = {}
    for event in events:
        match event:
            case {"type": "content_block_start", "index": index, "content_block": block}:
                assert index == len(blocks)
                blocks.append(block)
            case {"type": "content_block_delta", "index": index, "delta": delta}:
                assert index == len(blocks) - 1
                match delta:
                    case {"type": "input_json_delta", "partial_json": more}:
                        arguments[index] = arguments.get(index, "") + more
                    case {"type": kind, **more}:
                        field = kind.removesuffix("_delta")
                        blocks[index][field] += more[field]
            case {"type": "content_block_stop", "index": index}:
                assert index == len(blocks) - 1
                if index in arguments:
                    blocks[index]["input"] = json.loads(arguments[index])
    return blocks


@st.composite
def answers(draw: st.DrawFn) -> tuple[Part, ...]:
    kinds = st.sampled_from(["think", "say", "call"])
    parts: list[Part] = [Begun(10, 4)]
    calls = 0
    for kind in draw(st.lists(kinds, max_size=12)):
        words = draw(st.text(max_size=4))
        match kind:
            case "think":
                parts.append(ReasoningDelta(words or "hm"))
            case "say":
                parts.append(ContentDelta(words))
            case "call":
                arguments = json.dumps({"x": words})
                cut = draw(st.integers(0, len(arguments)))
                parts.append(ToolCallBegun(calls, f"call_{calls}", "clock"))
                parts.append(ToolCallDelta(calls, arguments[:cut]))
                parts.append(ToolCallDelta(calls, arguments[cut:]))
                calls += 1
    return (*parts, ended())


@given(answers())
def test_a_stream_put_together_is_the_whole(parts: tuple[Part, ...]) -> None:
    assert put_together(streamed(*parts)) == whole(*parts)["content"]


@pytest.mark.parametrize("arguments", ["{", "[]", "[" * 100_000])
def test_arguments_that_are_no_object(arguments: str) -> None:
    with pytest.raises(EngineError, match="no JSON object"):
        whole(ToolCallBegun(0, "call_0", "clock"), ToolCallDelta(0, arguments), ended())


# Errors


@pytest.mark.parametrize(
    ("problem", "kind", "message"),
    [
        (
            problem_of(InvalidRequest("No.", field="reasoning")),
            "invalid_request_error",
            "thinking: No.",
        ),
        (
            problem_of(InvalidRequest("No.", field="reasoning_effort")),
            "invalid_request_error",
            "output_config.effort: No.",
        ),
        (
            problem_of(InvalidRequest("No.", field="response_format")),
            "invalid_request_error",
            "output_config.format: No.",
        ),
        (
            problem_of(InvalidRequest("No.", field="tools")),
            "invalid_request_error",
            "tools: No.",
        ),
        (problem_of(InvalidRequest("No.")), "invalid_request_error", "No."),
        (
            Problem(400, "unknown_field", "This server does not know the field reasoning.", "x"),
            "invalid_request_error",
            "This server does not know the field reasoning.",
        ),
        (
            problem_of(UnknownModel("x", hint="Look.")),
            "not_found_error",
            "There is no model called 'x'. Look.",
        ),
        (problem_of(DeadlineExceeded("Late.")), "overloaded_error", "Late."),
        (Problem(401, "x", "Key."), "authentication_error", "Key."),
        (Problem(413, "x", "Large."), "request_too_large", "Large."),
        (Problem(500, "x", "Ours."), "api_error", "Ours."),
        (Problem(503, "x", "No load."), "api_error", "No load."),
    ],
)
def test_errors(problem: Problem, kind: str, message: str) -> None:
    assert convert.error_body(problem).model_dump() == {
        "type": "error",
        "error": {"type": kind, "message": message},
    }
