"""Decoding 16 sequences without a server: llama.cpp's batched bench, and our engine."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.servers import SLOTS, THREADS
from benchmarks.weights import BenchmarkError
from benchmarks.workloads import CONTEXT
from freehold.domain.chat import GenerateRequest
from freehold.domain.events import TextDelta
from freehold.domain.sampling import Constraint, Grammar, Sampling
from freehold.engines.base import EngineConfig
from freehold.engines.llamacpp.client import LlamaCppEngine

PROMPT = 256
ANSWER = 48

# The attention, cache type and cache layout our engine runs, for the same decode in theirs.
SAME_AS_OURS = ("-fa", "off", "--no-kv-unified", "-ctk", "f16", "-ctv", "f16")


def batched_bench_command(program: Path, model: Path) -> list[str]:
    """One decode of `SLOTS` sequences that begin after `PROMPT` tokens."""
    return [
        *(str(program), "-m", str(model), "-c", str(SLOTS * CONTEXT), "-t", str(THREADS)),
        *("-npp", str(PROMPT), "-ntg", str(ANSWER), "-npl", str(SLOTS)),
        *(*SAME_AS_OURS, "--output-format", "jsonl"),
    ]


def batched_bench(program: Path, model: Path) -> float:
    """Decoded tokens per second, its S_TG."""
    done = subprocess.run(
        batched_bench_command(program, model),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    rows = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode != 0 or not rows:
        tail = "\n".join(done.stderr.splitlines()[-15:])
        raise BenchmarkError(f"llama-batched-bench ended with status {done.returncode}:\n{tail}")
    return float(json.loads(rows[-1])["speed_tg"])


# What the 16 sequences ask for beside greedy tokens. The times are of the same steps, so they tell
# what the asking costs.
KINDS: Mapping[str, tuple[Sampling, Constraint | None]] = {
    "greedy": (Sampling(temperature=0, ignore_end=True), None),
    "sampled": (
        Sampling(
            temperature=0.7,
            top_p=0.9,
            repetition_penalty=1.1,
            presence_penalty=0.2,
            frequency_penalty=0.2,
            seed=1,
            ignore_end=True,
        ),
        None,
    ),
    "schema": (
        Sampling(temperature=0),
        Constraint(
            Grammar.JSON_SCHEMA,
            json.dumps(
                {
                    "type": "array",
                    "minItems": 1000,
                    "items": {
                        "type": "object",
                        "properties": {
                            "name": {"type": "string", "minLength": 5, "maxLength": 20},
                            "age": {"type": "integer", "minimum": 1, "maximum": 120},
                            "kind": {"enum": ["plant", "animal", "stone"]},
                        },
                        "required": ["name", "age", "kind"],
                        "additionalProperties": False,
                    },
                }
            ),
        ),
    ),
}


@dataclass(frozen=True)
class Decoding:
    """``outside`` is the share of the time that was not spent in ``llama_decode``."""

    tokens_per_second: float
    outside: float


def engine_decode(model: Path) -> dict[str, Decoding]:
    """The same decode through our engine in its worker, with nothing guessed, for all `KINDS`."""
    return asyncio.run(_engine_decode(model))


async def _engine_decode(model: Path) -> dict[str, Decoding]:
    config = EngineConfig("bench", (str(model),), CONTEXT, SLOTS, THREADS, drafts=False)
    engine = LlamaCppEngine(config)
    await engine.load()
    try:
        return {
            name: await _decode(engine, name, sampling, constraint)
            for name, (sampling, constraint) in KINDS.items()
        }
    finally:
        await engine.close()


async def _decode(
    engine: LlamaCppEngine, name: str, sampling: Sampling, constraint: Constraint | None
) -> Decoding:
    """What `SLOTS` sequences do together, from when the last has begun, for `ANSWER` steps."""
    dice = random.Random(name)
    requests = [
        GenerateRequest(
            f"{name} {number}",
            tuple(dice.randrange(1000, 100_000) for _ in range(PROMPT)),
            # Whoever begins first goes on until the last has said what is measured.
            max_tokens=SLOTS * ANSWER,
            sampling=sampling,
            constraint=constraint,
        )
        for number in range(SLOTS)
    ]
    answers = [_Answer() for _ in requests]
    pairs = zip(requests, answers, strict=True)
    tasks = [asyncio.create_task(_follow(engine, *pair)) for pair in pairs]
    try:
        await asyncio.gather(*(answer.begun.wait() for answer in answers))
        before, began = await engine.inspect(), time.perf_counter()
        said = sum(answer.tokens for answer in answers)
        while sum(answer.tokens for answer in answers) < said + SLOTS * ANSWER:
            if any(task.done() for task in tasks):
                raise BenchmarkError(f"An answer ended while {name} was measured.")
            await asyncio.sleep(0.01)
        after, ended = await engine.inspect(), time.perf_counter()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    seconds = ended - began
    return Decoding(
        tokens_per_second=(after.decoded_rows - before.decoded_rows) / seconds,
        outside=1 - (after.decode_seconds - before.decode_seconds) / seconds,
    )


@dataclass
class _Answer:
    """How much of it has come."""

    tokens: int = 0
    begun: asyncio.Event = field(default_factory=asyncio.Event)


async def _follow(engine: LlamaCppEngine, request: GenerateRequest, answer: _Answer) -> None:
    async for event in engine.generate(request):
        if isinstance(event, TextDelta):
            answer.tokens += len(event.tokens)
            answer.begun.set()
