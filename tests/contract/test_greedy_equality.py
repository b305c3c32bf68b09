"""Greedy through our worker is greedy as llama-cpp-python's own class does it."""

from __future__ import annotations

from pathlib import Path

import pytest

from freehold.domain.chat import GenerateRequest
from freehold.domain.events import TextDelta
from freehold.domain.sampling import Sampling
from freehold.engines.base import EngineConfig
from freehold.engines.llamacpp.client import LlamaCppEngine
from tests.support.endless import write_endless_llama
from tests.support.running import collect, run

pytestmark = pytest.mark.native

PROMPTS: tuple[tuple[int, ...], ...] = (
    (65,),
    tuple(b"Hello, world"),
    tuple(range(200)),
    (286, *b"user\nHi", 287, 10, 286, *b"assistant\n"),
    tuple(b"the same again " * 20),
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_endless_llama(tmp_path_factory.mktemp("models") / "endless.gguf")


async def ours(model: Path) -> list[tuple[str, tuple[int, ...]]]:
    """Text and token ids of the answers to `PROMPTS`, one after another."""
    engine = LlamaCppEngine(EngineConfig("endless", (str(model),), 512, 1, threads=1))
    await engine.load()
    answers = []
    for number, prompt in enumerate(PROMPTS):
        request = GenerateRequest(str(number), prompt, 32, Sampling(temperature=0))
        events = await collect(engine.generate(request))
        deltas = [event for event in events if isinstance(event, TextDelta)]
        tokens = tuple(token for delta in deltas for token in delta.tokens)
        answers.append(("".join(delta.text for delta in deltas), tokens))
    await engine.close()
    return answers


def test_the_same_tokens_and_their_text(model: Path) -> None:
    from tests.support.llama import greedy, tokenizer_of

    answers = run(ours(model))
    assert [tokens for _, tokens in answers] == [greedy(model, prompt, 32) for prompt in PROMPTS]
    assert len({tokens for _, tokens in answers}) == len(PROMPTS)
    with tokenizer_of(model) as tokenizer:
        assert [text for text, _ in answers] == [tokenizer.text(tokens) for _, tokens in answers]
