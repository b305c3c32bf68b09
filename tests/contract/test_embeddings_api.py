"""Embeddings over HTTP: by the official clients, from a tiny encoder and a tiny decoder."""

from __future__ import annotations

import base64
import math
import struct
from collections.abc import Iterator
from typing import Any

import httpx2
import ollama
import openai
import pytest

from freehold.engines.scripted import Script
from tests.support.bert import write_tiny_bert
from tests.support.gateway import Gateway, gateway
from tests.support.tiny_model import write_tiny_llama

pytestmark = pytest.mark.native

ENCODER, DECODER = "encoder", "decoder"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    models = tmp_path_factory.mktemp("models")
    served = (
        write_tiny_bert(models / f"{ENCODER}.gguf"),
        write_tiny_llama(models / f"{DECODER}.gguf"),
    )
    with gateway(tmp_path_factory.mktemp("home"), served, context=256, parallel=2) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Gateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as official:
        yield official


def embed(server: Gateway, **fields: Any) -> httpx2.Response:
    return server.client.post("/v1/embeddings", json={"model": ENCODER, "input": "a", **fields})


def refused(response: httpx2.Response) -> dict[str, Any]:
    assert response.status_code == 400, response.text
    error: dict[str, Any] = response.json()["error"]
    return error


@pytest.mark.parametrize(("model", "width"), [(ENCODER, 32), (DECODER, 64)])
def test_the_official_client_gets_vectors(client: openai.OpenAI, model: str, width: int) -> None:
    answer = client.embeddings.create(model=model, input=["a cat", "a dog", "a cat"])
    vectors = [each.embedding for each in answer.data]
    assert [each.index for each in answer.data] == [0, 1, 2]
    assert [len(vector) for vector in vectors] == [width] * 3
    assert all(math.hypot(*vector) == pytest.approx(1, abs=1e-5) for vector in vectors)
    assert vectors[0] == pytest.approx(vectors[2], abs=1e-4)
    assert vectors[0] != pytest.approx(vectors[1], abs=1e-2)
    assert answer.model == model
    assert answer.usage.prompt_tokens == answer.usage.total_tokens > 0


def test_base64_is_the_same_floats(server: Gateway) -> None:
    plain = embed(server).json()["data"][0]["embedding"]
    packed = embed(server, encoding_format="base64").json()["data"][0]["embedding"]
    assert struct.unpack("<32f", base64.b64decode(packed)) == pytest.approx(plain, abs=1e-6)


def test_texts_are_read_with_what_the_model_wants_around_them(server: Gateway) -> None:
    """[CLS] a ##b [SEP]: as token ids, which are taken as they are."""
    answer = embed(server, input="ab").json()
    assert answer["usage"]["prompt_tokens"] == 4
    as_ids = embed(server, input=[2, 5, 32, 3]).json()
    assert as_ids["data"][0]["embedding"] == pytest.approx(answer["data"][0]["embedding"], abs=1e-5)
    assert embed(server, input=[[2, 5, 32, 3], [2, 3]]).json()["usage"]["prompt_tokens"] == 6


def test_dimensions(server: Gateway) -> None:
    whole = embed(server).json()["data"][0]["embedding"]
    cut = embed(server, dimensions=8).json()["data"][0]["embedding"]
    length = math.hypot(*whole[:8])
    assert cut == pytest.approx([number / length for number in whole[:8]], abs=1e-5)
    error = refused(embed(server, dimensions=33))
    assert error["param"] == "dimensions"
    assert "32" in error["message"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": ""}, "input"),
        ({"input": ["a", ""]}, "input"),
        ({"input": []}, "input"),
        ({"input": [10**6]}, "input"),
        ({"encoding_format": "hex"}, "encoding_format"),
        ({"dimensions": 0}, "dimensions"),
        ({"truncate": True}, "truncate"),
    ],
)
def test_what_is_refused_is_named(server: Gateway, fields: dict[str, Any], param: str) -> None:
    assert refused(embed(server, **fields))["param"] == param
    assert embed(server, user="somebody").status_code == 200


def test_what_does_not_fit_is_refused_and_never_cut(server: Gateway) -> None:
    fits, too_long = "a " * 126, "a " * 127  # and two tokens around it; the model has 128
    assert embed(server, input=fits).status_code == 200
    error = refused(embed(server, input=["a", too_long]))
    assert error["code"] == "context_length_exceeded"
    assert "Input 1 has 129 tokens and the context holds 128." in error["message"]


