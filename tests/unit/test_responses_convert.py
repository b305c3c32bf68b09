"""Responses: items to turns, and parts to events that the official types accept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter, ValidationError

from freehold.api.openai import responses_convert as convert
from freehold.api.openai.responses_events import Making
from freehold.api.openai.responses_schema import ResponseObject, ResponsesRequest
from freehold.api.openai.responses_store import Kept, ResponseNotFound, ResponseStore
from freehold.api.problem import Problem
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
from freehold.domain.chat import ChatRequest, Message, Role, ToolCall, ToolChoice, ToolUse
from freehold.domain.errors import InvalidRequest
from freehold.domain.events import Alternative, Timings, TokenLogprob

EVENTS: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


def body(**fields: Any) -> ResponsesRequest:
    return ResponsesRequest.model_validate({"model": "m", "input": "Hello", **fields})


def asked(before: Sequence[Message] = (), **fields: Any) -> ChatRequest:
    given = body(**fields)
    return convert.chat_request(
        given, convert.said(given, before), cache_scope="local", deadline=1.0
    )


def turns(items: list[dict[str, Any]], before: Sequence[Message] = ()) -> tuple[Message, ...]:
    return asked(before, input=items).conversation.messages


def ended(reason: EndReason = EndReason.STOP) -> Ended:
    return Ended(reason, AnswerUsage(10, 4, 7, 2), Timings(0, 0, 0), seed=1)


def made(*parts: Part, **fields: Any) -> tuple[list[dict[str, Any]], ResponseObject]:
    """The events, each of them as the official client would read it, and the response."""
    making = Making(convert.blank("resp_1", 0, "m", body(**fields)))
    events = [event.model_dump() for part in parts for event in making.of(part)]
    for event in events:
        EVENTS.validate_python(event)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    Response.model_validate(making.response.model_dump())
    return events, making.response


# What goes in


def test_a_text_is_a_users_message() -> None:
    request = asked(instructions="Be brief.")
    assert request.conversation.messages == (
        Message(Role.SYSTEM, "Be brief."),
        Message(Role.USER, "Hello"),
    )


def test_items_become_turns() -> None:
    items: list[dict[str, Any]] = [
        {"role": "developer", "content": "Use tools."},
        {"role": "user", "content": [{"type": "input_text", "text": "Weather?"}]},
        {
            "type": "reasoning",
            "id": "rs_1",
            "summary": [],
            "content": [{"type": "reasoning_text", "text": "Look."}],
            "status": "completed",
        },
        {
            "type": "message",
            "id": "msg_1",
            "role": "assistant",
            "status": "completed",
            "content": [
                {"type": "output_text", "text": "I look.", "annotations": [], "logprobs": []}
            ],
        },
        {"type": "function_call", "call_id": "a", "name": "look", "arguments": "{}"},
        {"type": "function_call", "call_id": "b", "name": "feel", "arguments": "{}", "id": "fc"},
        {"type": "function_call_output", "call_id": "b", "output": "cold"},
        {
            "type": "function_call_output",
            "call_id": "a",
            "output": [{"type": "input_text", "text": "grey"}],
        },
    ]
    assert turns(items) == (
        Message(Role.SYSTEM, "Use tools."),
        Message(Role.USER, "Weather?"),
        Message(
            Role.ASSISTANT,
            "I look.",
            reasoning="Look.",
            tool_calls=(ToolCall("a", "look", "{}"), ToolCall("b", "feel", "{}")),
        ),
        Message(Role.TOOL, "cold", tool_call_id="b", tool_name="feel"),
        Message(Role.TOOL, "grey", tool_call_id="a", tool_name="look"),
    )


def test_two_answers_in_a_row_are_two_turns() -> None:
    items = [{"role": "assistant", "content": "One."}, {"role": "assistant", "content": "Two."}]
    assert [message.content for message in turns(items)] == ["One.", "Two."]


def test_a_result_knows_its_tool_from_an_earlier_response() -> None:
    before = (
        Message(Role.USER, "Look."),
        Message(Role.ASSISTANT, "", tool_calls=(ToolCall("a", "look", "{}"),)),
    )
    items = [{"type": "function_call_output", "call_id": "a", "output": "grey"}]
    *earlier, last = turns(items, before)
    assert tuple(earlier) == before
    assert last.tool_name == "look"


def test_what_was_answered_goes_on_as_one_turn() -> None:
    said = (Message(Role.USER, "Hello"),)
    _, response = made(
        Begun(1, 0),
        ReasoningDelta("Hm."),
        ContentDelta("I look."),
        ToolCallBegun(0, "a", "look"),
        ToolCallDelta(0, "{}"),
        ended(EndReason.TOOL_CALLS),
    )
    assert convert.remembered(said, response.output) == (
        *said,
        Message(
            Role.ASSISTANT, "I look.", reasoning="Hm.", tool_calls=(ToolCall("a", "look", "{}"),)
        ),
    )
    sent_back = [item.model_dump() for item in response.output]
    assert turns(sent_back) == convert.remembered((), response.output)


def test_tools_are_flat() -> None:
    tool = {"type": "function", "name": "look", "parameters": {"type": "object"}, "strict": True}
    request = asked(tools=[tool], tool_choice="required", parallel_tool_calls=False)
    assert request.conversation.tools[0].name == "look"
    assert request.tool_choice == ToolChoice(ToolUse.REQUIRED, None, parallel=False)
    named = asked(tools=[tool], tool_choice={"type": "function", "name": "look"})
    assert named.tool_choice == ToolChoice(ToolUse.REQUIRED, "look")


def test_formats_and_reasoning() -> None:
    schema = {"type": "json_schema", "name": "x", "schema": {"type": "integer"}, "strict": True}
    constraint = asked(text={"format": schema}).constraint
    assert constraint is not None
    assert constraint.text == '{"type": "integer"}'
    assert asked(text={"format": {"type": "text"}}).constraint is None
    assert asked(text={"format": {"type": "json_object"}}).constraint is not None
    assert asked(reasoning={"effort": "none"}).conversation.reasoning.enabled is False
    assert asked(reasoning={"effort": "low"}).conversation.reasoning.effort == "low"


def test_logprobs_are_included_where_asked_for() -> None:
    included = ["message.output_text.logprobs"]
    assert asked().top_logprobs is None
    assert asked(include=included).top_logprobs == 0
    assert asked(include=included, top_logprobs=3).top_logprobs == 3
    with pytest.raises(InvalidRequest, match="include"):
        asked(top_logprobs=3)


@pytest.mark.parametrize(
    "fields",
    [
        {"background": True},
        {"conversation": "conv_1"},
        {"prompt": {"id": "pmpt_1"}},
        {"truncation": "auto"},
        {"tools": [{"type": "web_search"}]},
        {"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": []}},
        {"input": []},
        {"input": [{"type": "item_reference", "id": "x"}]},
        {"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
        {"input": [{"type": "reasoning", "summary": [], "encrypted_content": "x"}]},
        {"include": ["file_search_call.results"]},
        {"text": {"verbosity": "high"}},
        {"metadata": {"k": "v" * 513}},
    ],
)
def test_what_is_not_here_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        body(**fields)


def test_errors_name_the_field_that_was_sent() -> None:
    for deeper, own in (("messages", "input"), ("response_format", "text.format"), ("seed",) * 2):
        assert convert.in_own_words(InvalidRequest("No.", field=deeper)).field == own


# What comes out


def test_a_text_in_official_events() -> None:
    events, response = made(
        Begun(1, 0), ContentDelta("Hel"), ContentDelta("lo"), ended(), metadata={"a": "b"}
    )
    assert [event["type"].removeprefix("response.") for event in events] == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert events[2]["item"]["content"] == []
    assert events[3]["part"]["text"] == ""
    assert [event["delta"] for event in events[4:6]] == ["Hel", "lo"]
    assert events[6]["text"] == events[7]["part"]["text"] == "Hello"
    assert events[-1]["response"] == response.model_dump()
    assert events[0]["response"]["status"] == events[1]["response"]["status"] == "in_progress"
    assert response.status == "completed"
    assert response.metadata == {"a": "b"}
    assert response.usage is not None
    assert response.usage.model_dump() == {
        "input_tokens": 10,
        "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 6},
        "output_tokens": 7,
        "output_tokens_details": {"reasoning_tokens": 2},
        "total_tokens": 17,
    }


def test_reasoning_text_and_calls_are_items_of_their_own() -> None:
    events, response = made(
        Begun(1, 0),
        ReasoningDelta("H"),
        ReasoningDelta("m."),
        ContentDelta("I look."),
        ToolCallBegun(0, "call_a", "look"),
        ToolCallDelta(0, '{"a":'),
        ToolCallDelta(0, "1}"),
        ToolCallBegun(1, "call_b", "feel"),
        ToolCallDelta(1, "{}"),
        ended(EndReason.TOOL_CALLS),
    )
    assert [item.type for item in response.output] == [
        *("reasoning", "message", "function_call", "function_call")
    ]
    assert all(item.status == "completed" for item in response.output)
    added = [event for event in events if event["type"] == "response.output_item.added"]
    done = [event for event in events if event["type"] == "response.output_item.done"]
    assert [event["output_index"] for event in added] == [0, 1, 2, 3]
    assert [event["item"] for event in done] == [item.model_dump() for item in response.output]
    assert [event["item"]["id"] for event in added] == [item.id for item in response.output]
    arguments = [e for e in events if e["type"] == "response.function_call_arguments.done"]
    assert [event["arguments"] for event in arguments] == ['{"a":1}', "{}"]
    thought = [e for e in events if e["type"].startswith("response.reasoning_text")]
    assert [e.get("delta", e.get("text")) for e in thought] == ["H", "m.", "Hm."]


def test_the_end_of_the_room_is_incomplete() -> None:
    events, response = made(Begun(1, 0), ReasoningDelta("Hm."), ended(EndReason.LENGTH))
    assert events[-1]["type"] == "response.incomplete"
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"
    assert [item.status for item in response.output] == ["incomplete"]


def test_an_empty_answer_is_an_empty_message() -> None:
    _, response = made(Begun(1, 0), ended())
    (item,) = response.output
    assert item.type == "message"
    assert item.content[0].text == ""


def test_logprobs_wait_for_a_text() -> None:
    one = TokenLogprob(Alternative(1, b"x", -0.5), (Alternative(2, b"y", -1.5),))
    events, response = made(
        Begun(1, 0), ContentDelta("", (one,)), ContentDelta("xx", (one,)), ended()
    )
    (item,) = response.output
    assert item.type == "message"
    assert [found.logprob for found in item.content[0].logprobs] == [-0.5, -0.5]
    (delta,) = [event for event in events if event["type"] == "response.output_text.delta"]
    assert delta["logprobs"][0]["top_logprobs"][0]["token"] == "y"


def test_a_failure_keeps_what_was_said() -> None:
    making = Making(convert.blank("resp_1", 0, "m", body()))
    for part in (Begun(1, 0), ContentDelta("Hel")):
        making.of(part)
    (event,) = making.failed(Problem(503, "engine_crashed", "It died."), "server_error")
    dumped = event.model_dump()
    EVENTS.validate_python(dumped)
    assert dumped["type"] == "response.failed"
    assert dumped["response"]["error"]["message"] == "It died."
    assert dumped["response"]["output"][0]["status"] == "incomplete"


def test_what_was_asked_for_is_told() -> None:
    tool = {"type": "function", "name": "look", "parameters": None, "strict": None}
    schema = {"type": "json_schema", "name": "x", "schema": {"type": "integer"}}
    told = convert.blank(
        "resp_1",
        0,
        "m",
        body(
            tools=[tool],
            tool_choice={"type": "function", "name": "look"},
            text={"format": schema},
            temperature=0.25,
            store=False,
        ),
    )
    read = Response.model_validate(told.model_dump())
    assert told.tools[0]["name"] == "look"
    assert told.tool_choice == {"type": "function", "name": "look"}
    assert told.text["format"]["schema"] == {"type": "integer"}
    assert (told.temperature, told.top_p, told.store) == (0.25, 0.95, False)
    assert read.status == "in_progress"


# What is kept


def kept(text: str) -> Kept:
    return Kept("{}", (Message(Role.USER, text),))


def test_the_least_recently_used_leaves() -> None:
    store = ResponseStore(max_count=2)
    store.put("s", "a", kept("a"))
    store.put("s", "b", kept("b"))
    store.get("s", "a", field="f")
    store.put("s", "c", kept("c"))
    with pytest.raises(ResponseNotFound) as raised:
        store.get("s", "b", field="previous_response_id")
    assert raised.value.field == "previous_response_id"
    assert store.get("s", "a", field="f").messages[0].content == "a"


def test_bytes_are_bounded_too() -> None:
    store = ResponseStore(max_bytes=100)
    store.put("s", "a", kept("x" * 60))
    store.put("s", "b", kept("x" * 60))
    with pytest.raises(ResponseNotFound):
        store.get("s", "a", field="f")
    store.put("s", "huge", kept("x" * 200))
    for identity in ("huge", "b"):
        with pytest.raises(ResponseNotFound):
            store.get("s", identity, field="f")
    store.put("s", "c", kept("x" * 60))
    assert store.get("s", "c", field="f")


def test_scopes_do_not_see_each_other() -> None:
    store = ResponseStore(max_count=1)
    store.put("mine", "a", kept("secret"))
    store.put("yours", "b", kept("else"))
    with pytest.raises(ResponseNotFound):
        store.get("yours", "a", field="f")
    with pytest.raises(ResponseNotFound):
        store.delete("yours", "a", field="f")
    store.delete("mine", "a", field="f")
    with pytest.raises(ResponseNotFound):
        store.get("mine", "a", field="f")
