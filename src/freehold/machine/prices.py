"""What each part of a step costs on one processor, in seconds: measured, or from nameplates."""

from __future__ import annotations

from dataclasses import dataclass

from freehold.domain.engine import CacheConfig
from freehold.machine.anatomy import Attention, Weights
from freehold.machine.calibration import FEW, MANY, AttentionCost, Calibration, TypeCost
from freehold.machine.computer import Gpu, GpuKind, Processor
from freehold.machine.footprint import CACHE_BYTES
from freehold.weights.gguf_types import TensorType

# What is usual, for computers that were not measured. Bytes per second of memory for each core,
# and for a processor at most; floating point operations per second and core by what the core has.
_CORE_BANDWIDTH, _MOST_BANDWIDTH = 10e9, 60e9
_CORE_RATES = (("amx_int8", 400e9), ("avx512f", 80e9), ("avx2", 45e9), ("neon", 45e9))
_PLAIN_CORE_RATE = 10e9
# Of cards: bytes per second where nobody tells; operations for each byte of bandwidth.
_CARD_BANDWIDTH, _CARD_INTENSITY, _METAL_INTENSITY = 300e9, 100.0, 30.0
# How much of a nameplate llama.cpp usually reaches.
_EFFICIENCY = 0.6
# On cards: of the bandwidth, and the seconds that starting a layer's kernels one after the other
# takes. Round figures that fit speeds published of models of 7 to 32 billion parameters.
_CARD_REACHED, _CARD_LAYER = 0.85, 50e-6
_METAL_REACHED, _METAL_LAYER = 0.7, 100e-6


@dataclass(frozen=True)
class Prices:
    """``calibration`` None: everything follows from ``bandwidth`` (bytes) and ``rate``
    (operations), both per second and what is usually reached of them."""

    bandwidth: float
    rate: float
    calibration: Calibration | None = None
    step: float = 0.0
    layer: float = 0.0
    logit: float = 0.0

    def measured(self, kind: TensorType) -> bool:
        return self.calibration is not None and self.calibration.of_type(kind.name) is not None

    def product(self, part: Weights, tokens: int) -> float:
        """Matrices with so many tokens: never faster than they can be read."""
        cost = self._type(part.type)
        elements = part.elements * _of_step(tokens, cost.one, cost.few, cost.many)
        rows = part.rows * _of_step(tokens, cost.row_one, cost.row_few, cost.row_many)
        return max(elements + rows, part.bytes / self.bandwidth)

    def _type(self, kind: TensorType) -> TypeCost:
        size = kind.block_bytes / kind.block_size
        if self.calibration is None:
            one, many = size / self.bandwidth, 2 / self.rate
            return TypeCost(kind.name, one, max(one, FEW * many), many)
        known = self.calibration.of_type(kind.name)
        if known is not None:
            return known
        # Like the slowest of those that were measured, byte for byte.
        others = self.calibration.types
        one = size * max(cost.one / _size(cost.type) for cost in others)
        many = max(cost.many for cost in others)
        return TypeCost(
            type=kind.name,
            one=one,
            few=max(one, FEW * many),
            many=many,
            row_one=max(cost.row_one for cost in others),
            row_few=max(cost.row_few for cost in others),
            row_many=max(cost.row_many for cost in others),
        )

    def attention(self, layer: Attention, cache: CacheConfig) -> AttentionCost:
        """A cell, with all heads of the layer."""
        per_head = self._attention(layer, cache)
        # Every key and value comes from memory once, however many heads share it.
        stored = layer.keys * CACHE_BYTES[cache.key_type]
        stored += layer.values * CACHE_BYTES[cache.value_type]
        return AttentionCost(
            flash=per_head.flash,
            cache=per_head.cache,
            head_dim=per_head.head_dim,
            decode=max(layer.heads * per_head.decode, stored / self.bandwidth),
            prefill=layer.heads * per_head.prefill,
        )

    def _attention(self, layer: Attention, cache: CacheConfig) -> AttentionCost:
        head_dim = (layer.key_dim + (layer.value_dim or layer.key_dim)) // 2
        if self.calibration is not None:
            known = self.calibration.of_attention(cache.flash_attention, cache.key_type, head_dim)
            if known is not None:
                return known
        # A multiplication and an addition for each number of a key and of a value.
        one = 4 * head_dim / self.rate
        return AttentionCost(cache.flash_attention, cache.key_type, head_dim, one, one)

    def knows_attention(self, cache: CacheConfig) -> bool:
        return self.calibration is not None and any(
            cost.flash == cache.flash_attention and cost.cache is cache.key_type
            for cost in self.calibration.attention
        )


def _of_step(tokens: int, one: float, few: float, many: float) -> float:
    """Along a line from one token to `FEW`, and to `MANY`; beyond, each token costs the same."""
    if tokens <= FEW:
        return one + (few - one) * (tokens - 1) / (FEW - 1)
    if tokens <= MANY:
        return max(few, few + (MANY * many - few) * (tokens - FEW) / (MANY - FEW))
    return max(few, tokens * many)


def _size(name: str) -> float:
    kind = TensorType[name]
    return kind.block_bytes / kind.block_size


def measured_prices(calibration: Calibration) -> Prices:
    return Prices(
        bandwidth=calibration.bandwidth,
        rate=calibration.matrix_rate,
        calibration=calibration,
        step=calibration.step,
        layer=calibration.layer,
        logit=calibration.logit,
    )


def usual_prices(processor: Processor) -> Prices:
    """Of a processor that was not measured."""
    known = set(processor.instruction_sets)
    core = next((rate for name, rate in _CORE_RATES if name in known), _PLAIN_CORE_RATE)
    bandwidth = min(_MOST_BANDWIDTH, processor.cores * _CORE_BANDWIDTH)
    return Prices(bandwidth * _EFFICIENCY, processor.cores * core * _EFFICIENCY)


def card_prices(gpu: Gpu) -> Prices:
    """Of a graphics processor: nothing of these is measured yet."""
    bandwidth = gpu.bandwidth or _CARD_BANDWIDTH
    metal = gpu.kind is GpuKind.METAL
    intensity = _METAL_INTENSITY if metal else _CARD_INTENSITY
    layer = _METAL_LAYER if metal else _CARD_LAYER
    return Prices(
        bandwidth=bandwidth * (_METAL_REACHED if metal else _CARD_REACHED),
        rate=bandwidth * intensity * _EFFICIENCY,
        step=layer,  # of the output, and of what comes before the first layer
        layer=layer,
    )
