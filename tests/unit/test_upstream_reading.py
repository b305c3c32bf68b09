"""What the chunks of an upstream mean, and which of them mean nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest

from freehold.domain.answers import (
    AnswerUsage,
    Begun,
    ContentDelta,
    EndReason,
    Part,
    ReasoningDelta,
    ToolCallBegun,
    ToolCallDelta,
)
from freehold.domain.events import Alternative, TokenLogprob
from freehold.engines.upstream.reading import NO_TOKEN, Nonsense, Reader, chunk_of


def reader(*, parallel_calls: bool = True) -> Reader:
    ticks = iter(range(1, 100))
    return Reader(
        began=0.0, seed=None, parallel_calls=parallel_calls, clock=lambda: float(next(ticks))
    )


def read(found: Reader, *choices: dict[str, Any], **more: Any) -> list[Part]:
    data = json.dumps({"choices": list(choices), **more}).encode()
    return found.read(chunk_of(data))


def delta(**fields: Any) -> dict[str, Any]:
    return {"index": 0, "delta": fields}


def call(index: int, arguments: str | None = None, **more: Any) -> dict[str, Any]:
    function = {"arguments": arguments, **more}
    return delta(tool_calls=[{"index": index, "id": f"c{index}", "function": function}])


def end(reason: str = "stop", **more: Any) -> dict[str, Any]:
    return {"index": 0, "delta": {}, "finish_reason": reason, **more}


def test_signs_of_life_begin_nothing() -> None:
    found = reader()
    assert read(found, delta(role="assistant", content="")) == []
    assert read(found) == []
    assert found.first_token is None
    assert read(found, delta(content="a")) == [Begun(0, 0), ContentDelta("a")]
    assert found.first_token is not None


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_reasoning_has_two_names(field: str) -> None:
    assert read(reader(), delta(**{field: "Hm."})) == [Begun(0, 0), ReasoningDelta("Hm.")]


def test_usage_whenever_it_comes() -> None:
    found = reader()
    usage = {
        "prompt_tokens": 9,
        "completion_tokens": 4,
        "prompt_tokens_details": {"cached_tokens": 8},
        "completion_tokens_details": {"reasoning_tokens": 2},
    }
    begun, *_ = read(found, delta(content="a"), usage=usage)
    assert begun == Begun(9, 8)
    assert found.usage == AnswerUsage(9, 8, 4, 2)
    other = reader()
    read(other, delta(content="a"), usage={"prompt_tokens": 1, "prompt_tokens_details": None})
    assert other.usage == AnswerUsage(1, 0, 1)
    assert not reader().counted


def test_tool_calls_one_after_the_other() -> None:
    found = reader()
    parts = [
        *read(found, call(0, name="look")),
        *read(found, call(0, '{"a":')),
        *read(found, call(0, " 1}")),
        *read(found, call(1, "", name="go")),
        *read(found, end("tool_calls")),
    ]
    assert parts == [
        Begun(0, 0),
        ToolCallBegun(0, "c0", "look"),
        ToolCallDelta(0, '{"a":'),
        ToolCallDelta(0, " 1}"),
        ToolCallBegun(1, "c1", "go"),
        ToolCallDelta(1, "{}"),
    ]
    assert found.ended().reason is EndReason.TOOL_CALLS


def test_only_the_first_call_where_one_is_wanted() -> None:
    found = reader(parallel_calls=False)
    parts = [
        *read(found, call(0, "{}", name="look")),
        *read(found, call(1, "nonsense", name="go")),
        *read(found, end("stop")),
    ]
    assert parts == [Begun(0, 0), ToolCallBegun(0, "c0", "look"), ToolCallDelta(0, "{}")]
    assert found.ended().reason is EndReason.TOOL_CALLS


@pytest.mark.parametrize(
    ("reason", "more", "wanted", "stop"),
    [
        ("stop", {}, EndReason.STOP, None),
        ("length", {}, EndReason.LENGTH, None),
        ("stop", {"stop_reason": "\n\n"}, EndReason.STOP_STRING, "\n\n"),
        ("stop", {"stop_reason": 151645}, EndReason.STOP, None),
    ],
)
def test_ends(reason: str, more: dict[str, Any], wanted: EndReason, stop: str | None) -> None:
    found = reader()
    read(found, delta(content="a"))
    assert not found.complete
    read(found, end(reason, **more))
    ended = found.ended()
    assert (ended.reason, ended.stop, ended.seed) == (wanted, stop, None)
    assert ended.timings.prefill == found.first_token
    assert ended.first_answer is not None


def test_an_answer_of_nothing_is_one() -> None:
    found = reader()
    assert read(found, end()) == [Begun(0, 0)]
    assert found.complete


def test_logprobs_by_their_bytes() -> None:
    top = {"token": "a", "logprob": -0.5, "bytes": [97]}
    logprobs = {"content": [{**top, "top_logprobs": [top, {"token": "é", "logprob": -1.0}]}]}
    (_, part) = read(reader(), {**delta(content="a"), "logprobs": logprobs})
    a = Alternative(NO_TOKEN, b"a", -0.5)
    e = Alternative(NO_TOKEN, "é".encode(), -1.0)
    assert part == ContentDelta("a", (TokenLogprob(a, (a, e)),))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"nonsense",
        b'{"choices": [{"delta": {"content": 7}}]}',
        b"[" * 100_000,
        b'{"error": {"message": "the prompt was: secret"}}',
        b'{"error": "the prompt was: secret"}',
        b'{"choices": [{"delta": {}, "finish_reason": "content_filter"}]}',
        b'{"choices": [{"delta": {"tool_calls": [{"index": 0, "function": {}}]}}]}',
        b'{"choices": [{"delta": {"content": ""}, "logprobs": {"content":'
        b' [{"token": "a", "logprob": -1, "bytes": [256]}]}}]}',
    ],
)
def test_what_means_nothing_is_not_repeated(data: bytes) -> None:
    with pytest.raises(Nonsense) as error:
        reader().read(chunk_of(data))
    assert "secret" not in str(error.value)


def test_calls_that_make_no_sense() -> None:
    found = reader()
    read(found, call(1, "{}", name="a"))
    with pytest.raises(Nonsense, match="mixed up"):
        read(found, call(0, "{}", name="b"))
    other = reader()
    read(other, call(0, "[1]", name="a"))
    with pytest.raises(Nonsense, match="no JSON object"):
        read(other, end("tool_calls"))
    cut = reader()
    read(cut, call(0, '{"a": ', name="a"))
    read(cut, end("length"))
    assert cut.ended().reason is EndReason.LENGTH
