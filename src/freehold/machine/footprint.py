"""How much memory a model takes while it runs on the CPU, in bytes, before it is loaded.

The sizes are those of llama.cpp's own buffers, worked out from the model's shapes; the formulas
were read in ``src/llama-kv-cache.cpp``, ``src/llama-context.cpp`` and ``ggml/src/ggml-cpu`` of
llama-cpp-python 0.3.36 and compared with what its log says. They are for a context that is full:
a worker that has not been asked for long prompts yet takes less.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from freehold.domain.engine import CacheConfig, CacheLayout, CacheType
from freehold.machine.anatomy import Anatomy, Layer
from freehold.machine.profile import EngineSettings
from freehold.weights.gguf_types import TensorType, padded

# Cells come in multiples of this many; so does what attention looks at.
CELLS: int = 256

# Bytes a number takes in the cache: blocks of 32 with a scale of 2 bytes for Q8_0.
CACHE_BYTES = {
    CacheType.F32: 4.0,
    CacheType.F16: 2.0,
    CacheType.BF16: 2.0,
    CacheType.Q8_0: 34 / 32,
}
_FLOAT = 4

# Of our own worker: the interpreter with its libraries, and their data; measured.
PROCESS_BYTES = 53 << 20
# An entry of a vocabulary (tokens and merges) in llama.cpp's tables; measured on three models.
_ENTRY_BYTES = 165
# Rows of logits there is room for at least, and sequence ids kept for finished ones in a unified
# cache (`engines.llamacpp.binding`).
_OUTPUTS = 64
_IDLE_SEQUENCES = 64

_AVX2 = {TensorType.Q4_0, TensorType.Q4_K, TensorType.IQ4_NL, TensorType.MXFP4}
_NEON = _AVX2 | {TensorType.Q8_0, TensorType.Q5_K, TensorType.Q6_K}
_AMX = _AVX2 | {
    *(TensorType.Q4_1, TensorType.Q8_0, TensorType.Q5_K, TensorType.Q6_K, TensorType.IQ4_XS),
}


def repacked_types(instruction_sets: Iterable[str]) -> frozenset[TensorType]:
    """Which types llama.cpp copies into an order that its kernels like better, on such a CPU."""
    known = set(instruction_sets)
    if "amx_int8" in known:
        return frozenset(_AMX)
    if "neon" in known or "asimddp" in known:
        return frozenset(_NEON)
    return frozenset(_AVX2) if "avx2" in known else frozenset()


@dataclass(frozen=True)
class Footprint:
    """``weights`` are the file's, mapped; ``repacked`` a second copy of some of them.

    ``cache_per_token`` is of one sequence, ``cache`` of all cells; ``state`` is what recurrent
    layers keep of all sequences. ``compute`` holds a step's intermediate results, ``outputs``
    logits, ``vocabulary`` the tokeniser, ``process`` the worker itself. ``layers`` are each
    layer's share of weights, cache and state, the output's weights last.
    """

    layers: tuple[int, ...]
    weights: int
    repacked: int
    cache_per_token: int
    cache: int
    state: int
    compute: int
    outputs: int
    vocabulary: int
    process: int = PROCESS_BYTES

    @property
    def total(self) -> int:
        parts = (self.weights, self.repacked, self.cache, self.state, self.compute)
        return sum(parts) + self.outputs + self.vocabulary + self.process

    @property
    def buffers(self) -> int:
        """What is needed wherever layers run."""
        return self.compute + self.outputs

    @property
    def host(self) -> int:
        """All but the layers: in ordinary memory wherever these are."""
        return self.total - sum(self.layers)


def footprint(
    anatomy: Anatomy,
    settings: EngineSettings,
    context: int,
    sequences: int,
    *,
    repacked: frozenset[TensorType],
    chunk: int | None = None,
) -> Footprint:
    """Of one worker whose ``sequences`` have ``context`` tokens each, all in use; without the
    prefixes it keeps of finished ones (``settings.cache.host_bytes`` at most).

    ``repacked``: by `repacked_types` of the computer. ``chunk``: no step reads more tokens of a
    prompt; None: as many as a micro-batch has.
    """
    streams = _streams(settings.cache, sequences)
    rows = max(_OUTPUTS, streams)
    copied = repacked if settings.repack else frozenset()
    return Footprint(
        layers=(
            *(
                layer.bytes
                + cache_of(layer, settings.cache, context, sequences)
                + streams * layer.state
                for layer in anatomy.layers
            ),
            anatomy.output.bytes,
        ),
        weights=anatomy.bytes,
        repacked=_copied(anatomy, copied),
        cache_per_token=cache_per_token(anatomy.layers, settings.cache),
        cache=sum(cache_of(layer, settings.cache, context, sequences) for layer in anatomy.layers),
        state=streams * sum(layer.state for layer in anatomy.layers),
        compute=_compute(anatomy, settings, context, sequences, chunk),
        outputs=rows * anatomy.vocabulary * _FLOAT if _unified(settings.cache) else 0,
        vocabulary=anatomy.entries * _ENTRY_BYTES,
    )


def _copied(anatomy: Anatomy, kinds: frozenset[TensorType]) -> int:
    parts = [w for layer in anatomy.layers for w in (*layer.weights, *layer.experts)]
    return sum(w.bytes for w in (*parts, anatomy.output) if w.type in kinds)


# The cache


def cache_per_token(layers: Iterable[Layer], cache: CacheConfig) -> int:
    """Bytes one token of one sequence takes, in all of these layers.

    A layer keeps ``kv_heads * key_dim`` numbers of it as keys and ``kv_heads * value_dim`` as
    values (Ainslie et al. 2023); with latent attention the compressed keys alone (DeepSeek-AI
    2024, equation 9).
    """
    each = (layer.attention for layer in layers if layer.attention is not None)
    return round(
        sum(
            it.keys * CACHE_BYTES[cache.key_type] + it.values * CACHE_BYTES[cache.value_type]
            for it in each
        )
    )


def cache_of(layer: Layer, cache: CacheConfig, context: int, sequences: int) -> int:
    """Bytes of one layer's cache, for all sequences.

    Layers with a window have as many cells as others: the engine keeps them (llama.cpp's
    ``swa_full``), so that a prompt can be taken up again at any token.
    """
    return cache_per_token((layer,), cache) * _cells(cache, context, sequences)


def _cells(cache: CacheConfig, context: int, sequences: int) -> int:
    if not _unified(cache):
        return sequences * padded(context, CELLS)
    wanted = sequences * context if cache.cells is None else max(context, cache.cells)
    return padded(wanted, CELLS)


def _unified(cache: CacheConfig) -> bool:
    return cache.layout is CacheLayout.UNIFIED


def _streams(cache: CacheConfig, sequences: int) -> int:
    return min(256, sequences + _IDLE_SEQUENCES) if _unified(cache) else sequences


# Intermediate results


def _compute(
    anatomy: Anatomy, settings: EngineSettings, context: int, sequences: int, chunk: int | None
) -> int:
    """The larger of the moments of a step in which most is held at once: attention, where each
    head has a score for every cell; and the feed-forward, of three wide results."""
    cache = settings.cache
    streams = _streams(cache, sequences)
    # A step's tokens are reserved in whole rounds of all sequences: so many at most.
    tokens = min(settings.micro_batch, chunk or settings.micro_batch) + streams - 1
    cells = _cells(cache, context, sequences) if _unified(cache) else padded(context, CELLS)
    seen = [layer.attention for layer in anatomy.layers if layer.attention is not None]
    row = tokens * _FLOAT
    kinds = len({it.window is None for it in seen})
    flash = cache.flash_attention
    # Which cells a token may see: one table for each kind of layer, in half precision too for
    # flash attention.
    masks = kinds * cells * tokens * (_FLOAT // 2 if flash else _FLOAT)
    heads = max((it.heads for it in seen), default=0)
    queries = max((it.heads * it.key_dim for it in seen), default=0)
    scores = 0 if flash else heads * cells * row
    attention = scores + row * (anatomy.embedding + 4 * queries)
    feeding = row * (3 * anatomy.feed_forward + 4 * anatomy.embedding)
    # Beside the tensors: the scores once more in the precision of the values, or the inputs of a
    # product in that of the weights.
    work = max(scores // 2, row * max(anatomy.feed_forward, anatomy.embedding) // 3)
    return max(attention, feeding) + masks + work
