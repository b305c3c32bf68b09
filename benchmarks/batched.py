"""Decoding 16 sequences without a server: llama.cpp's batched bench, and our engine."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.servers import SLOTS, THREADS
from benchmarks.weights import BenchmarkError
from benchmarks.workloads import CONTEXT
from freehold.domain.chat import GenerateRequest
from freehold.domain.events import TextDelta
from freehold.domain.sampling import Sampling
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


def engine_decode(model: Path) -> float:
    """The same decode through our engine in its worker, greedy, with nothing guessed."""
    return asyncio.run(_engine_decode(model))


async def _engine_decode(model: Path) -> float:
    config = EngineConfig("bench", (str(model),), CONTEXT, SLOTS, THREADS, drafts=False)
    engine = LlamaCppEngine(config)
    await engine.load()
    dice = random.Random(1)
    answers = [_Answer() for _ in range(SLOTS)]
    requests = [
        GenerateRequest(
            str(number),
            tuple(dice.randrange(1000, 100_000) for _ in range(PROMPT)),
            # Long enough for all to be decoding together for `ANSWER` steps and more.
            4 * ANSWER,
            Sampling(temperature=0, ignore_end=True),
        )
        for number in range(SLOTS)
    ]
    try:
        pairs = zip(requests, answers, strict=True)
        await asyncio.gather(*(_follow(engine, *pair) for pair in pairs))
    finally:
        await engine.close()
    began = max(answer.times[0] for answer in answers)
    ended = min(answer.times[-1] for answer in answers)
    within = [at for answer in answers for at in answer.times if began < at <= ended]
    return len(within) / (ended - began)


@dataclass
class _Answer:
    """When each token came, in seconds."""

    times: list[float] = field(default_factory=list)


async def _follow(engine: LlamaCppEngine, request: GenerateRequest, answer: _Answer) -> None:
    async for event in engine.generate(request):
        if isinstance(event, TextDelta):
            answer.times.extend([time.perf_counter()] * len(event.tokens))
