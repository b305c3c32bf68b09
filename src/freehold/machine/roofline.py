"""How near a measured speed comes to what the machine can do (Williams et al. 2009)."""

from __future__ import annotations

from dataclasses import dataclass

from freehold.machine.anatomy import Anatomy
from freehold.machine.calibration import Calibration
from freehold.machine.profile import EngineSettings
from freehold.machine.speed import bytes_moved


@dataclass(frozen=True)
class Roofline:
    """Shares of what was measured to be possible: of memory bandwidth while decoding, of the
    fastest matrix product while reading a prompt."""

    decode: float
    prefill: float

    @property
    def text(self) -> str:
        return (
            f"decode at {self.decode:.0%} of the memory bandwidth, prefill at {self.prefill:.0%} "
            "of the matrix rate"
        )


def roofline(
    anatomy: Anatomy,
    calibration: Calibration,
    settings: EngineSettings,
    *,
    depth: int,
    sequences: int,
    decode: float,
    prefill: float,
) -> Roofline:
    """``decode`` and ``prefill`` are measured tokens per second, the first of all sequences
    together; both began at ``depth`` tokens."""
    moved = bytes_moved(anatomy, settings, depth, sequences) * decode / sequences
    return Roofline(
        decode=moved / calibration.bandwidth,
        prefill=operations(anatomy, settings.micro_batch, depth)
        * prefill
        / calibration.matrix_rate,
    )


def operations(anatomy: Anatomy, tokens: int, depth: int) -> float:
    """Floating point operations to read one of ``tokens`` tokens of a prompt after ``depth``
    others: two for each weight it meets, and for each number of a key and value it looks at."""
    weights = sum(part.elements for part in anatomy.multiplied())
    seen = depth + tokens / 2
    looks = 0.0
    for layer in anatomy.layers:
        if (it := layer.attention) is not None:
            looks += it.heads * (it.key_dim + (it.value_dim or it.key_dim)) * seen
    return 2 * (weights + looks)
