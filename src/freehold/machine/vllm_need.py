"""What vLLM takes for a model in safetensors, as far as its configuration and headers tell. Pure.

Sizes are bytes. Nothing is said of speed: that has not been measured on enough machines.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from freehold.domain.engine import Precision, Quantization
from freehold.machine.computer import Computer, Gpu, GpuKind
from freehold.machine.placement import MARGIN, RUNTIME
from freehold.weights.checkpoint import quantisation
from freehold.weights.safetensors import Tensor

# Of each card vLLM takes this share, and does not start where less of it is free
# (`gpu_memory_utilization`, as 0.32 has it).
SHARE = 0.92
# vLLM's processes without weights and cache, and what PyTorch adds while it loads; measured with
# the CPU build and a model of 0.5 billion parameters.
PROCESSES = 3 << 30
# Contexts that are chosen are multiples of it.
STEP = 256
# Whatever they are stored as, vLLM computes with one precision.
_FLOATS = frozenset({"F16", "BF16", "F32"})
# Matrices that vLLM does not quantise, by a part of their names.
_LEFT = ("embed", "lm_head")


@dataclass(frozen=True)
class VllmNeed:
    """``weights`` and ``cache`` lie on the cards where there are any, ``processes`` never do."""

    weights: int
    cache: int
    processes: int = PROCESSES

    @property
    def total(self) -> int:
        return self.weights + self.cache + self.processes


@dataclass(frozen=True)
class Room:
    """What is needed and there is, on ``cards`` cards, or in ordinary memory where that is 0."""

    cards: int
    needed: int
    available: int

    @property
    def enough(self) -> bool:
        return self.needed * MARGIN <= self.available

    def tokens(self, size: float) -> int:
        """How many of ``size`` bytes each there is room for beside what is needed, in whole steps
        of 256.
        """
        return max(0, int((self.available / MARGIN - self.needed) / size)) // STEP * STEP


def room(need: VllmNeed, computer: Computer, cards: int, memory: int | None = None) -> Room:
    """Where it would lie: on as many CUDA cards as it is given, or in memory without one, of which
    ``memory`` may be used (None: all that is available).
    """
    found = sorted(capacity(gpu) for gpu in computer.gpus if gpu.kind is GpuKind.CUDA)
    if not found:
        available = computer.memory.available
        return Room(0, need.total, available if memory is None else min(available, memory))
    used = found[-cards:]
    # The cards share everything evenly: the smallest decides.
    needed = need.weights + need.cache + len(used) * RUNTIME
    return Room(len(used), needed, used[0] * len(used))


def capacity(gpu: Gpu) -> int:
    """What vLLM would have of a card; 0 where too much of it is taken."""
    share = int(gpu.total * SHARE)
    return share if gpu.available >= share else 0


def effective(wanted: Quantization, config: Mapping[str, Any]) -> Quantization:
    """What is ``wanted``, of weights that their publisher has not quantised."""
    return Quantization.NONE if quantisation(config) is not None else wanted


def precision(
    config: Mapping[str, Any], wanted: Quantization, instruction_sets: Collection[str] | None
) -> Precision:
    """What a processor with these ``instruction_sets`` computes in; None: cards do.

    An x86 without AVX-512 must take bfloat16 apart to multiply it: prompts were read at a fifth of
    the speed of float32 (docs/benchmarks.md). What computes with quantised weights wants 16 bits.
    """
    quantised = quantisation(config) is not None or wanted is not Quantization.NONE
    if instruction_sets is None or quantised:
        return Precision.BFLOAT16
    slow = "avx2" in instruction_sets and "avx512f" not in instruction_sets
    return Precision.FLOAT32 if slow else Precision.BFLOAT16


def weight_bytes(tensors: Iterable[Tensor], quantization: Quantization, computed: Precision) -> int:
    """Of weights as they are loaded, or as they become."""
    return sum(_bytes(tensor, quantization, computed) for tensor in tensors)


def _bytes(tensor: Tensor, quantization: Quantization, computed: Precision) -> int:
    if tensor.dtype not in _FLOATS:
        return tensor.end - tensor.begin
    count = prod(tensor.shape)
    matrix = len(tensor.shape) == 2 and not any(part in tensor.name for part in _LEFT)
    if matrix and quantization is not Quantization.NONE:
        return int(count * quantization.bits / 8)
    return count * computed.bytes


def cached_bytes(config: Mapping[str, Any], computed: Precision) -> int:
    """Keys and values of one token in all layers, of a model whose layers all keep them; 0 where
    its configuration does not tell.
    """
    heads = number(config, "num_attention_heads")
    width = number(config, "head_dim") or (number(config, "hidden_size") // heads if heads else 0)
    kept = number(config, "num_key_value_heads") or heads
    return number(config, "num_hidden_layers") * kept * width * 2 * computed.bytes


def trained_context(config: Mapping[str, Any]) -> int | None:
    return number(config, "max_position_embeddings") or None


def number(config: Mapping[str, Any], name: str) -> int:
    """What a configuration says, if that can be; 0 where it does not tell."""
    inner = config.get("text_config")
    value = config.get(name, inner.get(name) if isinstance(inner, dict) else None)
    return value if isinstance(value, int) and 0 < value < 1 << 40 else 0
