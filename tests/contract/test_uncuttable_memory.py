"""Models whose memory cannot be cut at any position: they work, and share what can be shared."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from freehold.domain.chat import GenerateRequest
from tests.support.engine import GREEDY, Answer, Stage, config, difference, staged
from tests.support.tiny_mamba import write_tiny_mamba

pytestmark = pytest.mark.native

STEM = tuple(range(20, 120))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_mamba(tmp_path_factory.mktemp("models") / "mamba.gguf")


@pytest.fixture
def stage(model: Path) -> Iterator[Stage]:
    with staged(model, config(parallel=4)) as stage:
        assert not stage.context.cuttable
        yield stage


def asked(name: str, prompt: tuple[int, ...], count: int = 16) -> GenerateRequest:
    return GenerateRequest(name, prompt, count, GREEDY, top_logprobs=4)


def alone(model: Path, request: GenerateRequest) -> Answer:
    with staged(model, config(parallel=1)) as stage:
        return stage.answer_all([request])[0]


def cached(answer: Answer) -> int:
    assert answer.usage is not None
    return answer.usage.cached_tokens


def test_batched_is_alone(model: Path, stage: Stage) -> None:
    dice = random.Random(5)
    requests = [
        asked(f"{number}", tuple(dice.randrange(256) for _ in range(dice.randrange(1, 150))))
        for number in range(30)
    ]
    for request, answer in zip(requests, stage.answer_all(requests), strict=True):
        assert difference(answer, alone(model, request)) is None


def test_the_same_prompt_again_starts_from_its_checkpoint(model: Path, stage: Stage) -> None:
    request = asked("first", STEM)
    first = stage.answer_all([request])[0]
    again = stage.answer_all([replace(request, request_id="again")])[0]
    assert (cached(first), cached(again)) == (0, len(STEM) - 8)
    assert difference(first, again) is None


def test_a_conversation_goes_on_from_its_end(model: Path, stage: Stage) -> None:
    first = stage.answer_all([asked("first", STEM)])[0]
    longer = (*STEM, *first.tokens, *range(200, 220))
    second = stage.answer_all([asked("second", longer)])[0]
    assert cached(second) >= len(STEM) + len(first.tokens) - 1
    assert difference(second, alone(model, asked("alone", longer))) is None


def test_those_who_come_together_part_at_a_checkpoint(model: Path, stage: Stage) -> None:
    requests = [asked(f"{tail}", (*STEM, *range(tail, tail + 40))) for tail in (130, 180, 210)]
    answers = stage.answer_all(requests)
    assert [cached(answer) for answer in answers] == [0, len(STEM), len(STEM)]
    for request, answer in zip(requests, answers, strict=True):
        assert difference(answer, alone(model, request)) is None
