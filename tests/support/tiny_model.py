"""A model small enough to write and run inside a test."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from freehold.engines.llamacpp.probe_model import LlamaShape, write_llama
from freehold.weights.gguf_types import FILE_TYPES, TensorType
from freehold.weights.gguf_writer import Value

_MATRICES = (
    *("token_embd", "output", "attn_q", "attn_k", "attn_v", "attn_output"),
    *("ffn_gate", "ffn_up", "ffn_down"),
)


def write_tiny_llama(
    path: Path,
    *,
    seed: int = 0,
    weights: TensorType = TensorType.F32,
    layers: int = 2,
    embedding: int = 64,
    context_length: int = 512,
    metadata: Mapping[str, Value] | None = None,
) -> Path:
    """Write a runnable llama of random weights and return ``path``.

    It has 288 tokens: ids 0 to 255 are the bytes, the last three are
    ``<|endoftext|>``, ``<|im_start|>`` and ``<|im_end|>`` (the constants of
    `probe_model`). ``weights`` may be F32, Q4_0, Q8_0, or, with an ``embedding``
    that is a multiple of 256, Q4_K and Q6_K. ``metadata`` adds to or replaces
    what is written. The same arguments give the same bytes.
    """
    shape = LlamaShape(
        embedding=embedding,
        feed_forward=2 * embedding,
        layers=layers,
        heads=2,
        kv_heads=1,
        context_length=context_length,
    )
    named: dict[str, Value] = {"general.name": "tiny llama"}
    for number, name in FILE_TYPES.items():
        if name == weights.name:
            named["general.file_type"] = number
    write_llama(
        path,
        shape,
        types=dict.fromkeys(_MATRICES, weights),
        seed=seed,
        metadata={**named, **(metadata or {})},
    )
    return path
