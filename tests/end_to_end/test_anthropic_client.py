"""Anthropic's own client against the real server and the real model."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import pytest
from anthropic.types import Message, TextBlock, ToolUseBlock

from freehold.text.tools.families import format_of
from freehold.weights.gguf import read_header
from tests.end_to_end.conftest import MODEL
from tests.support.command import Server, serving

pytestmark = [pytest.mark.weights, pytest.mark.native]

COUNT: Any = [{"role": "user", "content": "Count from one to five in words."}]
CAPITAL: Any = [{"role": "user", "content": "What is the capital of France?"}]
GREEDY = {"temperature": 0}
WEATHER: Any = {
    "name": "get_weather",
    "description": "The weather in a city now.",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 40}},
        "required": ["city"],
        "additionalProperties": False,
    },
}


@pytest.fixture(scope="module")
def server(home: Path, weights: Path) -> Iterator[Server]:
    with serving(home, MODEL) as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0) as found:
        yield found


def text_of(message: Message) -> str:
    (block,) = message.content
    assert isinstance(block, TextBlock)
    return block.text


def test_streamed_is_whole_for_the_same_seed(client: anthropic.Anthropic) -> None:
    asked: dict[str, Any] = {
        "model": MODEL,
        "max_tokens": 40,
        "messages": COUNT,
        "system": "You are brief.",
        "extra_body": {"seed": 7, "temperature": 1.0},
    }
    whole = client.messages.create(**asked)
    with client.messages.stream(**asked) as stream:
        streamed = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert streamed == text_of(whole) == text_of(final)
    assert final.stop_reason == whole.stop_reason
    assert final.usage.output_tokens == whole.usage.output_tokens
    assert final.model == MODEL


def test_a_count_is_what_the_request_takes(client: anthropic.Anthropic) -> None:
    turns: Any = [
        *CAPITAL,
        {"role": "assistant", "content": "Paris."},
        {"role": "user", "content": [{"type": "text", "text": "And of Spain?"}]},
    ]
    counted = client.messages.count_tokens(model=MODEL, messages=turns, system="Be brief.")
    for _ in range(2):  # the second time most of it is cached
        usage = client.messages.create(
            model=MODEL, max_tokens=1, messages=turns, system="Be brief."
        ).usage
        cached = usage.cache_read_input_tokens or 0
        assert usage.input_tokens + cached == counted.input_tokens
    assert cached > usage.input_tokens


def test_why_an_answer_ended(client: anthropic.Anthropic) -> None:
    asked: dict[str, Any] = {"model": MODEL, "messages": COUNT, "extra_body": GREEDY}
    cut = client.messages.create(**asked, max_tokens=3)
    assert (cut.stop_reason, cut.stop_sequence) == ("max_tokens", None)
    assert cut.usage.output_tokens == 3
    stopped = client.messages.create(**asked, max_tokens=60, stop_sequences=["hree", "xyz"])
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", "hree")
    assert "hree" not in text_of(stopped)
    ended = client.messages.create(model=MODEL, messages=CAPITAL, max_tokens=60, extra_body=GREEDY)
    assert (ended.stop_reason, ended.stop_sequence) == ("end_turn", None)
    assert "Paris" in text_of(ended)


def test_a_prefill_is_gone_on_with(client: anthropic.Anthropic) -> None:
    begun: Any = [*CAPITAL, {"role": "assistant", "content": "The capital of France is"}]
    answer = client.messages.create(model=MODEL, messages=begun, max_tokens=8, extra_body=GREEDY)
    assert text_of(answer).startswith(" Paris")


def test_many_at_once_with_the_async_client(server: Server) -> None:
    async def ask() -> list[str]:
        async with anthropic.AsyncAnthropic(
            base_url=server.url, api_key="none", max_retries=0
        ) as client:

            async def whole(capital: str) -> str:
                question: Any = [{"role": "user", "content": f"What is the capital of {capital}?"}]
                answer = await client.messages.create(
                    model=MODEL, messages=question, max_tokens=30, extra_body=GREEDY
                )
                return text_of(answer)

            async def streamed() -> str:
                async with client.messages.stream(
                    model=MODEL, messages=CAPITAL, max_tokens=30, extra_body=GREEDY
                ) as stream:
                    return "".join([text async for text in stream.text_stream])

            return list(await asyncio.gather(whole("Italy"), whole("Japan"), streamed()))

    italy, japan, france = asyncio.run(ask())
    assert "Rome" in italy
    assert "Tokyo" in japan
    assert "Paris" in france


def test_a_schema_for_the_answer(client: anthropic.Anthropic) -> None:
    from pydantic import BaseModel

    class Person(BaseModel):
        name: str
        age: int

    answer = client.messages.parse(
        model=MODEL,
        max_tokens=200,
        messages=[{"role": "user", "content": "Describe Ada, aged 36, as JSON."}],
        output_format=Person,
        extra_body=GREEDY,
    )
    assert answer.stop_reason == "end_turn"
    assert answer.parsed_output is not None
    assert answer.parsed_output.age == 36


def test_a_tool_is_called_and_its_result_told(client: anthropic.Anthropic, weights: Path) -> None:
    if format_of(read_header(weights).chat_template or "") is None:
        pytest.skip("how this model calls tools is not known yet")
    turns: Any = [{"role": "user", "content": "What is the weather in Oslo?"}]
    asked: dict[str, Any] = {
        "model": MODEL,
        "max_tokens": 120,
        "tools": [WEATHER],
        "extra_body": GREEDY,
    }
    forced: Any = {"type": "any", "disable_parallel_tool_use": True}
    called = client.messages.create(**asked, messages=turns, tool_choice=forced)
    assert called.stop_reason == "tool_use"
    (call,) = [block for block in called.content if isinstance(block, ToolUseBlock)]
    assert call.name == "get_weather"
    assert set(call.input) == {"city"}
    with client.messages.stream(**asked, messages=turns, tool_choice=forced) as stream:
        streamed = stream.get_final_message()
    (again,) = [block for block in streamed.content if isinstance(block, ToolUseBlock)]
    assert (again.name, again.input) == (call.name, call.input)

    result = {"type": "tool_result", "tool_use_id": call.id, "content": "Snow, -7 degrees."}
    turns += [
        {"role": "assistant", "content": called.content},
        {"role": "user", "content": [result]},
    ]
    counted = client.messages.count_tokens(model=MODEL, messages=turns, tools=[WEATHER])
    usage = client.messages.create(**asked, messages=turns, tool_choice={"type": "auto"}).usage
    assert usage.input_tokens + (usage.cache_read_input_tokens or 0) == counted.input_tokens
    # So small a model answers in words only when it has begun to.
    turns.append({"role": "assistant", "content": "The weather in Oslo now:"})
    told = client.messages.create(**asked, messages=turns, tool_choice={"type": "none"})
    assert told.stop_reason == "end_turn"
    assert "snow" in text_of(told).lower()


def test_errors_are_the_clients_own(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError, match="no model called 'claude'") as unknown:
        client.messages.create(model="claude", max_tokens=5, messages=CAPITAL)
    assert unknown.value.type == "not_found_error"
    with pytest.raises(anthropic.BadRequestError, match="thinking: This model does not reason"):
        client.messages.create(
            model=MODEL,
            max_tokens=2000,
            messages=CAPITAL,
            thinking={"type": "enabled", "budget_tokens": 1024},
        )
    picture: Any = {"type": "image", "source": {"type": "url", "url": "https://example.org/x.png"}}
    with pytest.raises(anthropic.BadRequestError, match=r"messages\.0\.content\.0\.type"):
        client.messages.create(
            model=MODEL, max_tokens=5, messages=[{"role": "user", "content": [picture]}]
        )
    with pytest.raises(anthropic.BadRequestError, match="context holds 8192"):
        client.messages.create(
            model=MODEL,
            max_tokens=5,
            messages=[{"role": "user", "content": "many words " * 6000}],
        )
