"""BERT models as llama.cpp reads them: a tiny one of random weights, and the writer for any."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from freehold.weights.gguf_types import TensorType, ValueType
from freehold.weights.gguf_writer import Array, Tensor, Value, write_gguf

Floats = npt.NDArray[np.float32]

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_NORMAL, _CONTROL = 1, 3  # llama_token_type


@dataclass(frozen=True)
class BertShape:
    """``pooling`` is llama.cpp's number for it (1 mean, 2 cls, 3 last); None: it is not said."""

    width: int = 32
    feed_forward: int = 64
    layers: int = 2
    heads: int = 2
    context: int = 128
    epsilon: float = 1e-12
    pooling: int | None = 1


def write_bert(
    path: Path, shape: BertShape, vocabulary: Sequence[str], weights: Mapping[str, Floats]
) -> Path:
    """``vocabulary`` is WordPiece's; ``weights`` have llama.cpp's names, and rows as in numpy."""
    tensors = [
        Tensor(name, data.shape[::-1], TensorType.F32, data.astype("<f4").tobytes())
        for name, data in weights.items()
    ]
    write_gguf(path, {**_model(shape), **_tokeniser(vocabulary)}, tensors)
    return path


def _model(shape: BertShape) -> dict[str, Value]:
    described: dict[str, Value] = {
        "general.architecture": "bert",
        "general.name": f"bert of {shape.layers} layers",
        "general.file_type": 0,
        "bert.block_count": shape.layers,
        "bert.context_length": shape.context,
        "bert.embedding_length": shape.width,
        "bert.feed_forward_length": shape.feed_forward,
        "bert.attention.head_count": shape.heads,
        "bert.attention.layer_norm_epsilon": shape.epsilon,
        "bert.attention.causal": False,
    }
    if shape.pooling is not None:
        described["bert.pooling_type"] = shape.pooling
    return described


def _tokeniser(vocabulary: Sequence[str]) -> dict[str, Value]:
    """With a mark before what begins a word, instead of ``##`` before what does not."""
    spelled = [
        token
        if token in SPECIAL
        else token.removeprefix("##")
        if token.startswith("##")
        else f"\u2581{token}"
        for token in vocabulary
    ]
    kinds = [_CONTROL if token in SPECIAL else _NORMAL for token in vocabulary]
    pad, unknown, first, last, mask = (vocabulary.index(token) for token in SPECIAL)
    return {
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.token_type_count": 2,
        "tokenizer.ggml.tokens": Array(ValueType.STRING, spelled),
        "tokenizer.ggml.token_type": Array(ValueType.INT32, kinds),
        "tokenizer.ggml.bos_token_id": first,
        "tokenizer.ggml.cls_token_id": first,
        "tokenizer.ggml.seperator_token_id": last,
        "tokenizer.ggml.padding_token_id": pad,
        "tokenizer.ggml.unknown_token_id": unknown,
        "tokenizer.ggml.mask_token_id": mask,
    }


LETTERS = "abcdefghijklmnopqrstuvwxyz"
TINY_VOCABULARY = (*SPECIAL, *LETTERS, *(f"##{letter}" for letter in LETTERS), ".", "##.")


def write_tiny_bert(path: Path, shape: BertShape | None = None, *, seed: int = 0) -> Path:
    """A runnable BERT of random weights that knows words letter by letter, in lower case."""
    shape = shape or BertShape()
    dice = np.random.default_rng(seed)
    width, inner = shape.width, shape.feed_forward

    def matrix(rows: int, columns: int) -> Floats:
        return dice.normal(0, columns**-0.5, (rows, columns)).astype(np.float32)

    def norm(name: str) -> dict[str, Floats]:
        return {
            f"{name}.weight": np.ones(width, np.float32),
            f"{name}.bias": np.zeros(width, np.float32),
        }

    weights: dict[str, Floats] = {
        "token_embd.weight": matrix(len(TINY_VOCABULARY), width),
        "position_embd.weight": matrix(shape.context, width),
        "token_types.weight": matrix(2, width),
        **norm("token_embd_norm"),
    }
    for layer in range(shape.layers):
        for name, rows, columns in (
            *((f"attn_{part}", width, width) for part in ("q", "k", "v", "output")),
            ("ffn_up", inner, width),
            ("ffn_down", width, inner),
        ):
            weights[f"blk.{layer}.{name}.weight"] = matrix(rows, columns)
            weights[f"blk.{layer}.{name}.bias"] = np.zeros(rows, np.float32)
        weights |= norm(f"blk.{layer}.attn_output_norm") | norm(f"blk.{layer}.layer_output_norm")
    return write_bert(path, shape, TINY_VOCABULARY, weights)
