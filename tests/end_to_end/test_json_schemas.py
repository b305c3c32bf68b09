"""Two hundred JSON schemas on the real model: what is complete fits, what is refused says why."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import jsonschema_rs
import openai
import pytest

from tests.end_to_end.conftest import MODEL
from tests.support.command import serving
from tests.support.schemas import Schema, schemas

pytestmark = [pytest.mark.weights, pytest.mark.native]

COUNT = 200
AT_ONCE = 8


async def _answer(client: openai.AsyncOpenAI, schema: Schema, turns: asyncio.Semaphore) -> Any:
    """The answer's choice, or the refusal."""
    form: Any = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    async with turns:
        try:
            answer = await client.chat.completions.create(
                model=MODEL,
                messages=[{"role": "user", "content": "Answer in JSON."}],
                response_format=form,
                max_tokens=40,
                seed=1,
            )
        except openai.BadRequestError as refusal:
            return refusal
        return answer.choices[0]


def test_two_hundred_schemas(home: Path, weights: Path) -> None:
    asked = schemas(COUNT)

    async def ask(url: str) -> list[Any]:
        turns = asyncio.Semaphore(AT_ONCE)
        async with openai.AsyncOpenAI(
            base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=300
        ) as client:
            return await asyncio.gather(*(_answer(client, schema, turns) for schema in asked))

    with serving(home, "--parallel", str(AT_ONCE), "--context", "1024") as server:
        answers = asyncio.run(ask(server.url))
    complete = refused = 0
    for schema, answer in zip(asked, answers, strict=True):
        if isinstance(answer, openai.BadRequestError):
            refused += 1
            assert str(answer.param).startswith("response_format"), schema
            assert len(answer.message) > 30, schema
        elif answer.finish_reason == "stop":
            complete += 1
            value = json.loads(answer.message.content)
            assert jsonschema_rs.is_valid(schema, value), (schema, value)
    assert complete > COUNT / 2
    assert refused > 5
