"""A tiny model to try the native code with before it is trusted with a real one.

A build of llama.cpp can load and still stop the process at the first decode,
because its kernels were compiled for another processor. The probe decodes a few
tokens of this model in a process that may die. Its weights are random, so what
it says means nothing; its shapes are such that the kernels of the usual model
files run: rows of 256 elements and multiples of 32 rows, which llama.cpp's AMX
kernels and its repacking want (``ggml/src/ggml-cpu``).

Its tokeniser is a byte-level BPE in which the first 256 token ids are the bytes.
"""

from __future__ import annotations

import math
import random
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from freehold.weights.gguf_types import TensorType, ValueType
from freehold.weights.gguf_writer import Array, Tensor, Value, write_gguf

# Frequent pairs of English; with the bytes and the control tokens they make 288 = 9 · 32 tokens.
_MERGES: Final = (
    *("Ġ t", "h e", "i n", "e r", "a n", "Ġ a", "o n", "r e", "Ġt he", "e n"),
    *("o r", "i t", "i s", "a t", "e s", "Ġ w", "an d", "o u", "Ġ s", "in g"),
    *("Ġ c", "Ġ b", "l l", "Ġ o", "e d", "Ġ f", "Ġ m", "o f", "t o"),
)

END_OF_TEXT: Final = 256 + len(_MERGES)
IM_START: Final = END_OF_TEXT + 1
IM_END: Final = END_OF_TEXT + 2
VOCABULARY_SIZE: Final = END_OF_TEXT + 3

_CONTROL_TOKENS: Final = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_NORMAL: Final = 1  # llama_token_type
_CONTROL: Final = 3

CHAT_TEMPLATE: Final = (
    "{%- for message in messages -%}"
    "{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}"
)


@dataclass(frozen=True)
class LlamaShape:
    """The dimensions of a llama-architecture model; ``embedding`` is a multiple of ``heads``."""

    embedding: int = 256
    feed_forward: int = 512
    layers: int = 1
    heads: int = 4
    kv_heads: int = 2
    context_length: int = 512


@dataclass(frozen=True)
class _Blocks:
    """How to fill a quantised type at random.

    Every byte may be anything but the half-precision factors: ``factors`` gives
    their place in the block and their size relative to the first. With a first
    factor of 1 the elements have the standard deviation ``spread``, mean about 0.
    """

    factors: Mapping[int, float]
    spread: float


# Layouts: ggml/src/ggml-common.h. In Q4_K the second factor cancels the mean.
_BLOCKS: Final[Mapping[TensorType, _Blocks]] = MappingProxyType(
    {
        TensorType.Q4_0: _Blocks({0: 1.0}, 4.6),
        TensorType.Q8_0: _Blocks({0: 1.0}, 74.0),
        TensorType.Q4_K: _Blocks({0: 1.0, 2: 7.5}, 258.0),
        TensorType.Q6_K: _Blocks({208: 1.0}, 1365.0),
    }
)

# One tensor each of what the usual files hold: Q4_0, Q8_0, and the two of Q4_K_M.
_PROBE_TYPES: Final[Mapping[str, TensorType]] = MappingProxyType(
    {
        "token_embd": TensorType.Q8_0,
        "output": TensorType.Q6_K,
        "attn_q": TensorType.Q4_0,
        "attn_k": TensorType.Q8_0,
        "attn_v": TensorType.Q4_K,
        "attn_output": TensorType.Q4_0,
        "ffn_gate": TensorType.Q4_K,
        "ffn_up": TensorType.Q8_0,
        "ffn_down": TensorType.Q6_K,
    }
)


def write_probe_model(path: Path) -> None:
    """Write the probe's model, about half a megabyte, the same bytes every time.

    Raises `OSError` when the file cannot be written.
    """
    write_llama(path, LlamaShape(), types=_PROBE_TYPES)


