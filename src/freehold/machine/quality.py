"""What stands for quality where nothing was measured: how many parameters, how well kept.

An ordering, not a measurement: models of different makers or years differ by more. A mixture of
experts counts as the dense model of geometric-mean size between all and active parameters, the
usual rule of thumb. A format of b bits a weight keeps the share 1 - 2^-b: what rounding loses
halves with each bit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

# Formats that models were trained in: nothing was lost in reaching them.
_TRAINED_IN = frozenset({"MXFP4"})


@dataclass(frozen=True)
class Quality:
    """``bits`` per weight of the file, or of the worst file it was made from."""

    parameters: int
    active: int
    bits: float
    score: float


def quality(parameters: int, active: int, bits: float, quantisation: str | None) -> Quality:
    """By numbers alone. ``parameters`` and ``bits`` must be positive."""
    kept = 1.0 if quantisation in _TRAINED_IN else 1 - 2 ** -min(bits, 16.0)
    return Quality(parameters, active, bits, math.sqrt(parameters * active) * kept)
