"""Adapters small enough to write inside a test, for the models of `tiny_model`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from freehold.engines.base import Adapter, AdapterKind
from freehold.weights.gguf_types import TensorType
from freehold.weights.gguf_writer import Tensor, write_gguf

RANK = 4


def write_lora(path: Path, *, width: int, layers: int = 2, seed: int = 0) -> Adapter:
    """A random LoRA on the query projections, strong enough to change answers."""
    dice = np.random.default_rng(seed)

    def tensor(name: str, *shape: int) -> Tensor:
        data = dice.normal(0, 0.5, shape[::-1]).astype(np.float32)
        return Tensor(name, shape, TensorType.F32, data.tobytes())

    tensors = []
    for layer in range(layers):
        for matrix in ("attn_q", "attn_output"):
            name = f"blk.{layer}.{matrix}.weight"
            tensors.append(tensor(f"{name}.lora_a", width, RANK))
            tensors.append(tensor(f"{name}.lora_b", RANK, width))
    write_gguf(
        path,
        {
            "general.type": "adapter",
            "general.architecture": "llama",
            "adapter.type": "lora",
            "adapter.lora.alpha": float(RANK),
        },
        tensors,
    )
    return Adapter(path.stem, AdapterKind.LORA, str(path))


def write_control_vector(path: Path, *, width: int, layers: int = 2, seed: int = 0) -> Adapter:
    """A random direction for each layer from the second on."""
    dice = np.random.default_rng(seed)
    tensors = [
        Tensor(
            f"direction.{layer}",
            (width,),
            TensorType.F32,
            dice.normal(0, 1, width).astype(np.float32).tobytes(),
        )
        for layer in range(1, layers)
    ]
    write_gguf(path, {"general.architecture": "controlvector"}, tensors)
    return Adapter(path.stem, AdapterKind.CONTROL_VECTOR, str(path))
