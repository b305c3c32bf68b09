"""Which architectures memory and speed can be told of, and how they keep what they have read.

Names are ``general.architecture`` of GGUF files. Source of the patterns: ``src/models`` of
llama.cpp as vendored by llama-cpp-python 0.3.36. An architecture is listed where its cache is
one of the kinds that `anatomy` knows; one that shares caches between layers, say, is not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final


@dataclass(frozen=True)
class Family:
    """``window_every`` n: all layers but every n-th look back a window only; None: none do."""

    name: str
    window_every: int | None = None


_WHOLE: Final = (
    *("llama", "llama4", "mistral3", "qwen", "qwen2", "qwen2moe", "qwen2vl", "qwen3", "qwen3moe"),
    *("qwen3vl", "qwen3vlmoe", "phi2", "phi3", "phimoe", "gemma", "granite", "granitemoe"),
    *("chatglm", "glm4", "glm4moe", "internlm2", "minicpm", "smollm3", "stablelm", "starcoder2"),
    *("command-r", "olmo", "olmoe", "falcon", "gpt2", "gptneox", "baichuan", "xverse", "orion"),
    *("deepseek", "deepseek2", "nemotron", "exaone", "arcee", "dots1", "ernie4_5", "ernie4_5-moe"),
    *("hunyuan-moe", "hunyuan-dense", "seed_oss", "bailingmoe", "minimax-m2", "apertus", "dbrx"),
    # These have layers with a state of fixed size, told by their tensors.
    *("mamba", "mamba2", "jamba", "falcon-h1", "granitehybrid", "nemotron_h", "lfm2", "lfm2moe"),
    *("qwen3next", "qwen35", "qwen35moe"),
)
# Phi-3 states a window too, which llama.cpp does not use.
_WINDOWED: Final = {
    "gemma2": 2,
    "gemma3": 6,
    "gpt-oss": 2,
    "cohere2": 4,
    "olmo2": 4,
    "exaone4": 4,
}

FAMILIES: Final[Mapping[str, Family]] = MappingProxyType(
    {name: Family(name) for name in _WHOLE}
    | {name: Family(name, every) for name, every in _WINDOWED.items()}
)