def test_a_model_that_embeds_does_not_chat(server: Gateway) -> None:
    answer = server.client.post(
        "/v1/chat/completions",
        json={"model": ENCODER, "messages": [{"role": "user", "content": "Hello"}]},
    )
    assert refused(answer)["param"] == "model"


def test_a_decoder_embeds_while_it_chats(server: Gateway, client: openai.OpenAI) -> None:
    with client.chat.completions.create(
        model=DECODER,
        messages=[{"role": "user", "content": "Hello"}],
        max_tokens=150,
        stream=True,
        extra_body={"ignore_eos": True},
    ) as stream:
        pieces = iter(stream)
        next(pieces)
        beside = client.embeddings.create(model=DECODER, input="a cat").data[0].embedding
        *_, last = pieces
    assert last.choices[0].finish_reason == "length"
    alone = client.embeddings.create(model=DECODER, input="a cat").data[0].embedding
    assert beside == pytest.approx(alone, abs=1e-3)


# Ollama


@pytest.fixture
def ollamas(server: Gateway) -> Iterator[ollama.Client]:
    with ollama.Client(host=server.url) as official:
        yield official


def test_ollamas_own_client(ollamas: ollama.Client) -> None:
    both = ollamas.embed(model=ENCODER, input=["a cat", "a dog"], truncate=True, keep_alive="5m")
    assert [len(vector) for vector in both.embeddings] == [32, 32]
    assert both.prompt_eval_count == 12  # four letters and two around them, twice
    assert both.total_duration is not None
    one = ollamas.embed(model=f"{ENCODER}:latest", input="a cat", dimensions=4)
    assert len(one.embeddings[0]) == 4
    legacy = ollamas.embeddings(model=ENCODER, prompt="a cat")
    assert list(legacy.embedding) == pytest.approx(list(both.embeddings[0]), abs=1e-4)
    with pytest.raises(ollama.ResponseError, match="Nothing is silently truncated") as caught:
        ollamas.embed(model=ENCODER, input="a " * 127)
    assert caught.value.status_code == 400
    with pytest.raises(ollama.ResponseError, match=r"129 tokens .* 128") as caught:
        ollamas.embed(model=ENCODER, input="a " * 127, truncate=False)
    assert "silently" not in caught.value.error
    for options, field in (({"num_ctx": 256}, "num_ctx"), ({"temperature": 0.5}, "temperature")):
        with pytest.raises(ollama.ResponseError, match=field):
            ollamas.embed(model=ENCODER, input="a", options=options)


@pytest.mark.parametrize(
    ("path", "body"),
    [("embed", {"input": ""}), ("embed", {"input": []}), ("embeddings", {"prompt": ""})],
)
def test_nothing_is_no_input(server: Gateway, path: str, body: dict[str, Any]) -> None:
    answer = server.client.post(f"/api/{path}", json={"model": ENCODER, **body})
    assert answer.status_code == 400
    assert next(iter(body)) in answer.json()["error"]


def test_keep_alive_0_unloads(server: Gateway) -> None:
    def loaded() -> bool:
        names = server.client.get("/healthz").json()["loaded"]
        return any(ENCODER in name for name in names)

    ask = {"model": ENCODER, "input": "a"}
    assert server.client.post("/api/embed", json=ask).status_code == 200
    assert loaded()
    assert server.client.post("/api/embed", json={**ask, "keep_alive": 0}).status_code == 200
    assert not loaded()


# What the engine meets


def test_a_crash_is_tried_once_more_and_a_deadline_kept(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    home, models = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("models")
    tiny = write_tiny_llama(models / "tiny.gguf")
    # Loading takes one script, embedding the next.
    scripts = [Script(), Script(crash_after=0)]
    with gateway(
        home, (tiny,), script=lambda _: scripts.pop(0) if scripts else Script(), deadline=2
    ) as running:
        body = {"model": "tiny", "input": "a"}
        assert running.client.post("/v1/embeddings", json=body).status_code == 200
        assert [len(engine.embedded) for engine in running.engines] == [1, 1]
        scripts = [Script(first_token_seconds=10)]
        answer = running.client.post("/v1/embeddings", json=body)
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "deadline_exceeded"
        assert answer.headers["retry-after"]