def write_llama(
    path: Path,
    shape: LlamaShape,
    *,
    types: Mapping[str, TensorType],
    seed: int = 0,
    metadata: Mapping[str, Value] | None = None,
) -> None:
    """Write a llama-architecture model with random weights.

    ``types`` gives the type of each weight matrix by its short name
    (``token_embd``, ``attn_q`` …): F32, Q4_0, Q8_0, Q4_K or Q6_K. ``metadata``
    adds to what is written and wins over it. Raises `ValueError` for a type or
    a shape that does not go together, `OSError` when the file cannot be written.
    """
    rng = random.Random(seed)  # noqa: S311 - weights, not secrets
    tensors = [
        _random_matrix(rng, name, size, types[name.split(".")[-2]])
        for name, size in _matrices(shape).items()
    ]
    norms = [_ones(name, shape.embedding) for name in _norms(shape)]
    told = llama_metadata("freehold probe", shape, shape.embedding // shape.heads)
    described = {**told, **tokeniser_metadata(), **(metadata or {})}
    write_gguf(path, described, tensors + norms)


def byte_alphabet() -> tuple[str, ...]:
    """The character that stands for each byte in byte-level BPE (GPT-2's encoder.py)."""
    shown = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    spare = iter(range(0x100, 0x200))
    return tuple(chr(byte if byte in shown else next(spare)) for byte in range(256))


def _matrices(shape: LlamaShape) -> dict[str, tuple[int, int]]:
    """Name → (elements of a row, number of rows)."""
    embedding, feed_forward = shape.embedding, shape.feed_forward
    kv = embedding // shape.heads * shape.kv_heads
    matrices = {
        "token_embd.weight": (embedding, VOCABULARY_SIZE),
        "output.weight": (embedding, VOCABULARY_SIZE),
    }
    for layer in range(shape.layers):
        for name, size in {
            "attn_q": (embedding, embedding),
            "attn_k": (embedding, kv),
            "attn_v": (embedding, kv),
            "attn_output": (embedding, embedding),
            "ffn_gate": (embedding, feed_forward),
            "ffn_up": (embedding, feed_forward),
            "ffn_down": (feed_forward, embedding),
        }.items():
            matrices[f"blk.{layer}.{name}.weight"] = size
    return matrices


def _norms(shape: LlamaShape) -> list[str]:
    layers = [
        f"blk.{layer}.{name}.weight"
        for layer in range(shape.layers)
        for name in ("attn_norm", "ffn_norm")
    ]
    return [*layers, "output_norm.weight"]


def _ones(name: str, size: int) -> Tensor:
    return Tensor(name, (size,), TensorType.F32, struct.pack("<f", 1.0) * size)


def _random_matrix(
    rng: random.Random, name: str, shape: tuple[int, int], kind: TensorType
) -> Tensor:
    """Zero mean, and a deviation that keeps activations of the size of their inputs."""
    deviation = 1 / math.sqrt(shape[0])
    elements = math.prod(shape)
    if kind is TensorType.F32:
        data = _random_floats(rng, elements, deviation)
    elif kind in _BLOCKS:
        data = _random_blocks(rng, elements // kind.block_size, kind, deviation)
    else:
        raise ValueError(f"no random weights of type {kind.name}")
    return Tensor(name, shape, kind, data)


def _random_floats(rng: random.Random, count: int, deviation: float) -> bytes:
    unit = deviation * math.sqrt(3) / 32_768  # uniform over 16-bit integers
    integers = struct.unpack(f"<{count}h", rng.randbytes(2 * count))
    return struct.pack(f"<{count}f", *(unit * integer for integer in integers))


def _random_blocks(rng: random.Random, blocks: int, kind: TensorType, deviation: float) -> bytes:
    layout = _BLOCKS[kind]
    data = bytearray(rng.randbytes(blocks * kind.block_bytes))
    for place, relative in layout.factors.items():
        factor = struct.pack("<e", relative * deviation / layout.spread)
        for index, byte in enumerate(factor):
            data[place + index :: kind.block_bytes] = bytes([byte]) * blocks
    return bytes(data)


def llama_metadata(name: str, shape: LlamaShape, head_dim: int) -> dict[str, Value]:
    """What llama.cpp wants to know of a model of this architecture."""
    return {
        "general.architecture": "llama",
        "general.name": name,
        "general.quantization_version": 2,
        "llama.context_length": shape.context_length,
        "llama.embedding_length": shape.embedding,
        "llama.feed_forward_length": shape.feed_forward,
        "llama.block_count": shape.layers,
        "llama.attention.head_count": shape.heads,
        "llama.attention.head_count_kv": shape.kv_heads,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.dimension_count": head_dim,
        "llama.rope.freq_base": 10_000.0,
        "llama.vocab_size": VOCABULARY_SIZE,
    }


def tokeniser_metadata() -> dict[str, Value]:
    """The tokeniser and chat template of the probe model, for other models as small."""
    merged = tuple(merge.replace(" ", "") for merge in _MERGES)
    tokens = (*byte_alphabet(), *merged, *_CONTROL_TOKENS)
    types = (*[_NORMAL] * END_OF_TEXT, *[_CONTROL] * len(_CONTROL_TOKENS))
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.tokens": Array(ValueType.STRING, tokens),
        "tokenizer.ggml.token_type": Array(ValueType.INT32, types),
        "tokenizer.ggml.merges": Array(ValueType.STRING, _MERGES),
        "tokenizer.ggml.bos_token_id": END_OF_TEXT,
        "tokenizer.ggml.eos_token_id": IM_END,
        "tokenizer.ggml.padding_token_id": END_OF_TEXT,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": CHAT_TEMPLATE,
    }
