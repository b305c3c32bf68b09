"""The model file every server gets: the project's default model, requantised.

The published file is a mixture of formats. Q8_0 and Q4_0 of the same weights give
all servers one plain format with good kernels. Requantising runs in a child process:
what goes wrong in native code ends that, not the run.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
CACHE = ROOT / ".cache" / "bench"
SOURCE = "qwen2.5-coder:0.5b"
SOURCE_SHA256 = "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32"
# llama.cpp's `llama_ftype`.
FILE_TYPES = {"q8_0": 7, "q4_0": 2, "bf16": 32}


class BenchmarkError(Exception):
    """What stops a benchmark, in one sentence."""


def store() -> Path:
    """The store the tests use, so that the model is fetched once for both."""
    return Path(os.environ.get("FREEHOLD_TEST_HOME", ROOT / ".cache" / "test-home"))


def freehold_environment() -> dict[str, str]:
    """The caller's environment with the tests' store and none of the caller's settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FREEHOLD_")}
    return {**kept, "FREEHOLD_HOME": str(store())}


def freehold_command() -> str:
    """The `freehold` that belongs to the interpreter running this."""
    return str(Path(sys.executable).with_name("freehold"))


def source_file() -> Path:
    """The published weights, fetched by `freehold pull` when they are not there."""
    blob = store() / "blobs" / SOURCE_SHA256
    if not blob.exists():
        command = [freehold_command(), "pull", SOURCE]
        done = subprocess.run(command, env=freehold_environment(), check=False)
        if done.returncode != 0 or not blob.exists():
            raise BenchmarkError(f"{SOURCE} could not be fetched (see above).")
    return blob


def model_file(kind: str) -> Path:
    """The weights as ``kind`` (of `FILE_TYPES`), made once and kept in the cache."""
    target = CACHE / f"qwen2.5-coder-0.5b-{kind}.gguf"
    if target.exists():
        return target
    CACHE.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(".partial")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.weights", str(source_file()), str(partial), kind],
        cwd=ROOT,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode != 0:
        tail = "\n".join(done.stderr.splitlines()[-15:])
        raise BenchmarkError(f"llama.cpp could not requantise {SOURCE} to {kind}:\n{tail}")
    partial.rename(target)
    return target


def sha256(path: Path) -> str:
    """The digest that says two result files are about the same weights."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _requantise(source: str, target: str, kind: str) -> int:
    # Only the child loads native code.
    import llama_cpp.llama_cpp as native  # noqa: PLC0415

    parameters = native.llama_model_quantize_default_params()
    parameters.ftype = FILE_TYPES[kind]
    parameters.allow_requantize = True
    parameters.nthread = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
    return int(native.llama_model_quantize(source.encode(), target.encode(), parameters))


if __name__ == "__main__":
    sys.exit(_requantise(*sys.argv[1:4]))
