"""How vLLM is started: its arguments and its environment. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from freehold.domain.engine import Precision
from freehold.engines.vllm.installation import Build
from freehold.engines.vllm.plugin import NAME as PLUGIN
from freehold.engines.vllm.plugin import STARTER
from freehold.engines.vllm.starts_vllm import SERVER
from freehold.process.child import child_environment

GIBIBYTE = 1 << 30
# Its own console script looks for a package named ``vllm``, which the CPU build is not: a module is
# started instead, there the one that makes the start shorter.
COMMAND, CPU_COMMAND = ("-P", "-m", SERVER), ("-P", "-m", STARTER)
# What it calls the model; adapters have names of their own.
MODEL = "model"

# Tokens of prompts a CPU reads in one step: about a second's work for a small model.
_CPU_STEP = 512

# A slot takes memory for an adapter of this rank, whatever is in it. One of vLLM's choices.
MAX_RANK = 64

# Said to it besides what every child is told.
_OWN = {
    "PYTHONSAFEPATH": "1",  # nothing is imported from where we happen to be
    "TOKENIZERS_PARALLELISM": "false",
    "VLLM_DO_NOT_TRACK": "1",
    "VLLM_HOST_IP": "127.0.0.1",
}
_VISIBLE = "CUDA_VISIBLE_DEVICES"
# Those are about our environment and our numpy.
_OURS = ("OPENBLAS_NUM_THREADS", "PYTHONOPTIMIZE", "PYTHONPATH", "VIRTUAL_ENV")


@dataclass(frozen=True)
class VllmConfig:
    """How to load one model. ``weights`` is a folder of safetensors with their configuration.

    ``context`` is tokens per sequence, ``parallel`` how many sequences run at once; ``threads``,
    ``cache_bytes`` (of the key-value cache) and ``precision`` are the CPU build's.
    ``tensor_parallel`` cards share each layer, ``pipeline_parallel`` groups of them share the
    layers; ``cards`` are the numbers of those it is given, none: all. ``pooling`` (``MEAN``,
    ``CLS``, ``LAST``): it embeds so, and does nothing else. ``lora_slots`` adapters can be in force
    at once. ``quantization`` is done to the weights while they load; None: they stay as they are,
    and vLLM sees by itself how a checkpoint is quantised. ``plugin``: a folder with what the CPU
    build needs of ours (`plugin.put`).
    """

    model: str
    build: Build
    python: Path
    weights: Path
    context: int
    parallel: int
    threads: int
    cache_bytes: int
    precision: Precision = Precision.BFLOAT16
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    cards: tuple[int, ...] = ()
    pooling: str | None = None
    lora_slots: int = 0
    quantization: str | None = None
    plugin: Path | None = None


def arguments(config: VllmConfig, socket: Path) -> tuple[str, ...]:
    """The command."""
    ours = config.build is Build.CPU and config.plugin is not None
    words = [
        *(str(config.python), *(CPU_COMMAND if ours else COMMAND)),
        *("--model", str(config.weights), "--served-model-name", MODEL),
        *("--uds", str(socket)),
        *("--max-model-len", str(config.context), "--max-num-seqs", str(config.parallel)),
        *("--tensor-parallel-size", str(config.tensor_parallel)),
        *("--pipeline-parallel-size", str(config.pipeline_parallel)),
        *("--structured-outputs-config.backend", "guidance"),
        *("--generation-config", "vllm"),  # sampling is the request's, not the model's
        *_task(config),
        "--enable-prompt-tokens-details",
        *("--uvicorn-log-level", "warning"),
    ]
    if config.build is Build.CPU:
        # The graph is not compiled: that would need a compiler, at each start.
        words += ["--dtype", str(config.precision), "--enforce-eager"]
        # A step cannot be broken off: whoever comes next waits for it.
        words += ["--max-num-batched-tokens", str(_step(config))]
    if config.quantization is not None:
        words += ["--quantization", config.quantization]
    if config.lora_slots:
        words += ["--enable-lora", "--max-loras", str(config.lora_slots)]
        words += ["--max-lora-rank", str(MAX_RANK)]
    return tuple(words)


def _task(config: VllmConfig) -> list[str]:
    if config.pooling is None:
        # The route that takes and gives token ids.
        return ["--enable-scale-out", "--enable-prefix-caching"]
    pooler = json.dumps({"pooling_type": config.pooling, "use_activation": True})
    return ["--runner", "pooling", "--convert", "embed", "--pooler-config", pooler]


def _step(config: VllmConfig) -> int:
    """An encoder reads a text in one step, so that has room for the longest."""
    whole = config.context if config.pooling is not None else 0
    return max(_CPU_STEP, config.parallel, whole)


def quiet_environ(inherited: Mapping[str, str], cache: Path) -> dict[str, str]:
    """As every child's, for a Python that is not ours. ``cache``: a folder for what it compiles."""
    told = {**child_environment(inherited), **_OWN}
    for name in _OURS:
        told.pop(name, None)
    return {**told, "VLLM_CACHE_ROOT": str(cache), "XDG_CACHE_HOME": str(cache)}


def environ(config: VllmConfig, inherited: Mapping[str, str], cache: Path) -> dict[str, str]:
    """What the server is started with; ``cache`` as in `quiet_environ`."""
    told = quiet_environ(inherited, cache)
    if config.lora_slots:  # the route that loads one; only we reach it
        told["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "True"
    if config.build is Build.CPU:
        told |= {
            "VLLM_CPU_KVCACHE_SPACE": str(max(1, config.cache_bytes // GIBIBYTE)),
            "OMP_NUM_THREADS": str(config.threads),
            "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
        }
        if config.plugin is not None:
            told |= {"PYTHONPATH": str(config.plugin), "VLLM_PLUGINS": PLUGIN}
        openmp = config.python.parent.parent / "lib" / "libiomp5.so"
        if openmp.exists():  # with another OpenMP its threads get in each other's way
            told["LD_PRELOAD"] = str(openmp)
            # Else it keeps forked processes to one processor. vLLM binds its threads itself.
            told["KMP_AFFINITY"] = "none"
    elif config.cards:
        # As NVIDIA's library numbers them, and not the fastest first.
        told["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
        told[_VISIBLE] = _visible(config.cards, inherited.get(_VISIBLE))
    return told


def _visible(cards: Sequence[int], given: str | None) -> str:
    """These, of those that it was ``given``."""
    names = None if given is None else [name.strip() for name in given.split(",")]
    return ",".join(str(card) if names is None else names[card] for card in cards)
