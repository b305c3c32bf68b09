"""How an engine may be set up: words that plans, profiles and engines share."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Kernels(enum.StrEnum):
    """Which of llama.cpp's CPU kernels are used."""

    FAST = "fast"  # with AMX and repacked weights where the CPU has a use for them
    PLAIN = "plain"  # without: the way around a build whose fast kernels crash


class Affinity(enum.StrEnum):
    """Where the threads that compute may run."""

    FREE = "free"  # wherever the system puts them
    CORES = "cores"  # each on a core of its own: it cannot make way for another program


class CacheLayout(enum.StrEnum):
    """How the sequences of one context share its memory.

    ``STREAMS``: each has ``context`` cells of its own. Full means: this sequence has reached
    ``context``. ``UNIFIED``: all draw on one pool of ``cells``. Full means: together they have used
    it up; then the newest is put aside and computed again later.
    """

    STREAMS = "streams"
    UNIFIED = "unified"


class CacheType(enum.StrEnum):
    """How one number of the key-value cache is stored."""

    F32 = "f32"
    F16 = "f16"
    BF16 = "bf16"
    Q8_0 = "q8_0"


@dataclass(frozen=True)
class CacheConfig:
    """The key-value cache of one context.

    ``cells`` is for `CacheLayout.UNIFIED`: tokens all sequences hold together (None: every
    sequence can be full at once). ``host_bytes`` of ordinary memory keep the prefixes of finished
    sequences whose place was needed.
    """

    layout: CacheLayout = CacheLayout.STREAMS
    key_type: CacheType = CacheType.F16
    value_type: CacheType = CacheType.F16
    flash_attention: bool = False
    cells: int | None = None
    host_bytes: int = 1 << 30


class Precision(enum.StrEnum):
    """In what vLLM computes with weights that nobody has quantised, in its own words."""

    BFLOAT16 = "bfloat16"
    FLOAT32 = "float32"

    @property
    def bytes(self) -> int:
        """Of a number."""
        return 4 if self is Precision.FLOAT32 else 2


class Quantization(enum.StrEnum):
    """What vLLM makes of weights of 16 bits while it loads them, in its own words."""

    NONE = "none"
    FP8_PER_TENSOR = "fp8_per_tensor"
    FP8_PER_CHANNEL = "fp8_per_channel"
    FP8_PER_BLOCK = "fp8_per_block"
    MXFP8 = "mxfp8"
    MXFP4 = "mxfp4"

    @property
    def bits(self) -> float:
        """Of a weight in a matrix, its scales included where there are many."""
        if self is Quantization.NONE:
            return 16
        if self is Quantization.MXFP4:
            return 4.25
        return 8.25 if self is Quantization.MXFP8 else 8
