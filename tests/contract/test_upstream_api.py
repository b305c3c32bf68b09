"""Models of other servers through all our dialects: as if they ran here, and where not, it is said.

The servers elsewhere are gateways of ours over scripted engines.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import ollama
import openai
import pytest

from freehold.engines.scripted import Script
from freehold.runtime.access.caller import Terms
from tests.support.gateway import Gateway, Scripts, gateway, wait_for
from tests.support.keyed import INFER, issued, sending
from tests.support.tiny_model import write_tiny_llama

pytestmark = pytest.mark.native  # the text child tokenises with llama.cpp

HELLO = [{"role": "user", "content": "Hello"}]
KEY = "sk-of-the-upstream"
TEMPLATE = (
    "{% if tools %}<tools>{{ tools | tojson }}</tools> <tool_call>"
    "{{ '{\"name\"' }}{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{{ m.content.split('</think>')[-1] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
THOUGHT = Script(pieces=("<think>", "So ", "be it.", "</think>", "Yes."))
CALLS = Script(
    pieces=('<tool_call>\n{"name": "clock", "arguments": {"zone": "UTC"}}\n</tool_call>',)
)
TOOL = {"type": "function", "function": {"name": "clock", "parameters": {"type": "object"}}}


@pytest.fixture(scope="module")
def there() -> Scripts:
    return Scripts()


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory, there: Scripts) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("elsewhere")
    metadata = {"tokenizer.chat_template": TEMPLATE}
    model = write_tiny_llama(folder / "thinker.gguf", metadata=metadata)
    with gateway(folder / "home", (model,), script=there, context=256, api_key=KEY) as running:
        yield running


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def shared(home: Path, tiny: Path, elsewhere: Gateway) -> Iterator[Gateway]:
    words = f"big={elsewhere.url}/v1 model=thinker kind=freehold context=256 key_variable=BIG_KEY"
    with gateway(
        home,
        (tiny,),
        script=lambda _: Script(),
        variables={"BIG_KEY": KEY},
        upstreams=(words, "lost=http://127.0.0.1:9/v1"),
        aliases=("gpt-4o=big",),
    ) as running:
        yield running


@pytest.fixture
def server(shared: Gateway, there: Scripts) -> Gateway:
    there.reset()
    return shared


def told(response: httpx2.Response) -> str:
    """The sentence of a refusal, in any dialect."""
    error = response.json()["error"]
    return error if isinstance(error, str) else str(error["message"])


# Three dialects


@pytest.fixture
def openais(server: Gateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
        yield client


@pytest.fixture
def anthropics(server: Gateway) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=server.url, api_key="none") as client:
        yield client


@pytest.fixture
def ollamas(server: Gateway) -> Iterator[ollama.Client]:
    with ollama.Client(host=server.url) as client:
        yield client


def test_openai_whole_and_streamed(openais: openai.OpenAI) -> None:
    wanted: dict[str, Any] = {"model": "big", "messages": HELLO}
    whole = openais.chat.completions.create(**wanted)
    assert whole.choices[0].message.content == "All is well."
    assert whole.model == "big"
    assert whole.usage.completion_tokens == 3
    assert whole.usage.prompt_tokens > 3
    wanted |= {"model": "gpt-4o", "stream": True, "stream_options": {"include_usage": True}}
    chunks = list(openais.chat.completions.create(**wanted))
    assert "".join(c.choices[0].delta.content or "" for c in chunks[:-1]) == "All is well."
    assert {chunk.model for chunk in chunks} == {"big"}
    assert chunks[-1].usage == whole.usage


def test_anthropic_whole_and_streamed(anthropics: anthropic.Anthropic, there: Scripts) -> None:
    there.now = THOUGHT
    wanted: dict[str, Any] = {"model": "big", "max_tokens": 50, "messages": HELLO}
    whole = anthropics.messages.create(**wanted)
    assert [block.type for block in whole.content] == ["thinking", "text"]
    assert whole.content[1].text == "Yes."
    with anthropics.messages.stream(**wanted) as stream:
        final = stream.get_final_message()
    assert [block.type for block in final.content] == ["thinking", "text"]
    assert final.usage.input_tokens + (final.usage.cache_read_input_tokens or 0) > 3
    assert final.usage.output_tokens == whole.usage.output_tokens == 5


def test_ollama_whole_and_streamed(ollamas: ollama.Client) -> None:
    whole = ollamas.chat("big:latest", HELLO)
    assert whole.message.content == "All is well."
    assert whole.done_reason == "stop"
    pieces = [part.message.content or "" for part in ollamas.chat("big", HELLO, stream=True)]
    assert "".join(pieces) == "All is well."
    assert ollamas.generate("big", "Hello").response == "All is well."


def test_responses(openais: openai.OpenAI) -> None:
    assert openais.responses.create(model="big", input="Hello").output_text == "All is well."


def test_tools_come_through(server: Gateway, ollamas: ollama.Client, there: Scripts) -> None:
    there.now = CALLS
    body: dict[str, Any] = {"model": "big", "messages": HELLO, "tools": [TOOL]}
    response = server.client.post("/v1/chat/completions", json=body)
    assert response.status_code == 200, response.text
    choice = response.json()["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    (call,) = choice["message"]["tool_calls"]
    assert json.loads(call["function"]["arguments"]) == {"zone": "UTC"}
    turns = [
        *HELLO,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": call["id"], "content": "noon"},
    ]
    there.now = Script()
    body = {"model": "big", "messages": turns, "tools": [TOOL]}
    assert server.client.post("/v1/chat/completions", json=body).status_code == 200
    there.now = CALLS
    found = ollamas.chat("big", HELLO, tools=[TOOL]).message.tool_calls
    assert found is not None
    assert found[0].function.arguments == {"zone": "UTC"}


def test_several_answers(server: Gateway) -> None:
    choices = server.chat(model="big", n=3).json()["choices"]
    assert [choice["message"]["content"] for choice in choices] == ["All is well."] * 3


def test_vectors(server: Gateway, openais: openai.OpenAI) -> None:
    found = openais.embeddings.create(model="big", input=["a", "bb"], encoding_format="float")
    here = openais.embeddings.create(model="tiny", input=["a", "bb"], encoding_format="float")
    assert found.model == "big"
    for there_, here_ in zip(found.data, here.data, strict=True):
        assert there_.embedding == pytest.approx(here_.embedding, abs=1e-6)
    body = {"model": "big", "input": [[1, 2]]}
    assert "embeds texts" in told(server.client.post("/v1/embeddings", json=body))


# What it breaks on


BROKEN = Script(pieces=("All ", "is ", "well."), crash_after=2)


def test_an_upstream_that_breaks_off_ends_the_stream_in_the_dialects_words(
    server: Gateway, there: Scripts
) -> None:
    there.now = BROKEN
    asks: dict[str, dict[str, Any]] = {
        "/v1/chat/completions": {"model": "big", "messages": HELLO, "stream": True},
        "/v1/messages": {"model": "big", "messages": HELLO, "stream": True, "max_tokens": 9},
        "/api/chat": {"model": "big", "messages": HELLO},
    }
    for path, body in asks.items():
        text = server.client.post(path, json=body).text
        assert "All " in text, path
        assert "error in the middle" in text.splitlines()[-1 if path == "/api/chat" else -2], path


def test_refusals_of_its_server_are_the_callers(server: Gateway) -> None:
    long = [{"role": "user", "content": "word " * 300}]
    response = server.client.post("/v1/chat/completions", json={"model": "big", "messages": long})
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "context_length_exceeded"
    assert "the context holds 256" in told(response)


def test_nobody_there_is_503(server: Gateway) -> None:
    response = server.chat(model="lost")
    assert response.status_code == 503
    assert "cannot be reached" in told(response) or "No replica" in told(response)


def test_what_an_upstream_cannot_do_is_refused_by_name(server: Gateway) -> None:
    asks: dict[str, dict[str, Any]] = {
        "/v1/completions": {"model": "big", "prompt": "Once"},
        "/v1/messages/count_tokens": {"model": "big", "messages": HELLO},
        "/tokenize": {"model": "big", "content": "x"},
        "/detokenize": {"model": "big", "tokens": [1]},
        "/apply-template": {"model": "big", "messages": HELLO},
        "/freehold/v1/models/load": {"model": "big"},
        "/freehold/v1/models/unload": {"model": "big"},
        "/freehold/v1/models/pin": {"model": "big", "pinned": False},
        "/api/generate": {"model": "big", "prompt": "Once", "raw": True},
        "/api/copy": {"source": "big", "destination": "small"},
    }
    for path, body in asks.items():
        response = server.client.post(path, json=body)
        assert response.status_code == 400, (path, response.text)
        assert "big is an upstream" in told(response), path
    papers = server.client.get("/freehold/v1/papers", params={"model": "big"})
    assert papers.status_code == 400
    deleted = server.client.request("DELETE", "/api/delete", json={"model": "big"})
    assert deleted.status_code == 400


def test_fields_it_has_not_are_refused(server: Gateway) -> None:
    prefill = {
        "model": "big",
        "max_tokens": 5,
        "messages": [*HELLO, {"role": "assistant", "content": "A"}],
    }
    response = server.client.post("/v1/messages", json=prefill)
    assert response.status_code == 400
    assert "go on with an answer" in told(response)


# Who knows of it


def test_it_is_in_every_list(server: Gateway, ollamas: ollama.Client) -> None:
    models = {model["id"]: model for model in server.client.get("/v1/models").json()["data"]}
    assert models["big"]["owned_by"] == "upstream"
    assert models["big"]["freehold"]["aliases"] == ["gpt-4o"]
    assert {"tiny", "big", "lost", "gpt-4o"} <= set(models)
    assert server.client.get("/v1/models/gpt-4o").json()["freehold"]["alias_of"] == "big"
    tags = {model.model: model for model in ollamas.list().models}
    assert tags["big"].size == 0
    assert "big" not in {model.model for model in ollamas.ps().models}
    shown = ollamas.show("big")
    assert "keeps its own template" in (shown.license or "")
    assert shown.template == ""
    assert shown.modelinfo == {
        "general.architecture": "upstream",
        "upstream.context_length": 256,
    }


def test_loading_it_is_nothing_to_do(server: Gateway) -> None:
    for keep_alive in (60, 0):
        body = {"model": "big", "keep_alive": keep_alive}
        response = server.client.post("/api/generate", json=body)
        assert response.json()["done"] is True, response.text
    assert server.client.post("/api/generate", json={"model": "bigg"}).status_code == 404


def test_how_its_replicas_are_is_told(server: Gateway, elsewhere: Gateway) -> None:
    server.chat(model="big")
    found = {m["model"]: m for m in server.client.get("/freehold/v1/upstreams").json()["upstreams"]}
    host = elsewhere.url.removeprefix("http://")
    (replica,) = found["big"].pop("replicas")
    del replica["ejections"]  # it has broken off for other tests
    assert found["big"] == {
        "model": "big",
        "model_there": "thinker",
        "kind": "freehold",
        "usable": True,
        "context": 256,
        "retries": 0,
    }
    assert replica == {
        "host": host,
        "leaves_machine": False,
        "state": "healthy",
        "requests": 0,
        "tokens": 0,
    }
    text = server.client.get("/metrics").text
    assert f'freehold_upstream_healthy{{model="big",replica="{host}"}} 1.0' in text
    assert 'freehold_upstream_retries_total{model="big"} 0.0' in text
    assert 'freehold_answers_total{end="stop",model="big"}' in text
    wait_for(
        lambda: (
            'freehold_upstream_healthy{model="lost",replica="127.0.0.1:9"} 0.0'
            in server.client.get("/metrics").text
        )
    )


def test_the_page_holds_a_conversation_with_it(server: Gateway) -> None:
    base = "/freehold/v1/conversations"
    opened = server.client.post(base, json={"model": "big"}).json()
    place = f"{base}/{opened['id']}"
    question = {"content": "Hello", "parent": None}
    posted = server.client.post(f"{place}/messages", json=question).json()
    asked = server.client.post(f"{place}/answers", json={"parent": posted["id"], "model": "big"})
    assert asked.status_code == 200, asked.text

    def answer() -> Any:
        return server.client.get(place).json()["messages"][-1]

    wait_for(lambda: answer()["status"] == "done")
    assert answer()["content"] == "All is well."
    assert answer()["model"] == "big"
    seen = server.client.get(f"{place}/messages/{posted['id']}/prompt")
    assert "big is an upstream" in told(seen)


def test_who_leaves_is_gone_there_too(server: Gateway, elsewhere: Gateway, there: Scripts) -> None:
    there.now = Script(pieces=("word ",) * 200, token_seconds=0.05)
    connection = server.begin(
        "/v1/chat/completions", {"model": "big", "messages": HELLO, "stream": True}
    )
    assert b"200 OK" in connection.recv(1000)
    engine = elsewhere.engines[-1]
    before = len(engine.cancelled)
    connection.close()
    wait_for(lambda: len(engine.cancelled) == before + 1)


# Keys


@pytest.fixture(scope="module")
def guarded(
    tmp_path_factory: pytest.TempPathFactory, tiny: Path, elsewhere: Gateway
) -> Iterator[Gateway]:
    words = f"big={elsewhere.url}/v1 model=thinker kind=freehold key_variable=BIG_KEY parallel=2"
    with gateway(
        tmp_path_factory.mktemp("guarded"),
        (tiny,),
        script=lambda _: Script(),
        api_key="secret",
        variables={"BIG_KEY": KEY},
        upstreams=(words,),
    ) as running:
        yield running


def test_a_key_for_other_models_does_not_know_it(guarded: Gateway, there: Scripts) -> None:
    there.reset()
    home = guarded.runtime.settings.home
    only_tiny = issued(home, "tiny-only", Terms(INFER, models=("tiny",)))
    with sending(guarded.url, only_tiny) as client:
        body = {"model": "big", "messages": HELLO}
        assert client.post("/v1/chat/completions", json=body).status_code == 404
        assert [m["id"] for m in client.get("/v1/models").json()["data"]] == ["tiny"]
        assert client.get("/freehold/v1/upstreams").status_code == 403


def test_what_a_key_uses_there_is_counted(guarded: Gateway, there: Scripts) -> None:
    there.reset()
    home = guarded.runtime.settings.home
    text = issued(home, "counted", Terms(INFER, models=("big",), rate=20))
    with sending(guarded.url, text) as client:
        body = {"model": "big", "messages": HELLO}
        usage = client.post("/v1/chat/completions", json=body).json()["usage"]
        second = client.post("/v1/chat/completions", json=body)
        assert second.status_code == (429 if usage["total_tokens"] > 20 else 200)
    with sending(guarded.url, "secret") as owner:
        lines = owner.get("/freehold/v1/keys/usage").json()["data"]
    (used,) = [
        line for line in lines if line.get("name") == "counted" or line.get("key") == "counted"
    ]
    assert used["completion_tokens"] >= usage["completion_tokens"]
    assert used["prompt_tokens"] >= usage["prompt_tokens"]


def test_as_many_at_once_as_it_was_given(guarded: Gateway, there: Scripts) -> None:
    there.reset()
    there.now = Script(first_token_seconds=1000)
    connections = [
        guarded.begin("/v1/chat/completions", {"model": "big", "messages": HELLO}, key="secret")
        for _ in range(5)
    ]
    with sending(guarded.url, "secret") as client:
        wait_for(lambda: 'freehold_queue_waiting{model="big"} 3.0' in client.get("/metrics").text)
        assert 'freehold_queue_running{model="big"} 2.0' in client.get("/metrics").text
        for connection in connections:
            connection.close()
        wait_for(lambda: 'freehold_queue_running{model="big"} 0.0' in client.get("/metrics").text)
