"""Models made up to be timed: any shape and any type of weights, random numbers inside.

What they say means nothing. A tile of random blocks is repeated, so that hundreds of megabytes
are written in a moment; llama.cpp's kernels take the same time whatever the numbers are, so long
as these are finite.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

import numpy as np

from freehold.engines.llamacpp.probe_model import (
    VOCABULARY_SIZE,
    LlamaShape,
    llama_metadata,
    tokeniser_metadata,
)
from freehold.weights.gguf_types import TensorType
from freehold.weights.gguf_writer import Tensor, Value, write_gguf

# Where a block has its half-precision factors, which may not be any bytes (``ggml-common.h``).
_FACTORS: Final[Mapping[TensorType, tuple[int, ...]]] = MappingProxyType(
    {
        TensorType.Q4_0: (0,),
        TensorType.Q4_1: (0, 2),
        TensorType.Q5_0: (0,),
        TensorType.Q5_1: (0, 2),
        TensorType.Q8_0: (0,),
        TensorType.Q2_K: (80, 82),
        TensorType.Q3_K: (108,),
        TensorType.Q4_K: (0, 2),
        TensorType.Q5_K: (0, 2),
        TensorType.Q6_K: (208,),
        TensorType.IQ4_NL: (0,),
        TensorType.IQ4_XS: (0,),
    }
)
_TILE_BLOCKS: Final = 4096


@dataclass(frozen=True)
class Shape:
    """Of a llama-architecture model; ``kind`` is the type of its layers' matrices."""

    kind: TensorType
    layers: int
    embedding: int
    feed_forward: int
    heads: int
    kv_heads: int
    head_dim: int
    context: int = 4096

    @property
    def matrices(self) -> dict[str, tuple[int, int]]:
        """Of one layer: name → (elements of a row, number of rows)."""
        query, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {
            "attn_q": (self.embedding, query),
            "attn_k": (self.embedding, kv),
            "attn_v": (self.embedding, kv),
            "attn_output": (query, self.embedding),
            "ffn_gate": (self.embedding, self.feed_forward),
            "ffn_up": (self.embedding, self.feed_forward),
            "ffn_down": (self.feed_forward, self.embedding),
        }

    @property
    def elements(self) -> int:
        """Of all layers' matrices."""
        return self.layers * sum(math.prod(shape) for shape in self.matrices.values())

    @property
    def rows(self) -> int:
        """Of all layers' matrices."""
        return self.layers * sum(rows for _, rows in self.matrices.values())

    @property
    def bytes(self) -> int:
        return self.elements // self.kind.block_size * self.kind.block_bytes


def bare(layers: int) -> Shape:
    """A hundred kilobytes of weights a layer, which the caches hold."""
    return Shape(TensorType.F32, layers, 64, 64, 2, 1, 32)


def write_made_up(path: Path, shape: Shape) -> None:
    """Raises `ValueError` for a type nobody here can fill, `OSError` when writing fails."""
    layer = {
        name: (size, _filled(math.prod(size), shape.kind)) for name, size in shape.matrices.items()
    }
    ones = np.ones(shape.embedding, dtype=np.float32).tobytes()
    table = _filled(shape.embedding * VOCABULARY_SIZE, TensorType.F32)
    tensors = [
        Tensor("token_embd.weight", (shape.embedding, VOCABULARY_SIZE), TensorType.F32, table),
        Tensor("output.weight", (shape.embedding, VOCABULARY_SIZE), TensorType.F32, table),
        Tensor("output_norm.weight", (shape.embedding,), TensorType.F32, ones),
    ]
    for index in range(shape.layers):
        tensors += [
            Tensor(f"blk.{index}.{name}.weight", size, shape.kind, data)
            for name, (size, data) in layer.items()
        ]
        tensors += [
            Tensor(f"blk.{index}.{name}.weight", (shape.embedding,), TensorType.F32, ones)
            for name in ("attn_norm", "ffn_norm")
        ]
    write_gguf(path, {**_metadata(shape), **tokeniser_metadata()}, tensors)


def _metadata(shape: Shape) -> dict[str, Value]:
    same = LlamaShape(
        embedding=shape.embedding,
        feed_forward=shape.feed_forward,
        layers=shape.layers,
        heads=shape.heads,
        kv_heads=shape.kv_heads,
        context_length=shape.context,
    )
    return {
        **llama_metadata("freehold made up", same, shape.head_dim),
        "llama.attention.key_length": shape.head_dim,
        "llama.attention.value_length": shape.head_dim,
    }


def _filled(elements: int, kind: TensorType) -> bytes:
    """So many elements of about unit gain."""
    size = elements // kind.block_size * kind.block_bytes
    tile = _tile(kind)
    return (tile * -(-size // len(tile)))[:size]


def _tile(kind: TensorType) -> bytes:
    dice = np.random.default_rng(0)
    numbers = dice.normal(0, 0.02, _TILE_BLOCKS * 32).astype(np.float32)
    if kind is TensorType.F32:
        return numbers.tobytes()
    if kind is TensorType.F16:
        return numbers.astype(np.float16).tobytes()
    if kind is TensorType.BF16:
        return (numbers.view(np.uint32) >> 16).astype(np.uint16).tobytes()
    if kind not in _FACTORS:
        raise ValueError(f"no random weights of type {kind.name}")
    blocks = dice.integers(0, 256, (_TILE_BLOCKS, kind.block_bytes), dtype=np.uint8)
    factor = np.frombuffer(np.float16(2e-4).tobytes(), dtype=np.uint8)
    for place in _FACTORS[kind]:
        blocks[:, place : place + 2] = factor
    return blocks.tobytes()
