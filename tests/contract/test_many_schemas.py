"""Thousands of schemas that are all different: what is compiled for one request is gone after it.

The whole ten thousand: ``python -m tests.contract.test_many_schemas``.
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import psutil
import pytest

from freehold.domain.sampling import Constraint, Grammar
from freehold.text.client import TextService
from freehold.text.messages import VocabularySource
from tests.support.tiny_model import write_tiny_llama

pytestmark = pytest.mark.native

MOST_GROWTH = 64 * 1024 * 1024


def schema(number: int) -> Constraint:
    return Constraint(
        Grammar.JSON_SCHEMA,
        f'{{"type": "object", "properties": {{"p{number}": {{"const": {number}}}}}}}',
    )


async def growth(folder: Path, count: int) -> int:
    """Bytes that the gateway and the text child have grown by, behind the first few hundred."""
    model = write_tiny_llama(folder / "tiny.gguf")
    source = VocabularySource(digest="tiny", paths=(str(model),), template="")
    text = TextService()
    try:
        for number in range(300):  # what is kept is full by then
            await text.check_constraint(source, schema(number))
        ours = psutil.Process()
        processes = [
            ours,
            *(each for each in ours.children() if "text" in " ".join(each.cmdline())),
        ]
        assert len(processes) == 2
        before = sum(each.memory_info().rss for each in processes)
        for number in range(300, 300 + count):
            await text.check_constraint(source, schema(number))
        return sum(each.memory_info().rss for each in processes) - before
    finally:
        await text.close()


def test_thousands_of_schemas_leave_nothing_behind(tmp_path: Path) -> None:
    assert asyncio.run(growth(tmp_path, 2_000)) < MOST_GROWTH // 4


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        print(asyncio.run(growth(Path(name), 10_000)))
