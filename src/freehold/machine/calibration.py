"""What a calibration measured on this computer, with this build: the constants of predictions.

Measured by a child of `engines.llamacpp` on models made up for it, never on the models it is used
to predict. Kept in the store's ``state`` folder. Times are seconds.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import msgspec

from freehold.domain.engine import CacheType

CALIBRATION_FORMAT = 4

# Threads that wait for each other sleep after a moment, so even alone they do not take all of their
# cores' time: 0.72 to 0.95 of it was seen, and 0.37 beside other programs.
QUIET_SHARE = 0.6

# How many tokens a step of a `TypeCost.few` has, and one of a `TypeCost.many`.
FEW, MANY = 8, 64


class TypeCost(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of matrices of one ggml type, by its name.

    ``one`` is for each element of the matrix when a step has one token, ``few`` when it has `FEW`
    (all of them together), ``many`` for each element and token where it has `MANY`. The ``row_``
    costs are for each row in the same steps: a row's result has to be added up, stored, and taken
    further.
    """

    type: str
    one: float
    few: float
    many: float
    row_one: float = 0.0
    row_few: float = 0.0
    row_many: float = 0.0


class AttentionCost(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of looking at one cell of the cache with one head of ``head_dim`` numbers.

    ``decode``: by a step's single token; ``prefill``: by each token of a prompt.
    """

    flash: bool
    cache: CacheType
    head_dim: int
    decode: float
    prefill: float


class Calibration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``bandwidth``: bytes per second that all cores read from memory. ``matrix_rate``: floating
    point operations per second of the fastest matrix product.

    ``step`` is what every step takes, ``layer`` what every layer adds to it, ``logit`` is for each
    logit. ``computer`` and ``build`` say what it holds for, ``threads`` how many there were;
    ``measured_at`` is ISO 8601 in UTC, ``seconds`` how long it took. ``share`` is how much of
    these cores' time the measuring got: less than 1 in company. ``yardstick`` is what one and the
    same step took meanwhile, ``reading_yardstick`` one of many tokens: by them another moment can
    be compared with the calibration's (`engines.llamacpp.bench_steps`). ``left_out`` is what there
    was no time for.
    """

    computer: str
    build: str
    measured_at: str
    seconds: float
    threads: int
    bandwidth: float
    matrix_rate: float
    step: float
    layer: float
    logit: float
    yardstick: float
    reading_yardstick: float
    types: tuple[TypeCost, ...] = ()
    attention: tuple[AttentionCost, ...] = ()
    share: float = 1.0
    left_out: tuple[str, ...] = ()
    format: int = CALIBRATION_FORMAT

    @property
    def disturbed(self) -> bool:
        """Whether other programs took so much that its numbers are not worth much."""
        return self.share < QUIET_SHARE

    def of_type(self, name: str) -> TypeCost | None:
        """None: that type was not measured."""
        return next((cost for cost in self.types if cost.type == name), None)

    def of_attention(self, flash: bool, cache: CacheType, head_dim: int) -> AttentionCost | None:
        """Between the head sizes that were measured, and beyond them, along a line; None: nothing
        was measured for this kind of cache."""
        known = sorted(
            (cost for cost in self.attention if cost.flash == flash and cost.cache is cache),
            key=lambda cost: cost.head_dim,
        )
        if not known:
            return None
        low, high = _around(known, head_dim)
        if low.head_dim == high.head_dim:
            return low
        share = (head_dim - low.head_dim) / (high.head_dim - low.head_dim)
        return AttentionCost(
            flash=flash,
            cache=cache,
            head_dim=head_dim,
            decode=max(0.0, low.decode + share * (high.decode - low.decode)),
            prefill=max(0.0, low.prefill + share * (high.prefill - low.prefill)),
        )


def _around(known: Sequence[AttentionCost], head_dim: int) -> tuple[AttentionCost, AttentionCost]:
    """The two measured sizes to draw the line through."""
    for low, high in itertools.pairwise(known):
        if head_dim <= high.head_dim:
            return low, high
    return (known[-2] if len(known) > 1 else known[-1]), known[-1]
