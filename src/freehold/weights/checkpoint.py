"""A model in safetensors as its publisher wrote it: weights, an index, and texts beside them.

What is checked before anything reads it: each header, that the index and the files mean the same,
that no configuration names code. `vocabulary_file` makes of the texts what the rest of freehold
reads of a GGUF file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from freehold.domain.errors import InvalidModelFile, UnsupportedFile
from freehold.weights.naming import names_auto_map
from freehold.weights.safetensors import read_header

CONFIG = "config.json"
TOKENISER = "tokenizer.json"
TOKENISER_CONFIG = "tokenizer_config.json"
TEMPLATE = "chat_template.jinja"
INDEX = "model.safetensors.index.json"
# All that is ever taken beside the weights.
TEXTS = (
    *(CONFIG, INDEX, "generation_config.json", TOKENISER, TOKENISER_CONFIG),
    *("special_tokens_map.json", "added_tokens.json", TEMPLATE),
)
MAX_TEXT_BYTES = 64 << 20
_MAX_VALUES = 10_000_000
_WORD = re.compile(r"[a-z0-9][a-z0-9._-]{0,40}")


def texts_of(files: Mapping[str, Path]) -> dict[str, Any]:
    """The JSON files by name, read. Raises `InvalidModelFile` or `UnsupportedFile`."""
    return {name: _read(name, path) for name, path in files.items() if name.endswith(".json")}


def require_sound(files: Mapping[str, Path]) -> dict[str, Any]:
    """``files`` by their names; returns `texts_of` them. Raises `RefusedFile`."""
    texts = texts_of(files)
    for name, said in texts.items():
        if names_auto_map(said, most=_MAX_VALUES):
            raise UnsupportedFile(
                f"{name} names code to be run (auto_map).", hint="Freehold runs none."
            )
    strange = [name for name in files if not name.endswith(".safetensors") and name not in TEXTS]
    if strange:
        raise UnsupportedFile(f"{strange[0]} is no part of a model.", hint="See docs/vllm.md.")
    tensors = {
        name: frozenset(tensor.name for tensor in read_header(path).tensors)
        for name, path in files.items()
        if name.endswith(".safetensors")
    }
    if INDEX in texts:
        _require_indexed(texts[INDEX], tensors)
    return texts


def _read(name: str, path: Path) -> Any:
    if path.stat().st_size > MAX_TEXT_BYTES:
        raise InvalidModelFile(f"{name} is too large to be read.")
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InvalidModelFile(f"{name} is no JSON.") from error


def quantisation(config: Mapping[str, Any]) -> str | None:
    """How its publisher quantised the weights, as the configuration says; None: not at all."""
    stated = config.get("quantization_config")
    if not isinstance(stated, dict):
        return None
    method, bits = stated.get("quant_method"), stated.get("bits")
    named = method if isinstance(method, str) and _WORD.fullmatch(method) else "an unknown way"
    return f"{named}, {bits} bits" if isinstance(bits, int) and 0 < bits < 64 else named


def _require_indexed(index: object, tensors: Mapping[str, frozenset[str]]) -> None:
    places = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(places, dict) or not places:
        raise InvalidModelFile(f"{INDEX} has no weight_map.")
    for tensor, file in places.items():
        if not isinstance(file, str) or file not in tensors:
            raise InvalidModelFile(
                f"{INDEX} names {str(file)[:80]!r}, which is not there.",
                hint="The repository lacks a part of its weights.",
            )
        if tensor not in tensors[file]:
            raise InvalidModelFile(f"{file} lacks a tensor that {INDEX} promises: {tensor[:80]}.")
