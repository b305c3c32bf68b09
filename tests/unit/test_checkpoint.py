"""Safetensors from a hub: what is taken, what is refused, and what is made of the texts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from freehold.domain.errors import (
    DigestMismatch,
    FreeholdError,
    ModelNotPulled,
    RefusedFile,
    UnsupportedFile,
)
from freehold.domain.settings import resolve
from freehold.text.vocabulary import close_vocabulary, open_vocabulary
from freehold.weights import vocabulary_file
from freehold.weights.library import Library
from freehold.weights.progress import Silent
from freehold.weights.vocabulary_file import _CUTS
from tests.support import tiny_checkpoint
from tests.support.fake_hub import FakeFile, FakeHub, FakeRepository
from tests.support.vllm import write_safetensors

REPOSITORY = "someone/tiny"
REFERENCE = f"hf:{REPOSITORY}"
# GPT-2's: every byte has a printable character.
_PRINTABLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
_BYTES = [chr(b) if b in _PRINTABLE else chr(256 + sum(c not in _PRINTABLE for c in range(b)))
          for b in range(256)]  # fmt: skip


def tokeniser() -> dict[str, Any]:
    vocabulary = {text: number for number, text in enumerate([*_BYTES, "he", "ll", "hell"])}
    specials = [("<|end|>", True), ("<tool>", False)]
    return {
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": next(iter(_CUTS))}},
                {"type": "ByteLevel", "use_regex": False},
            ],
        },
        "added_tokens": [
            {"id": 259 + number, "content": text, "special": special}
            for number, (text, special) in enumerate(specials)
        ],
        "model": {
            "type": "BPE",
            "vocab": vocabulary,
            "merges": [["h", "e"], ["l", "l"], "he ll"],
        },
    }


CONFIG: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-6,
    "vocab_size": 264,
}
ABOUT = {"eos_token": "<|end|>", "chat_template": "{{ messages[0].content }}<|end|>"}


def shard(folder: Path, *names: str) -> bytes:
    path = folder / "shard"
    write_safetensors(path, {name: np.ones((4, 4)) for name in names})
    return path.read_bytes()


def files(folder: Path) -> dict[str, bytes]:
    """Two shards, with what else a repository has."""
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    return {
        "model-1.safetensors": shard(folder, "a"),
        "model-2.safetensors": shard(folder, "b"),
        "model.safetensors.index.json": json.dumps(index).encode(),
        "config.json": json.dumps(CONFIG).encode(),
        "tokenizer.json": json.dumps(tokeniser()).encode(),
        "tokenizer_config.json": json.dumps(ABOUT).encode(),
        "README.md": b"# Tiny",
        "pytorch_model.bin": b"\x80\x04a pickle",
        "modeling_tiny.py": b"import os",
        "onnx/model.safetensors": b"another",
    }


def repository(content: dict[str, bytes], **card: object) -> FakeRepository:
    listed = {
        name: FakeFile(data, lfs=name.endswith((".safetensors", ".bin")))
        for name, data in content.items()
    }
    return FakeRepository(REPOSITORY, listed, card={"license": "apache-2.0", **card})


def library(home: Path, hub: FakeHub) -> Library:
    return Library.open(resolve({"home": str(home)}, environ={"HF_ENDPOINT": hub.endpoint}))


def test_the_weights_and_their_texts_are_taken_and_nothing_else(tmp_path: Path) -> None:
    content = files(tmp_path)
    with FakeHub([repository(content)]) as hub:
        here = library(tmp_path / "home", hub)
        manifest = here.pull(REFERENCE, Silent())
        asked = " ".join(hub.paths("hub") + hub.paths("cdn"))
    assert [file.name for file in manifest.files] == [
        *("model-1.safetensors", "model-2.safetensors", "config.json"),
        *("model.safetensors.index.json", "tokenizer.json", "tokenizer_config.json"),
        vocabulary_file.NAME,
    ]
    assert manifest.licence == "apache-2.0"
    assert "pytorch_model" not in asked
    assert "modeling" not in asked
    model = here.local(REFERENCE)
    assert [path.name for path in model.paths] == [manifest.files[-1].sha256]
    assert model.digest == manifest.files[0].sha256
    assert model.header.architecture == "qwen2"
    assert model.header.context_length == 512
    assert here.pull(REFERENCE, Silent()) == manifest


@pytest.mark.native
def test_its_tokeniser_is_read_by_llama_cpp(tmp_path: Path) -> None:
    path = tmp_path / "made.gguf"
    texts = {"config.json": CONFIG, "tokenizer.json": tokeniser(), "tokenizer_config.json": ABOUT}
    vocabulary_file.write(path, texts, None, "tiny")
    vocabulary = open_vocabulary((path,))
    try:
        assert vocabulary.size == 264
        assert vocabulary.tokenize("hell", special=False) == [258]
        assert vocabulary.tokenize("h<|end|>", special=True) == [ord("h"), 259]
        assert vocabulary.ends == (259,)
        told = b"".join(
            map(vocabulary.piece, vocabulary.tokenize("h\u00e4llo \U0001f600\n", special=False))
        )
        assert told == "h\u00e4llo \U0001f600\n".encode()
    finally:
        close_vocabulary(vocabulary)


@pytest.mark.native
@pytest.mark.parametrize("kind", tiny_checkpoint.KINDS)
def test_every_kind_is_taken_with_its_numbers_and_its_cut(tmp_path: Path, kind: str) -> None:
    content = {
        **tiny_checkpoint.texts(kind),
        "model.safetensors": tiny_checkpoint.weights(tmp_path, kind),
    }
    with FakeHub([repository(content)]) as hub:
        here = library(tmp_path / "home", hub)
        here.pull(REFERENCE, Silent())
    model = here.local(REFERENCE)
    known = "llama" if kind.startswith(("Llama", "Mistral")) else kind.lower()[:5]
    assert model.header.architecture == known
    assert model.header.context_length == tiny_checkpoint.CONTEXT
    assert model.header.integer(f"{known}.attention.head_count_kv") == tiny_checkpoint.KEPT
    assert model.header.chat_template == tiny_checkpoint.TEMPLATE
    vocabulary = open_vocabulary(model.paths)
    try:
        assert vocabulary.size == tiny_checkpoint.SIZE
        assert len(vocabulary.tokenize("hell 1234", special=False)) == 6
        assert vocabulary.tokenize("<|end|>", special=True) == [*vocabulary.ends]
    finally:
        close_vocabulary(vocabulary)


def _without(content: dict[str, bytes], name: str) -> dict[str, bytes]:
    return {each: data for each, data in content.items() if each != name}


def _changed(content: dict[str, bytes], name: str, **changes: object) -> dict[str, bytes]:
    return {**content, name: json.dumps({**json.loads(content[name]), **changes}).encode()}


REFUSED: dict[str, Any] = {
    "auto_map in the configuration": lambda c: _changed(
        c, "config.json", auto_map={"AutoModel": "modeling_tiny.Tiny"}
    ),
    "auto_map in the tokeniser's": lambda c: _changed(c, "tokenizer_config.json", auto_map={}),
    "auto_map deep inside": lambda c: _changed(
        c, "config.json", text_config=[{"x": {"auto_map": {}}}]
    ),
    "an index that names a missing shard": lambda c: _without(c, "model-2.safetensors"),
    "an index that promises what is not there": lambda c: _changed(
        c, "model.safetensors.index.json", weight_map={"z": "model-1.safetensors"}
    ),
    "an index of another folder": lambda c: _changed(
        c, "model.safetensors.index.json", weight_map={"a": "../model-1.safetensors"}
    ),
    "shards without an index": lambda c: _without(c, "model.safetensors.index.json"),
    "no configuration": lambda c: _without(c, "config.json"),
    "no tokeniser": lambda c: _without(c, "tokenizer.json"),
    "a configuration that is none": lambda c: {**c, "config.json": b"{"},
    "a list for a configuration": lambda c: {**c, "config.json": b"[]"},
    "a model that is not known": lambda c: _changed(c, "config.json", architectures=["Evil"]),
    "a tokeniser that is not known": lambda c: _changed(c, "tokenizer.json", normalizer={"x": 1}),
    "numbers that are none": lambda c: _changed(c, "config.json", num_attention_heads="two"),
    "a pickle that is called safetensors": lambda c: {
        **c,
        "model-2.safetensors": b"\x80\x04\x95" + bytes(100),
    },
    "a shard that is cut short": lambda c: {
        **c,
        "model-2.safetensors": c["model-2.safetensors"][:-1],
    },
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_refused_is_not_here_afterwards(tmp_path: Path, what: str) -> None:
    content = REFUSED[what](files(tmp_path))
    with FakeHub([repository(content)]) as hub:
        here = library(tmp_path / "home", hub)
        with pytest.raises(RefusedFile):
            here.pull(REFERENCE, Silent())
        with pytest.raises(ModelNotPulled):
            here.local(REFERENCE)


def test_a_shard_that_was_tampered_with(tmp_path: Path) -> None:
    with FakeHub([repository(files(tmp_path))]) as hub:
        hub.faults.wrong_content = True
        here = library(tmp_path / "home", hub)
        with pytest.raises(DigestMismatch):
            here.pull(REFERENCE, Silent())
        hub.faults.wrong_content = False
        here.pull(REFERENCE, Silent())
        blob = here.store.blob_path(here.registry.get(REFERENCE).files[1].sha256)
        blob.chmod(0o644)
        blob.write_bytes(blob.read_bytes()[:-1] + b"x")
        with pytest.raises(DigestMismatch):
            here.local(REFERENCE)


def test_where_there_is_gguf_that_is_taken(tmp_path: Path) -> None:
    content = {**files(tmp_path), "tiny-Q4_K_M.gguf": b"GGUF"}
    with FakeHub([repository(content)]) as hub:
        here = library(tmp_path / "home", hub)
        with pytest.raises(FreeholdError):
            here.pull(REFERENCE, Silent())
        assert not [path for path in hub.paths("cdn") if "safetensors" in path]


def test_a_pickle_alone_is_refused_as_before(tmp_path: Path) -> None:
    content = {"config.json": b"{}", "pytorch_model.bin": b"\x80\x04"}
    with FakeHub([repository(content)]) as hub, pytest.raises(UnsupportedFile, match="code"):
        library(tmp_path / "home", hub).pull(REFERENCE, Silent())
