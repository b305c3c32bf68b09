"""Decoding 16 sequences without a server: llama.cpp's batched bench, and our engine."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from benchmarks.servers import SLOTS, THREADS
from benchmarks.weights import BenchmarkError
from benchmarks.workloads import CONTEXT

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


def engine_decode(model: Path) -> float | None:
    """The same decode through our engine, in tokens per second; None: not measured yet."""
    del model
    return None
