"""Embeddings of real weights: MiniLM against numpy, and the 0.5B decoder, through real servers."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import openai
import pytest

from freehold.domain.chat import EmbedRequest, GenerateRequest
from freehold.domain.events import TextDelta
from freehold.engines.base import EngineConfig
from freehold.engines.llamacpp.client import LlamaCppEngine
from freehold.text.client import TextService
from freehold.text.messages import VocabularySource
from tests.end_to_end.conftest import MODEL
from tests.support.bert import Floats
from tests.support.command import serving
from tests.support.engine import GREEDY
from tests.support.minilm import MiniLm, fetch_minilm
from tests.support.running import run

pytestmark = [pytest.mark.native, pytest.mark.weights]

TEXTS = (
    "A cat sits on the mat.",
    "A kitten rests on the rug.",
    "The stock market fell sharply today.",
    "Café façade: naïve, antidisestablishmentarian Ünïcode!",
    "def reverse(text: str) -> str: return text[::-1]",
    "word " * 300,
)


@pytest.fixture(scope="session")
def minilm(home: Path) -> MiniLm:
    return MiniLm.read(fetch_minilm(home / "minilm"))


@pytest.fixture(scope="session")
def encoder(home: Path, minilm: MiniLm) -> Path:
    path = home / "minilm" / "all-minilm-l6-v2.gguf"
    return path if path.exists() else minilm.write_gguf(path)


@contextlib.contextmanager
def client_of(home: Path, model: str) -> Iterator[openai.OpenAI]:
    with (
        serving(home, model) as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client,
    ):
        yield client


def vectors(client: openai.OpenAI, model: str, texts: tuple[str, ...]) -> Floats:
    """By the official client, which asks for base64 unless it is told otherwise."""
    answer = client.embeddings.create(model=model, input=list(texts))
    return np.array([each.embedding for each in answer.data], dtype=np.float32)


def test_minilm_is_what_numpy_computes_from_the_same_weights(minilm: MiniLm, encoder: Path) -> None:
    async def ours() -> tuple[list[tuple[int, ...]], Floats]:
        text = TextService()
        engine = LlamaCppEngine(EngineConfig("minilm", (str(encoder),), 8192, 1, 2))
        await engine.load()
        source = VocabularySource(digest="minilm", paths=(str(encoder),), template="")
        ids = [(await text.tokenize(source, each, ending=True)).tokens for each in TEXTS]
        found = await engine.embed(EmbedRequest("all", tuple(ids)))
        await engine.close()
        await text.close()
        return ids, np.array(found, dtype=np.float32)

    ids, found = run(ours(), seconds=60)
    for text, tokens, vector in zip(TEXTS, ids, found, strict=True):
        assert list(tokens) == minilm.tokenize(text)
        assert float(vector @ minilm.embed(tokens)) > 0.9999


def test_minilm_tells_what_is_alike(home: Path, encoder: Path) -> None:
    with client_of(home, str(encoder)) as client:
        found = vectors(client, encoder.stem, TEXTS)
        alone = np.concatenate([vectors(client, encoder.stem, (text,)) for text in TEXTS])
        with pytest.raises(openai.BadRequestError, match=r"513 tokens .* holds 512") as caught:
            vectors(client, encoder.stem, ("word " * 511,))
        assert caught.value.code == "context_length_exceeded"
    assert np.linalg.norm(found, axis=1) == pytest.approx(1, abs=1e-5)
    assert (found * alone).sum(axis=1).min() > 0.9999
    likeness = found @ found.T
    assert likeness[0, 1] > 0.6
    assert abs(likeness[0, 2]) < 0.2
    assert likeness[0, 1] > max(likeness[0, 2:])


def test_a_decoder_embeds_by_its_last_token_beside_a_stream(home: Path, weights: Path) -> None:
    texts = TEXTS[:3]
    with (
        client_of(home, MODEL) as client,
        concurrent.futures.ThreadPoolExecutor(1) as beside,
    ):
        alone = np.concatenate([vectors(client, MODEL, (text,)) for text in texts])

        def chat() -> str:
            answer = client.chat.completions.create(
                model=MODEL,
                messages=[{"role": "user", "content": "Count from 1 to 20."}],
                temperature=0,
                max_tokens=40,
            )
            return answer.choices[0].message.content or ""

        chat()  # so that both times the prompt has been read before
        quiet = chat()
        talking = beside.submit(chat)
        together = vectors(client, MODEL, texts)
        assert talking.result(60) == quiet
        with pytest.raises(openai.BadRequestError, match="dimensions"):
            client.embeddings.create(model=MODEL, input="x", dimensions=897)
        short = client.embeddings.create(model=MODEL, input=texts[0], dimensions=64)
    assert alone.shape == (3, 896)
    assert np.linalg.norm(together, axis=1) == pytest.approx(1, abs=1e-5)
    # Quantised weights: rows beside others go through kernels that round differently.
    assert (together * alone).sum(axis=1).min() > 0.99
    cut = alone[0, :64] / np.linalg.norm(alone[0, :64])
    assert float(cut @ np.array(short.data[0].embedding)) > 0.99


def test_streams_go_on_while_much_is_embedded(weights: Path) -> None:
    """The longest pause of a stream stays near the target, however much there is to embed."""
    latency = 0.5

    async def scenario() -> tuple[float, int]:
        config = EngineConfig("beside", (str(weights),), 2048, 2, 2, latency=latency)
        engine = LlamaCppEngine(config)
        await engine.load()
        prompt = tuple(range(1000, 1020))
        much = EmbedRequest("much", tuple(prompt * 10 for _ in range(200)))
        embedding = asyncio.create_task(engine.embed(much))
        pauses = []
        last = None
        async for event in engine.generate(GenerateRequest("A", prompt, 40, GREEDY)):
            now = time.monotonic()
            if isinstance(event, TextDelta):
                pauses.append(now - last if last is not None else 0.0)
                last = now
        still = not embedding.done()
        embedding.cancel()
        await asyncio.gather(embedding, return_exceptions=True)
        await engine.close()
        assert still, "it was too little to embed"
        return sorted(pauses)[-2], len(pauses)

    pause, count = run(scenario(), seconds=120)
    assert count > 5
    assert pause < 3 * latency
