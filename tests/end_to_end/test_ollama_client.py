"""The official Ollama client against the real server and the real 0.5B model."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ollama
import pytest
from pydantic import BaseModel, ConfigDict

from tests.end_to_end.conftest import MODEL, SHA256
from tests.support.command import serving

pytestmark = [pytest.mark.weights, pytest.mark.native]

COUNT: list[dict[str, Any]] = [
    {"role": "user", "content": "Count from one to five in words."},
]
SHORT: dict[str, Any] = {"seed": 7, "num_predict": 40}


@pytest.fixture(scope="module")
def url(home: Path, weights: Path) -> Iterator[str]:
    with serving(home, MODEL) as server:
        yield server.url


@pytest.fixture
def client(url: str) -> Iterator[ollama.Client]:
    with ollama.Client(url) as client:
        yield client


def test_chat_streamed_and_whole_are_the_same(client: ollama.Client) -> None:
    whole = client.chat(MODEL, COUNT, options=SHORT)
    lines = list(client.chat(MODEL, COUNT, options=SHORT, stream=True))
    text = whole.message.content
    assert text
    assert "three" in text.lower()
    assert "".join(line.message.content or "" for line in lines) == text
    assert lines[-1].done
    assert lines[-1].done_reason == whole.done_reason
    assert lines[-1].eval_count == whole.eval_count
    assert whole.prompt_eval_count
    assert whole.total_duration
    assert whole.eval_duration
    assert whole.total_duration >= whole.eval_duration > 0


def test_generate_streamed_and_whole_are_the_same(client: ollama.Client) -> None:
    asked: dict[str, Any] = {"prompt": "Say yes.", "system": "Be brief.", "options": SHORT}
    whole = client.generate(MODEL, **asked)
    lines = list(client.generate(MODEL, **asked, stream=True))
    assert whole.response
    assert "".join(line.response or "" for line in lines) == whole.response
    assert lines[-1].done_reason in ("stop", "length")


def test_the_async_client(url: str) -> None:
    async def ask() -> tuple[str, str]:
        async with ollama.AsyncClient(url) as client:
            whole = await client.chat(MODEL, COUNT, options=SHORT)
            stream = await client.chat(MODEL, COUNT, options=SHORT, stream=True)
            pieces = [line.message.content or "" async for line in stream]
            return whole.message.content or "", "".join(pieces)

    whole, streamed = asyncio.run(ask())
    assert whole == streamed != ""


class City(BaseModel):
    model_config = ConfigDict(extra="forbid")  # or the model goes on adding fields of its own

    name: str
    country: str
    inhabitants: int


def test_an_answer_in_the_form_of_a_schema(client: ollama.Client) -> None:
    answer = client.chat(
        MODEL,
        [{"role": "user", "content": "Tell me about Paris, as JSON."}],
        format=City.model_json_schema(),
        options={"temperature": 0, "num_predict": 200},
    )
    city = City.model_validate_json(answer.message.content or "")
    assert city.name == "Paris"
    assert city.country == "France"


def test_any_json(client: ollama.Client) -> None:
    options = {"temperature": 0, "num_predict": 200}
    answer = client.generate(
        MODEL, "A person with a name, as JSON.", format="json", options=options
    )
    assert answer.response
    assert answer.response.startswith("{")


def test_raw_text_and_a_hole_are_filled(client: ollama.Client) -> None:
    options = {"temperature": 0, "num_predict": 12}
    raw = client.generate(MODEL, "1, 2, 3, 4,", raw=True, options=options)
    assert "5" in (raw.response or "")
    hole = client.generate(
        MODEL, "def add(a, b):\n    return ", suffix="\n\nprint(add(1, 2))\n", options=options
    )
    assert "a + b" in (hole.response or "")


def test_what_is_told_of_the_model(client: ollama.Client) -> None:
    (listed,) = [model for model in client.list().models if model.model == MODEL]
    assert listed.digest == SHA256
    assert listed.size == 491_400_064
    assert listed.details is not None
    assert listed.details.family == "qwen2"
    assert listed.details.parameter_size == "630.17M"
    shown = client.show(MODEL)
    assert shown.capabilities is not None
    assert {"completion", "insert"} <= set(shown.capabilities)
    assert shown.template
    assert "<|im_start|>" in shown.template
    assert (shown.license or "").splitlines()[:3] == ["Apache-2.0", "run: OK", "serve: OK"]
    assert shown.modelinfo is not None
    assert shown.modelinfo["general.architecture"] == "qwen2"
    assert shown.modelinfo["tokenizer.ggml.tokens"] == []
    client.generate(MODEL, "")
    (running,) = [model for model in client.ps().models if model.model == MODEL]
    assert running.digest == SHA256
    assert running.context_length == 8192


def test_pull_copy_and_delete(client: ollama.Client) -> None:
    assert client.pull(MODEL).status == "success"
    *_, arrived, last = client.pull(MODEL, stream=True)
    assert (arrived.digest, last.status) == (f"sha256:{SHA256}", "success")
    copied = "ollama-client-test"
    assert client.copy(MODEL, copied).status == "success"
    try:
        assert f"{copied}:latest" in [model.model for model in client.list().models]
        answer = client.generate(copied, "Hi", options={"num_predict": 3}, keep_alive=0)
        assert answer.done_reason == "length"
        assert f"{copied}:latest" not in [model.model for model in client.ps().models]
    finally:
        assert client.delete(copied).status == "success"
    assert copied not in str(client.list())
    assert client.generate(MODEL, "Hi", options={"num_predict": 3}).response
    with pytest.raises(ollama.ResponseError) as caught:
        client.delete(copied)
    assert caught.value.status_code == 404


def test_loading_and_unloading(client: ollama.Client) -> None:
    assert client.generate(MODEL, keep_alive=0).done_reason == "unload"
    assert MODEL not in [model.model for model in client.ps().models]
    assert client.chat(MODEL).done_reason == "load"
    assert MODEL in [model.model for model in client.ps().models]


def test_what_cannot_be_is_said(client: ollama.Client) -> None:
    with pytest.raises(ollama.ResponseError, match="does not support thinking"):
        client.chat(MODEL, COUNT, think=True)
    with pytest.raises(ollama.ResponseError, match="99999"):
        client.chat(MODEL, COUNT, options={"num_ctx": 99_999})
    with pytest.raises(ollama.ResponseError, match=r"options\.mirostat"):
        client.chat(MODEL, COUNT, options={"mirostat": 1})


def temperature(city: str) -> str:
    """How warm it is.

    Args:
      city: The name of the city
    """
    return f"It is 7 degrees in {city}."


def test_tools(client: ollama.Client) -> None:
    turns: list[dict[str, Any]] = [{"role": "user", "content": "How warm is it in Oslo?"}]
    options = {"temperature": 0, "num_predict": 100}
    if "tools" not in (client.show(MODEL).capabilities or []):
        with pytest.raises(ollama.ResponseError, match="does not support tools"):
            client.chat(MODEL, turns, tools=[temperature])
        return
    whole = client.chat(MODEL, turns, tools=[temperature], options=options)
    lines = list(client.chat(MODEL, turns, tools=[temperature], options=options, stream=True))
    calls = list(whole.message.tool_calls or [])
    assert [call for line in lines for call in line.message.tool_calls or []] == calls
    assert calls or whole.message.content
    for call in calls:
        assert call.function.name == "temperature"
        assert set(call.function.arguments) == {"city"}
    # So small a model may not call, nor make anything of a result: what it reads is told by counts.
    function = {"name": "temperature", "arguments": {"city": "Oslo"}}
    turns.append({"role": "assistant", "tool_calls": [{"function": function}]})
    read = []
    for result in ("7", temperature("Oslo")):
        answered = [*turns, {"role": "tool", "tool_name": "temperature", "content": result}]
        answer = client.chat(MODEL, answered, tools=[temperature], options=options)
        read.append(answer.prompt_eval_count or 0)
    assert read[0] > (whole.prompt_eval_count or 0) + 10
    assert read[1] > read[0] + 4
