"""A recurrent model small enough to write inside a test: memory that cannot be cut."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from freehold.engines.llamacpp.probe_model import END_OF_TEXT, VOCABULARY_SIZE, tokeniser_metadata
from freehold.weights.gguf_types import TensorType
from freehold.weights.gguf_writer import Tensor, Value, write_gguf

Floats = npt.NDArray[np.float64]

WIDTH, INNER, STATE, KERNEL, RANK = 64, 128, 16, 4, 4


def write_tiny_mamba(path: Path, *, layers: int = 2, seed: int = 0) -> Path:
    """Write a runnable Mamba of random weights that never ends its turn, and return ``path``."""
    dice = np.random.default_rng(seed)

    def tensor(name: str, *shape: int, values: Floats | None = None) -> Tensor:
        if values is None:
            values = dice.normal(0, shape[0] ** -0.5, shape[::-1])
        return Tensor(name, shape, TensorType.F32, values.astype(np.float32).tobytes())

    output = dice.normal(0, WIDTH**-0.5, (VOCABULARY_SIZE, WIDTH))
    output[END_OF_TEXT:] = 0.0
    tensors = [
        tensor("token_embd.weight", WIDTH, VOCABULARY_SIZE),
        tensor("output_norm.weight", WIDTH, values=np.ones(WIDTH)),
        tensor("output.weight", WIDTH, VOCABULARY_SIZE, values=output),
    ]
    for layer in range(layers):
        decay = -np.tile(np.arange(1.0, STATE + 1), (INNER, 1))
        tensors += [
            tensor(f"blk.{layer}.attn_norm.weight", WIDTH, values=np.ones(WIDTH)),
            tensor(f"blk.{layer}.ssm_in.weight", WIDTH, 2 * INNER),
            tensor(f"blk.{layer}.ssm_conv1d.weight", KERNEL, INNER),
            tensor(f"blk.{layer}.ssm_conv1d.bias", INNER, values=np.zeros(INNER)),
            tensor(f"blk.{layer}.ssm_x.weight", INNER, RANK + 2 * STATE),
            tensor(f"blk.{layer}.ssm_dt.weight", RANK, INNER),
            tensor(f"blk.{layer}.ssm_dt.bias", INNER, values=np.zeros(INNER)),
            tensor(f"blk.{layer}.ssm_a", STATE, INNER, values=decay),
            tensor(f"blk.{layer}.ssm_d", INNER, values=np.ones(INNER)),
            tensor(f"blk.{layer}.ssm_out.weight", INNER, WIDTH),
        ]
    metadata: dict[str, Value] = {
        "general.architecture": "mamba",
        "general.name": "tiny mamba",
        "mamba.context_length": 512,
        "mamba.embedding_length": WIDTH,
        "mamba.feed_forward_length": 0,
        "mamba.attention.head_count": 0,
        "mamba.block_count": layers,
        "mamba.attention.layer_norm_rms_epsilon": 1e-5,
        "mamba.ssm.conv_kernel": KERNEL,
        "mamba.ssm.inner_size": INNER,
        "mamba.ssm.state_size": STATE,
        "mamba.ssm.time_step_rank": RANK,
        "mamba.vocab_size": VOCABULARY_SIZE,
    }
    write_gguf(path, {**metadata, **tokeniser_metadata()}, tensors)
    return path
