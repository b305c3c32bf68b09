"""How vLLM is started: its arguments and its environment. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from freehold.engines.vllm.installation import Build

GIBIBYTE = 1 << 30

# Tokens of prompts a CPU reads in one step: about a second's work for a small model.
_CPU_STEP = 512

# Said to it: no calls home, nothing fetched, nothing of ours in its log.
_QUIET = {
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
    "PYTHONSAFEPATH": "1",  # nothing is imported from where we happen to be
    "PYTHONUNBUFFERED": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_DO_NOT_TRACK": "1",
    "VLLM_HOST_IP": "127.0.0.1",
    "VLLM_NO_USAGE_STATS": "1",
}
_INHERITED = ("CUDA_VISIBLE_DEVICES", "HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PATH", "TMPDIR")


@dataclass(frozen=True)
class VllmConfig:
    """How to load one model. ``weights`` is a folder of safetensors with their configuration.

    ``context`` is tokens per sequence, ``parallel`` how many sequences run at once, ``threads`` and
    ``cache_bytes`` (of the key-value cache) are the CPU build's. ``tensor_parallel`` cards share
    each layer, ``pipeline_parallel`` groups of them share the layers.
    """

    model: str
    build: Build
    python: Path
    weights: Path
    context: int
    parallel: int
    threads: int
    cache_bytes: int
    tensor_parallel: int = 1
    pipeline_parallel: int = 1


def arguments(config: VllmConfig, socket: Path) -> tuple[str, ...]:
    """The command. Its own console script looks for a package named ``vllm``, which the CPU build
    is not; the module is started instead.
    """
    words = [
        *(str(config.python), "-P", "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", str(config.weights), "--served-model-name", "model"),
        *("--uds", str(socket)),
        *("--max-model-len", str(config.context), "--max-num-seqs", str(config.parallel)),
        *("--tensor-parallel-size", str(config.tensor_parallel)),
        *("--pipeline-parallel-size", str(config.pipeline_parallel)),
        *("--structured-outputs-config.backend", "guidance"),
        *("--generation-config", "vllm"),  # sampling is the request's, not the model's
        "--enable-scale-out",  # the route that takes and gives token ids
        "--enable-prefix-caching",
        "--enable-prompt-tokens-details",
        *("--uvicorn-log-level", "warning"),
    ]
    if config.build is Build.CPU:
        # Compiling the graph takes a minute at each start and wins little on a CPU.
        words += ["--dtype", "bfloat16", "--enforce-eager"]
        # A step cannot be broken off: whoever comes next waits for it.
        words += ["--max-num-batched-tokens", str(max(_CPU_STEP, config.parallel))]
    return tuple(words)


def quiet_environ(inherited: Mapping[str, str], cache: Path) -> dict[str, str]:
    """An allow-list of ours, and what keeps it quiet. ``cache``: a folder for what it compiles."""
    kept = {name: inherited[name] for name in _INHERITED if name in inherited}
    return {**kept, **_QUIET, "VLLM_CACHE_ROOT": str(cache), "XDG_CACHE_HOME": str(cache)}


def environ(config: VllmConfig, inherited: Mapping[str, str], cache: Path) -> dict[str, str]:
    """What the server is started with; ``cache`` as in `quiet_environ`."""
    told = quiet_environ(inherited, cache)
    if config.build is Build.CPU:
        told |= {
            "VLLM_CPU_KVCACHE_SPACE": str(max(1, config.cache_bytes // GIBIBYTE)),
            "OMP_NUM_THREADS": str(config.threads),
            "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
        }
        openmp = config.python.parent.parent / "lib" / "libiomp5.so"
        if openmp.exists():  # with another OpenMP its threads get in each other's way
            told["LD_PRELOAD"] = str(openmp)
    return told
