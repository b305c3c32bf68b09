"""Headers of models that are not here: the tensors and numbers that planning looks at."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from pathlib import Path

from freehold.domain.engine import CacheType
from freehold.machine.calibration import AttentionCost, Calibration, TypeCost
from freehold.machine.computer import Computer, Disk, Memory, Processor
from freehold.weights.gguf_header import GgufHeader, MetadataValue, TensorInfo
from freehold.weights.gguf_types import TensorType


def tensor(name: str, *shape: int, kind: TensorType = TensorType.Q8_0) -> TensorInfo:
    size = prod(shape) // kind.block_size * kind.block_bytes
    return TensorInfo(f"{name}.weight", shape, kind, 0, size)


def header(
    architecture: str, numbers: Mapping[str, MetadataValue], tensors: list[TensorInfo]
) -> GgufHeader:
    metadata = {f"{architecture}.{name}": value for name, value in numbers.items()}
    return GgufHeader(
        path=Path("paper.gguf"),
        version=3,
        metadata={"general.architecture": architecture, **metadata},
        tensors=tuple(tensors),
        alignment=32,
        data_offset=0,
        file_size=0,
    )


def dense(layers: int = 4, *, window: int | None = None, architecture: str = "qwen2") -> GgufHeader:
    """Embedding 512, 8 heads of 64 over 2, feed-forward 1,024, 2,048 tokens."""
    numbers: dict[str, MetadataValue] = {
        "block_count": layers,
        "embedding_length": 512,
        "context_length": 8192,
        "attention.head_count": 8,
        "attention.head_count_kv": 2,
    }
    if window is not None:
        numbers["attention.sliding_window"] = window
    tensors = [tensor("token_embd", 512, 2048), tensor("output", 512, 2048)]
    for index in range(layers):
        tensors += block(index)
    return header(architecture, numbers, tensors)


def block(index: int) -> list[TensorInfo]:
    shapes = {
        "attn_norm": (512,),
        "attn_q": (512, 512),
        "attn_k": (512, 128),
        "attn_v": (512, 128),
        "attn_output": (512, 512),
        "ffn_gate": (512, 1024),
        "ffn_up": (512, 1024),
        "ffn_down": (1024, 512),
    }
    return [
        tensor(
            f"blk.{index}.{name}",
            *shape,
            kind=TensorType.F32 if len(shape) == 1 else TensorType.Q8_0,
        )
        for name, shape in shapes.items()
    ]


COMPUTER = Computer(
    system="Linux x86_64",
    processor=Processor("on paper", "x86_64", 4, instruction_sets=("avx2",)),
    memory=Memory(16 << 30, 16 << 30),
    disk=Disk("/", 1 << 40),
)


def calibration(slower: float = 1.0) -> Calibration:
    """Of a computer that reads 20 GB/s and multiplies at 200 GFLOP/s, ``slower`` times slower."""
    return Calibration(
        computer="paper",
        build="paper",
        measured_at="2026-11-24T00:00:00+00:00",
        seconds=20,
        threads=4,
        bandwidth=20e9 / slower,
        matrix_rate=200e9 / slower,
        step=1e-4 * slower,
        layer=1e-5 * slower,
        logit=1e-9 * slower,
        yardstick=3e-3 * slower,
        reading_yardstick=3e-2 * slower,
        types=(
            _cost("Q8_0", 34 / 32 / 20e9, 1.6e-10, 1e-11, slower),
            _cost("Q4_K", 144 / 256 / 18e9, 2e-10, 2e-11, slower),
        ),
        attention=(
            AttentionCost(False, CacheType.F16, 64, 1e-8 * slower, 4e-9 * slower),
            AttentionCost(False, CacheType.F16, 128, 2e-8 * slower, 8e-9 * slower),
        ),
    )


def _cost(name: str, one: float, few: float, many: float, slower: float) -> TypeCost:
    """A row costs 10 ns, with eight tokens 40, and 1 for each token of a prompt."""
    elements = (one * slower, few * slower, many * slower)
    return TypeCost(name, *elements, 1e-8 * slower, 4e-8 * slower, 1e-9 * slower)
