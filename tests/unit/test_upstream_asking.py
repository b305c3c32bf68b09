"""What an upstream is asked: every field of ours is said in its words, or refused by name."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from typing import Any

import pytest

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
from freehold.domain.errors import InvalidRequest
from freehold.domain.sampling import Constraint, Dry, Grammar, Sampling
from freehold.domain.upstreams import Upstream, UpstreamKind
from freehold.engines.upstream.asking import beginning_of, body_of, expected_tokens

OPENAI, VLLM = UpstreamKind.OPENAI, UpstreamKind.VLLM
LLAMA_SERVER, FREEHOLD = UpstreamKind.LLAMA_SERVER, UpstreamKind.FREEHOLD
HELLO = Message(Role.USER, "Hello")
ASKED = ChatRequest("big", Conversation((HELLO,)))
TOOL = Tool("look", "Look it up.", '{"type": "object", "properties": {"what": {"type": "string"}}}')


def body(asked: ChatRequest = ASKED, kind: UpstreamKind = OPENAI) -> dict[str, Any]:
    return body_of(Upstream("big", ("https://h/v1",), "org/Big", kind), asked)


def test_the_least_that_is_asked() -> None:
    assert body() == {
        "model": "org/Big",
        "messages": [{"role": "user", "content": "Hello"}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.7,
        "top_p": 0.95,
    }


# A value other than the usual one → where it stands in the body, by kind; None: it is refused.
SAID: dict[str, tuple[Any, dict[UpstreamKind, Any]]] = {
    "temperature": (0.0, {kind: {"temperature": 0.0} for kind in UpstreamKind}),
    "top_p": (0.5, {kind: {"top_p": 0.5} for kind in UpstreamKind}),
    "top_k": (5, {kind: {"top_k": 5} for kind in (VLLM, LLAMA_SERVER, FREEHOLD)}),
    "min_p": (0.1, {kind: {"min_p": 0.1} for kind in (VLLM, LLAMA_SERVER, FREEHOLD)}),
    "typical_p": (0.9, {kind: {"typical_p": 0.9} for kind in (LLAMA_SERVER, FREEHOLD)}),
    "repetition_penalty": (1.1, {kind: {"repetition_penalty": 1.1} for kind in (VLLM, FREEHOLD)}),
    "presence_penalty": (0.5, {kind: {"presence_penalty": 0.5} for kind in UpstreamKind}),
    "frequency_penalty": (0.5, {kind: {"frequency_penalty": 0.5} for kind in UpstreamKind}),
    "penalty_window": (64, {kind: {} for kind in UpstreamKind}),  # of no penalty
    "dry": (Dry(0.8), {}),
    "logit_bias": (((7, -1.0),), {kind: {"logit_bias": {"7": -1.0}} for kind in UpstreamKind}),
    "seed": (7, {kind: {"seed": 7} for kind in UpstreamKind}),
    "stop": (("x",), {kind: {"stop": ["x"]} for kind in UpstreamKind}),
    "ignore_end": (True, {kind: {"ignore_eos": True} for kind in (VLLM, LLAMA_SERVER, FREEHOLD)}),
}


def test_no_field_of_sampling_is_forgotten() -> None:
    assert set(SAID) == {field.name for field in dataclasses.fields(Sampling)}


@pytest.mark.parametrize("kind", UpstreamKind)
@pytest.mark.parametrize("name", SAID)
def test_each_field_of_sampling_is_said_or_refused(name: str, kind: UpstreamKind) -> None:
    value, said = SAID[name]
    asked = replace(ASKED, sampling=replace(Sampling(), **{name: value}))
    if kind not in said:
        with pytest.raises(InvalidRequest, match=f"kind {kind}") as error:
            body(asked, kind)
        assert error.value.field == {"ignore_end": "ignore_eos"}.get(name, name)
    else:
        assert said[kind].items() <= body(asked, kind).items()


def test_a_window_for_penalties_is_refused_where_there_are_penalties() -> None:
    sampling = Sampling(presence_penalty=0.5, penalty_window=64)
    with pytest.raises(InvalidRequest) as error:
        body(replace(ASKED, sampling=sampling), FREEHOLD)
    assert error.value.field == "penalty_window"


@pytest.mark.parametrize("kind", [VLLM, LLAMA_SERVER, FREEHOLD])
def test_what_is_usual_here_is_said_where_something_else_may_be_usual(kind: UpstreamKind) -> None:
    assert {"top_k": 40, "min_p": 0.0}.items() <= body(kind=kind).items()


def test_messages_of_every_role() -> None:
    call = ToolCall("c1", "look", '{"what": "x"}')
    told = Conversation(
        (
            Message(Role.SYSTEM, "Be brief."),
            HELLO,
            Message(Role.ASSISTANT, "", reasoning="Hm.", tool_calls=(call,)),
            Message(Role.TOOL, "42", tool_call_id="c1", tool_name="look"),
        )
    )
    called = {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {
                "id": "c1",
                "type": "function",
                "function": {"name": "look", "arguments": '{"what": "x"}'},
            }
        ],
    }
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
        called,
        {"role": "tool", "content": "42", "tool_call_id": "c1"},
    ]
    asked = replace(ASKED, conversation=told)
    assert body(asked)["messages"] == messages
    messages[2] = {**called, "reasoning_content": "Hm."}
    assert body(asked, VLLM)["messages"] == messages


def test_tools_and_which_of_them() -> None:
    told = replace(ASKED, conversation=replace(ASKED.conversation, tools=(TOOL,)))
    said = body(told)
    assert said["tool_choice"] == "auto"
    assert said["tools"][0]["function"]["parameters"]["properties"] == {"what": {"type": "string"}}
    assert "parallel_tool_calls" not in said
    named = body(replace(told, tool_choice=ToolChoice(ToolUse.REQUIRED, "look", parallel=False)))
    assert named["tool_choice"] == {"type": "function", "function": {"name": "look"}}
    assert named["parallel_tool_calls"] is False
    assert (
        body(replace(told, tool_choice=ToolChoice(ToolUse.REQUIRED)))["tool_choice"] == "required"
    )
    assert "tools" not in body(replace(told, tool_choice=ToolChoice(ToolUse.NONE)))


@pytest.mark.parametrize(
    ("constraint", "kind", "wanted"),
    [
        (
            Constraint(Grammar.JSON_SCHEMA, '{"enum": [1]}'),
            OPENAI,
            {
                "type": "json_schema",
                "json_schema": {"name": "answer", "schema": {"enum": [1]}, "strict": True},
            },
        ),
        (Constraint(Grammar.JSON_SCHEMA, '{"type": "object"}'), VLLM, {"type": "json_object"}),
        (Constraint(Grammar.REGEX, "a+"), FREEHOLD, {"type": "regex", "regex": "a+"}),
        (Constraint(Grammar.LARK, 'start: "a"'), FREEHOLD, {"type": "lark", "lark": 'start: "a"'}),
        (Constraint(Grammar.REGEX, "a+"), VLLM, None),
        (Constraint(Grammar.LARK, 'start: "a"'), OPENAI, None),
    ],
)
def test_constraints(constraint: Constraint, kind: UpstreamKind, wanted: object) -> None:
    asked = replace(ASKED, constraint=constraint)
    if wanted is None:
        with pytest.raises(InvalidRequest) as error:
            body(asked, kind)
        assert error.value.field == "response_format"
    else:
        assert body(asked, kind)["response_format"] == wanted


@pytest.mark.parametrize(
    ("wish", "kind", "wanted"),
    [
        (ReasoningWish(enabled=False), OPENAI, {"reasoning_effort": "none"}),
        (ReasoningWish(budget=0), FREEHOLD, {"reasoning_effort": "none"}),
        (
            ReasoningWish(enabled=False),
            VLLM,
            {"chat_template_kwargs": {"enable_thinking": False}},
        ),
        (ReasoningWish(effort="high"), OPENAI, {"reasoning_effort": "high"}),
        (ReasoningWish(budget=100), FREEHOLD, {"reasoning_budget": 100}),
        (ReasoningWish(budget=100), OPENAI, None),
        (ReasoningWish(budget=100), VLLM, None),
    ],
)
def test_reasoning(wish: ReasoningWish, kind: UpstreamKind, wanted: dict[str, Any] | None) -> None:
    asked = replace(ASKED, conversation=replace(ASKED.conversation, reasoning=wish))
    if wanted is None:
        with pytest.raises(InvalidRequest) as error:
            body(asked, kind)
        assert error.value.field == "reasoning"
    else:
        assert wanted.items() <= body(asked, kind).items()


def test_an_answer_that_was_begun_is_not_gone_on_with() -> None:
    told = replace(ASKED.conversation, continues=True)
    with pytest.raises(InvalidRequest, match="go on with an answer"):
        body(replace(ASKED, conversation=told), VLLM)


def test_lengths_and_logprobs() -> None:
    said = body(replace(ASKED, max_tokens=9, top_logprobs=2))
    assert {"max_tokens": 9, "logprobs": True, "top_logprobs": 2}.items() <= said.items()


def test_what_one_scope_has_said_no_other_finds_in_the_cache_of_vllm() -> None:
    salts = {body(replace(ASKED, cache_scope=scope), VLLM)["cache_salt"] for scope in ("a", "b")}
    assert len(salts) == 2
    assert "cache_salt" not in body()


def test_all_turns_of_a_conversation_begin_alike() -> None:
    first = Conversation((Message(Role.SYSTEM, "S"), HELLO))
    later = replace(first, messages=(*first.messages, Message(Role.ASSISTANT, "Hi"), HELLO))
    one = beginning_of(replace(ASKED, conversation=first))
    assert beginning_of(replace(ASKED, conversation=later)) == one
    others = [
        replace(ASKED, conversation=replace(first, messages=(HELLO,))),
        replace(ASKED, conversation=replace(first, tools=(TOOL,))),
        replace(ASKED, conversation=first, cache_scope="another"),
    ]
    assert len({one, *map(beginning_of, others)}) == 4


def test_what_a_request_is_expected_to_take() -> None:
    long = replace(ASKED, conversation=Conversation((Message(Role.USER, "x" * 400),)))
    assert expected_tokens(replace(long, max_tokens=10)) == 110
    assert expected_tokens(long) == 1124
