"""Many at once on the real model, through the real server and OpenAI's own client."""

from __future__ import annotations

import concurrent.futures
import json
import math
from pathlib import Path

import openai
import pytest

from freehold.domain.chat import GenerateRequest
from tests.end_to_end.conftest import MODEL
from tests.end_to_end.test_real_model import token_ids
from tests.support.command import serving
from tests.support.engine import GREEDY, QUANTISED_TOLERANCE, config, difference, staged

pytestmark = [pytest.mark.native, pytest.mark.weights]

QUESTIONS = (
    "Name three fruits.",
    "What is 12 times 12?",
    "Write a line of Python that prints hello.",
    "Say hello. " * 30,
)
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 2},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}


def test_batched_and_guessed_is_alone(home: Path, weights: Path) -> None:
    prompts = [tuple(token_ids(home, question)) for question in QUESTIONS]
    requests = [
        GenerateRequest(str(number), prompt, 16, GREEDY, f"own {number}", top_logprobs=4)
        for number, prompt in enumerate(prompts)
    ]
    plain = config(context=1024, parallel=1, drafts=False)
    with staged(weights, plain) as stage:
        alone = [stage.answer_all([request])[0] for request in requests]
    with staged(weights, config(context=1024, parallel=4)) as stage:
        batched = stage.answer_all(requests)
    pairs = zip(alone, batched, strict=True)
    assert [difference(*pair, QUANTISED_TOLERANCE) for pair in pairs] == [None] * 4


def test_a_schema_and_log_probabilities_through_the_official_client(
    home: Path, weights: Path
) -> None:
    with (
        serving(home, MODEL) as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client,
        concurrent.futures.ThreadPoolExecutor(4) as several,
    ):

        def person(seed: int) -> dict[str, object]:
            answer = client.chat.completions.create(
                model=MODEL,
                messages=[{"role": "user", "content": "Describe a person as JSON."}],
                response_format={
                    "type": "json_schema",
                    "json_schema": {"name": "person", "schema": PERSON, "strict": True},
                },
                seed=seed,
                max_tokens=200,
            )
            assert answer.choices[0].finish_reason == "stop"
            found: dict[str, object] = json.loads(answer.choices[0].message.content or "")
            return found

        for found in several.map(person, range(4)):
            assert set(found) == {"name", "age", "tags"}
            assert isinstance(found["age"], int)
            assert 0 <= found["age"] <= 150

        answer = client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "Say yes."}],
            logprobs=True,
            top_logprobs=3,
            temperature=0,
            max_tokens=4,
        )
        logprobs = answer.choices[0].logprobs
        assert logprobs is not None
        assert logprobs.content
        assert "".join(each.token for each in logprobs.content) == answer.choices[0].message.content
        for each in logprobs.content:
            assert each.logprob == pytest.approx(each.top_logprobs[0].logprob)
            assert sum(math.exp(top.logprob) for top in each.top_logprobs) <= 1.0001

        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(
                model=MODEL,
                messages=[{"role": "user", "content": "x"}],
                response_format={
                    "type": "json_schema",
                    "json_schema": {"name": "bad", "schema": {"type": "nonsense"}},
                },
            )
        assert caught.value.param == "response_format"
