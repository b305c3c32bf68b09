"""Models in safetensors of several kinds, with random weights, as their publishers lay them out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from freehold.weights.vocabulary_file import _CUTS
from tests.support.vllm import write_safetensors

WIDTH, HEADS, KEPT, HEAD, INNER, LAYERS, CONTEXT = 128, 2, 1, 64, 256, 2, 512
KINDS = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
END, TOOL = "<|end|>", "<tool>"
# GPT-2's: every byte has a printable character.
_PRINTABLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
_BYTES = [chr(b) if b in _PRINTABLE else chr(256 + sum(c not in _PRINTABLE for c in range(b)))
          for b in range(256)]  # fmt: skip
_TOKENS = (*_BYTES, "he", "ll", "hell")
SIZE = len(_TOKENS) + 2
TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}<tool>"


def texts(kind: str) -> dict[str, bytes]:
    """The files beside the weights."""
    config = {
        "architectures": [kind],
        "model_type": kind.removesuffix("ForCausalLM").lower(),
        "hidden_size": WIDTH,
        "hidden_act": "silu",
        "intermediate_size": INNER,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KEPT,
        "num_hidden_layers": LAYERS,
        "head_dim": HEAD,
        "max_position_embeddings": CONTEXT,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "sliding_window": None,
        "vocab_size": SIZE,
        "eos_token_id": len(_TOKENS),
        "torch_dtype": "float32",
    }
    about = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END,
        "chat_template": TEMPLATE,
    }
    named = {
        "config.json": config,
        "tokenizer.json": _tokeniser(kind),
        "tokenizer_config.json": about,
    }
    return {name: json.dumps(said).encode() for name, said in named.items()}


def _tokeniser(kind: str) -> dict[str, Any]:
    """Llama cuts numbers after three digits, Qwen after each."""
    wanted = "qwen2" if kind.startswith("Qwen") else "llama-bpe"
    pattern = next(pattern for pattern, name in _CUTS.items() if name == wanted)
    ways = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "normalizer": None,
        "post_processor": None,
        "added_tokens": [
            {"id": len(_TOKENS), "content": END, "special": True, **ways},
            {"id": len(_TOKENS) + 1, "content": TOOL, "special": False, **ways},
        ],
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {
                    "type": "Split",
                    "pattern": {"Regex": pattern},
                    "behavior": "Isolated",
                    "invert": False,
                },
                {
                    "type": "ByteLevel",
                    "add_prefix_space": False,
                    "trim_offsets": True,
                    "use_regex": False,
                },
            ],
        },
        "decoder": {
            "type": "ByteLevel",
            "add_prefix_space": True,
            "trim_offsets": True,
            "use_regex": True,
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {text: number for number, text in enumerate(_TOKENS)},
            "merges": [["h", "e"], ["l", "l"], ["he", "ll"]],
        },
    }


def weights(folder: Path, kind: str, seed: int = 7) -> bytes:
    """One file with all tensors that the kind has."""
    dice = np.random.default_rng(seed)
    path = folder / f"{kind}.safetensors"
    tensors = {
        name: np.ones(shape) if len(shape) == 1 else dice.normal(0, 0.05, shape)
        for name, shape in _shapes(kind)
    }
    write_safetensors(path, tensors)
    return path.read_bytes()


def _shapes(kind: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield "model.embed_tokens.weight", (SIZE, WIDTH)
    yield "model.norm.weight", (WIDTH,)
    yield "lm_head.weight", (SIZE, WIDTH)
    rows = {"q_proj": HEADS * HEAD, "k_proj": KEPT * HEAD, "v_proj": KEPT * HEAD}
    for layer in range(LAYERS):
        at = f"model.layers.{layer}"
        for name, count in rows.items():
            yield f"{at}.self_attn.{name}.weight", (count, WIDTH)
            if kind == "Qwen2ForCausalLM":
                yield f"{at}.self_attn.{name}.bias", (count,)
        yield f"{at}.self_attn.o_proj.weight", (WIDTH, HEADS * HEAD)
        if kind == "Qwen3ForCausalLM":
            yield f"{at}.self_attn.q_norm.weight", (HEAD,)
            yield f"{at}.self_attn.k_norm.weight", (HEAD,)
        yield f"{at}.mlp.gate_proj.weight", (INNER, WIDTH)
        yield f"{at}.mlp.up_proj.weight", (INNER, WIDTH)
        yield f"{at}.mlp.down_proj.weight", (WIDTH, INNER)
        yield f"{at}.input_layernorm.weight", (WIDTH,)
        yield f"{at}.post_attention_layernorm.weight", (WIDTH,)
