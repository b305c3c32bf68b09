"""Thousands of requests made from our own OpenAPI description, over the scripted engine."""

from __future__ import annotations

import collections
import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest

from freehold.domain.chat import GenerateRequest
from freehold.engines.scripted import Script
from tests.support import fuzzing
from tests.support.gateway import Gateway, gateway
from tests.support.tiny_model import write_tiny_llama

pytestmark = pytest.mark.native

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
)
# Knows tools, reasoning and levels of it: no field is refused for want of them.
TEMPLATE = (
    '{# <tool_call>{"name": ...} </think> #}'
    "{{ reasoning_effort }}{% if tools %}{{ tools | tojson }}{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ANSWERING = (
    "^/(v1/(chat/completions|completions|responses|messages|embeddings)"
    "|api/(chat|generate|embed|embeddings))$"
)


def fuzz(server: Gateway, folder: Path, *options: str) -> collections.Counter[str]:
    """How many requests had which status."""
    outcomes = folder / "outcomes"
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [
            *(str(Path(sys.executable).parent / "st"), "run", f"{server.url}/openapi.json"),
            *("--checks", ",".join(CHECKS), "--seed", "1", "--no-color", *options),
        ],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": root,
            "SCHEMATHESIS_HOOKS": fuzzing.__name__,
            fuzzing.OUTCOMES: str(outcomes),
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    return collections.Counter(line.split()[-1] for line in outcomes.read_text().splitlines())


def reached(server: Gateway) -> int:
    """How many requests have come to an engine."""
    return sum(len(engine.seen) + len(engine.embedded) for engine in server.engines)


def test_no_request_finds_an_undocumented_answer(tmp_path: Path) -> None:
    tiny = write_tiny_llama(
        tmp_path / f"{fuzzing.MODEL}.gguf", metadata={"tokenizer.chat_template": TEMPLATE}
    )
    turns = itertools.cycle(
        (("All ", "is ", "well."), ("<think>", "Hm", "</think>", "Grüße, 世界"))
    )

    def script(_: GenerateRequest | None) -> Script:
        return Script(pieces=next(turns))

    with gateway(tmp_path / "home", (tiny,), script=script, context=4096, offline=True) as server:
        fuzz(server, tmp_path, "--phases", "coverage,fuzzing", "--max-time", "25")
        before = reached(server)
        (tmp_path / "outcomes").unlink()
        statuses = fuzz(
            server,
            tmp_path,
            *("--phases", "fuzzing", "--max-time", "20", "--mode", "positive"),
            *("--include-path-regex", ANSWERING),
        )
        # What is made at random fits the documents, and often asks for what this model has not.
        assert statuses["200"] > statuses.total() / 3, statuses
        assert reached(server) - before > statuses.total() / 4
        # Whatever was asked, it goes on as before.
        assert server.chat().status_code == 200
