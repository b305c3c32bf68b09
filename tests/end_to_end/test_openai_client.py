"""The official client against the real server and the real model."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pydantic
import pytest

from tests.end_to_end.conftest import MODEL
from tests.support.command import Server, serving

pytestmark = [pytest.mark.weights, pytest.mark.native]

# Where two runs are compared, what follows is hardly in doubt: in another batch sums are made in
# another order, and near ties may fall differently (docs/engine.md).
COUNT: Any = [{"role": "user", "content": "Count from one to five in words."}]
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": ["Paris", "Oslo"]}},
    "required": ["city"],
    "additionalProperties": False,
}
ABOUT = "Tells the temperature of a city."
WEATHER = "What is the temperature in Oslo now?"
RESULT = '{"city": "Oslo", "degrees_celsius": 17}'


class Reading(pydantic.BaseModel):
    degrees_celsius: int


class Person(pydantic.BaseModel):
    name: str
    age: int


@pytest.fixture(scope="module")
def server(home: Path, weights: Path) -> Iterator[Server]:
    with serving(home, MODEL) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as made:
        yield made


# Chat


def test_chat_streamed_equals_whole(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": MODEL, "messages": COUNT, "temperature": 0, "max_tokens": 40}
    whole = client.chat.completions.create(**asked)
    stream = client.chat.completions.create(**asked, stream=True)
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert streamed == whole.choices[0].message.content
    assert "three" in streamed.lower()


def test_chat_asynchronously(server: Server) -> None:
    async def ask() -> list[str]:
        url = f"{server.url}/v1"
        async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:

            async def one(seed: int) -> str:
                stream = await client.chat.completions.create(
                    model=MODEL, messages=COUNT, seed=seed, max_tokens=20, stream=True
                )
                return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

            return await asyncio.gather(*(one(seed) for seed in range(3)))

    assert all(asyncio.run(ask()))


def test_a_pydantic_model_comes_back(client: openai.OpenAI) -> None:
    parsed = client.chat.completions.parse(
        model=MODEL,
        messages=[{"role": "user", "content": "Ada Lovelace is 36 years old. Who is it?"}],
        response_format=Person,
        temperature=0,
    )
    person = parsed.choices[0].message.parsed
    assert person is not None
    assert "Ada" in person.name
    assert person.age == 36


def test_two_answers_with_log_probabilities(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=COUNT, n=2, seed=3, max_tokens=12, logprobs=True, top_logprobs=2
    )
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert answer.usage is not None
    assert answer.usage.completion_tokens <= 24
    for choice in answer.choices:
        assert choice.logprobs is not None
        assert choice.logprobs.content is not None
        said = b"".join(bytes(token.bytes or []) for token in choice.logprobs.content)
        assert said.decode() == choice.message.content
        for token in choice.logprobs.content:
            assert token.logprob <= 0
            assert len(token.top_logprobs) == 2


def test_a_chat_calls_a_tool_and_reads_its_result(client: openai.OpenAI) -> None:
    tools: Any = [
        {
            "type": "function",
            "function": {
                "name": "temperature_of",
                "description": ABOUT,
                "parameters": SCHEMA,
                "strict": True,
            },
        }
    ]
    messages: Any = [{"role": "user", "content": WEATHER}]
    asked: dict[str, Any] = {"model": MODEL, "tools": tools, "temperature": 0, "max_tokens": 100}
    first = client.chat.completions.create(**asked, messages=messages, tool_choice="required")
    assert first.choices[0].finish_reason == "tool_calls"
    calls = first.choices[0].message.tool_calls
    assert calls
    messages.append(first.choices[0].message)
    for call in calls:
        assert call.type == "function"
        assert call.function.name == "temperature_of"
        assert json.loads(call.function.arguments)["city"] in ("Paris", "Oslo")
        messages.append({"role": "tool", "tool_call_id": call.id, "content": RESULT})
    last = client.chat.completions.parse(
        **asked, messages=messages, tool_choice="none", response_format=Reading
    )
    assert last.choices[0].message.parsed == Reading(degrees_celsius=17)


# Completions


def test_a_completion_with_its_prompt_scored(client: openai.OpenAI) -> None:
    prompt = "The capital of France is"
    answer = client.completions.create(
        model=MODEL, prompt=prompt, max_tokens=0, echo=True, logprobs=1
    )
    (choice,) = answer.choices
    assert choice.text == prompt
    assert choice.logprobs is not None
    assert "".join(choice.logprobs.tokens or []) == prompt
    scores: Any = choice.logprobs.token_logprobs  # their type forgets that the first is null
    first, *rest = scores
    assert first is None
    assert math.isfinite(sum(rest))
    for offset, token in zip(
        choice.logprobs.text_offset or [], choice.logprobs.tokens or [], strict=True
    ):
        assert prompt[offset:].startswith(token)


def test_what_is_true_is_likelier(client: openai.OpenAI) -> None:
    endings = (" Paris", " Oslo", " a banana")
    answer = client.completions.create(
        model=MODEL,
        prompt=[f"The capital of France is{ending}" for ending in endings],
        max_tokens=1,
        echo=True,
        logprobs=1,
        temperature=0,
    )
    scores = [sum((c.logprobs.token_logprobs or [])[5:-1]) for c in answer.choices if c.logprobs]
    assert len(scores) == 3
    assert max(scores) == scores[0]


def test_completions_streamed_equal_whole(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": MODEL, "temperature": 0, "max_tokens": 12}
    asked["prompt"] = ["1, 2, 3, 4, 5, 6,", "a, b, c, d, e, f,"]
    whole = client.completions.create(**asked)
    streamed = ["", ""]
    for chunk in client.completions.create(**asked, stream=True):
        for part in chunk.choices:
            streamed[part.index] += part.text
    assert streamed == [choice.text for choice in whole.choices]


def test_a_hole_is_filled(client: openai.OpenAI) -> None:
    answer = client.completions.create(
        model=MODEL,
        prompt="def add(a, b):\n    return ",
        suffix="\n\nprint(add(1, 2))\n",
        max_tokens=8,
        temperature=0,
    )
    assert "a + b" in answer.choices[0].text


# Responses


def test_a_response_and_the_one_after_it(client: openai.OpenAI) -> None:
    first = client.responses.create(
        model=MODEL, input="My name is Ada. Say hello to me.", temperature=0, max_output_tokens=30
    )
    assert first.status in ("completed", "incomplete")
    assert first.usage is not None
    assert first.usage.input_tokens > 10
    second = client.responses.create(
        model=MODEL,
        input="What is my name? One word.",
        previous_response_id=first.id,
        temperature=0,
        max_output_tokens=30,
    )
    assert "Ada" in second.output_text
    assert second.usage is not None
    assert second.usage.input_tokens_details.cached_tokens > 10
    assert client.responses.retrieve(first.id).output_text == first.output_text
    client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(first.id)


def test_a_response_streamed_equals_whole(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": MODEL, "input": COUNT, "temperature": 0}
    whole = client.responses.create(**asked)
    with client.responses.stream(**asked) as stream:
        text = "".join(
            event.delta for event in stream if event.type == "response.output_text.delta"
        )
        final = stream.get_final_response()
    assert text == final.output_text == whole.output_text


def test_a_response_in_a_models_shape(client: openai.OpenAI) -> None:
    parsed = client.responses.parse(
        model=MODEL,
        input="Ada Lovelace is 36 years old. Who is it?",
        text_format=Person,
        temperature=0,
    )
    assert parsed.output_parsed is not None
    assert parsed.output_parsed.age == 36


def test_a_response_calls_a_tool_and_reads_its_result(client: openai.OpenAI) -> None:
    tools: Any = [
        {"type": "function", "name": "temperature_of", "description": ABOUT, "parameters": SCHEMA}
    ]
    asked: dict[str, Any] = {"model": MODEL, "tools": tools, "temperature": 0}
    first = client.responses.create(**asked, input=WEATHER, tool_choice="required")
    calls = [item for item in first.output if item.type == "function_call"]
    assert calls
    results: Any = []
    for call in calls:
        assert call.name == "temperature_of"
        assert json.loads(call.arguments)["city"] in ("Paris", "Oslo")
        results.append({"type": "function_call_output", "call_id": call.call_id, "output": RESULT})
    last = client.responses.parse(
        **asked,
        input=results,
        previous_response_id=first.id,
        tool_choice="none",
        text_format=Reading,
    )
    assert last.output_parsed == Reading(degrees_celsius=17)
    # The same, by a client that keeps the conversation itself.
    kept: Any = [{"role": "user", "content": WEATHER}, *first.output, *results]
    again = client.responses.parse(**asked, input=kept, tool_choice="none", text_format=Reading)
    assert again.output_text == last.output_text


# Errors


def test_errors_are_the_clients_own(client: openai.OpenAI) -> None:
    chat, responses = client.chat.completions, client.responses
    with pytest.raises(openai.NotFoundError, match="no model called") as absent:
        chat.create(model="absent", messages=COUNT)
    assert (absent.value.status_code, absent.value.code) == (404, "model_not_found")
    with pytest.raises(openai.BadRequestError, match="8192") as too_long:
        chat.create(model=MODEL, messages=[{"role": "user", "content": "many words " * 6000}])
    assert too_long.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError) as refused:
        chat.create(model=MODEL, messages=COUNT, temperature=3)
    assert refused.value.param == "temperature"
    with pytest.raises(openai.BadRequestError) as unknown:
        client.completions.create(model=MODEL, prompt="x", extra_body={"foo": 1})
    assert unknown.value.param == "foo"
    with pytest.raises(openai.NotFoundError) as gone:
        responses.create(model=MODEL, input="x", previous_response_id="resp_gone")
    assert gone.value.param == "previous_response_id"
    with pytest.raises(openai.BadRequestError) as background:
        responses.create(model=MODEL, input="x", background=True)
    assert background.value.param == "background"
