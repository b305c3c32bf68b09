"""The engines' README says what they declare."""

from __future__ import annotations

from pathlib import Path

import freehold.engines
from freehold.domain.upstreams import Upstream, UpstreamKind
from freehold.engines.base import Capability
from freehold.engines.scripted import Script, ScriptedEngine
from freehold.engines.upstream.engine import UpstreamEngine
from freehold.engines.vllm.client import FEATURES
from tests.support.running import run

README = Path(freehold.engines.__file__).with_name("README.md")


def told() -> dict[str, frozenset[Capability]]:
    """What each engine has by the table that begins with its capabilities."""
    text = README.read_text("utf-8")
    lines = text[text.index("| capability |") :].split("\n\n")[0].splitlines()
    heads, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert [row[0] for row in rows] == [each.value for each in Capability]
    assert {cell for row in rows for cell in row[1:]} == {"yes", "no"}
    return {
        name: frozenset(Capability(row[0]) for row in rows if row[column] == "yes")
        for column, name in enumerate(heads[1:], 1)
    }


async def declared_by_scripted() -> frozenset[Capability]:
    engine = ScriptedEngine(lambda _: Script())
    await engine.load()
    try:
        return engine.capabilities.features
    finally:
        await engine.close()


def test_the_table_says_what_is_declared() -> None:
    far = UpstreamEngine(Upstream("far", ("http://localhost/v1",), "x", UpstreamKind.FREEHOLD))
    assert told() == {
        "scripted": run(declared_by_scripted()),
        # Its contract is held with models that generate and others that embed.
        "llama.cpp": frozenset(Capability),
        "vLLM": FEATURES,
        "upstream": far.features,
    }
