"""What a model needs before it has ever run here, as far as its files tell. An estimate."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from freehold.domain.engine import CacheType
from freehold.domain.errors import InvalidModelFile, UnknownArchitecture
from freehold.domain.settings import Settings
from freehold.engines.base import EngineConfig
from freehold.machine.dissect import anatomy_of_header
from freehold.machine.footprint import footprint, repacked_types
from freehold.machine.probe import own_instruction_sets
from freehold.machine.profile import EngineSettings
from freehold.weights.gguf import GgufHeader, read_header
from freehold.weights.gguf_header import TensorInfo
from freehold.weights.library import LocalModel

# Where the architecture is not known: the interpreter, llama.cpp and its compute buffers, as seen
# with small models.
_PROCESS = 384 * 1024 * 1024
# Bytes of one number in the cache; q8_0 has a scale for each 32.
_WIDTHS = {CacheType.F32: 4.0, CacheType.F16: 2.0, CacheType.BF16: 2.0, CacheType.Q8_0: 34 / 32}


def needed(model: LocalModel, config: EngineConfig) -> int:
    """Bytes of its worker when all contexts are full, without the prefixes kept in ordinary
    memory. Reads the headers of further parts.
    """
    trained = model.header.context_length
    context = min(config.context, trained) if trained else config.context
    try:
        anatomy = anatomy_of_header(model.header, tuple(_tensors(model)))
    except (UnknownArchitecture, InvalidModelFile):
        return _roughly(model, config, context)
    settings = EngineSettings(config.cache, config.threads, config.micro_batch)
    kinds = repacked_types(own_instruction_sets())
    return footprint(anatomy, settings, context, config.parallel, repacked=kinds).total


def _tensors(model: LocalModel) -> Iterator[TensorInfo]:
    yield from model.header.tensors
    for path in model.paths[1:]:
        yield from read_header(path).tensors


def _roughly(model: LocalModel, config: EngineConfig, context: int) -> int:
    """The weights, the whole key-value cache as if every layer had one, and the process."""
    cells = config.cache.cells or context * config.parallel
    width = _WIDTHS[config.cache.key_type]
    return model.size + int(cells * cached_numbers(model.header) * width) + _PROCESS


def cached_numbers(header: GgufHeader) -> int:
    """Keys and values of one token in all layers. 0 where the header does not tell."""

    def number(name: str) -> int:
        return header.integer(f"{header.architecture}.{name}") or 0

    heads = number("attention.head_count")
    width = number("embedding_length") // heads if heads else 0
    key = number("attention.key_length") or width
    value = number("attention.value_length") or width
    return number("block_count") * (number("attention.head_count_kv") or heads) * (key + value)


def setup(settings: Settings) -> str:
    """Names what, besides the weights, changes a model's need."""
    parts = (
        *(settings.context, settings.parallel, settings.cells, settings.prefix_memory),
        *(settings.cache_type, settings.cache_layout, settings.flash_attention),
        *(sorted(settings.vllm), settings.tensor_parallel, settings.pipeline_parallel),
        settings.quantization,
    )
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
