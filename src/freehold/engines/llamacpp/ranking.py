"""Which tokens are likeliest, without sorting a vocabulary of 150,000.

The logits are read as columns. The ``count``-th highest column maximum is a bound
that ``count`` logits reach, so the ``count`` highest all reach it: one pass over the logits
finds the few columns worth looking into. Nothing is approximate but the mass of a whole
vocabulary, which is summed from float32 exponentials: within 1e-6 of itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Logits = npt.NDArray[np.float32]
Tokens = npt.NDArray[np.intp]
Weights = npt.NDArray[np.float64]

# Deep columns are few maxima to select from, shallow ones few logits beside each maximum.
_DEPTHS = (64, 8)
# How many of the likeliest tokens are looked at, one after another, before all of them.
_PREFIXES = (64, 1024, 8192)
# e to this is nothing beside the likeliest token's 1, and yet a normal float32:
# processors are slow on subnormal ones.
_LEAST_EXPONENT = np.float32(-80)
# Tokens further below the likeliest than this, in exponents, hardly ever decide anything.
_NEAR = 20.0
# Beyond these, float32 cannot hold the reciprocal.
_COLDEST, _HOTTEST = 1e-30, 1e30
_ADDENDS = 64
_ALL_BUT_SIGN = np.int32(0x7FFFFFFF)
_LOW_HALF = np.int64(0xFFFFFFFF)
_LOWEST_LOGIT = float(np.finfo(np.float32).min)


class NothingToChoose(ValueError):
    """No token has a finite logit: all are ruled out, or the model's output is broken."""

    def __init__(self) -> None:
        super().__init__("no token is left to choose from")


@dataclass(frozen=True)
class Ranking:
    """Tokens, likeliest first (ties: lower id first), with unnormalised probabilities.

    ``mass`` is the sum of all weights, also of the tokens that are not listed because no
    filter and no draw can reach them.
    """

    tokens: Tokens
    weights: Weights
    mass: float

    def only(self, kept: npt.NDArray[np.intp] | slice) -> Ranking:
        """Without all others."""
        weights = self.weights[kept]
        return Ranking(self.tokens[kept], weights, float(weights.sum()))


def likeliest(logits: Logits) -> int:
    """The token of the highest logit, ties to the lowest id."""
    token = int(logits.argmax())
    if not math.isfinite(logits[token]):
        raise NothingToChoose
    return token


def highest(logits: Logits, count: int) -> Tokens:
    """Ids of the ``count`` highest logits, highest first, ties to the lower id."""
    return by_likelihood(logits, _reaching(logits, count))[:count]


def above(logits: Logits, distance: float) -> Tokens:
    """Ids of all logits no further than ``distance`` below the highest, and of few others."""
    top = float(logits.max())
    bound = top - distance
    # Room for the rounding of the bound to float32.
    bound -= 1e-6 * (abs(bound) + abs(top))
    found = np.flatnonzero(logits >= np.float32(max(bound, _LOWEST_LOGIT)))
    return by_likelihood(logits, found)


def prefixes(logits: Logits) -> Iterator[Tokens]:
    """The ids of the highest logits: ever more of them, in the end all."""
    for count in _PREFIXES:
        if count < len(logits):
            yield highest(logits, count)
    yield highest(logits, len(logits))


def by_likelihood(logits: Logits, tokens: Tokens) -> Tokens:
    """The same ids, highest logit first, ties to the lower id.

    Logit and id are sorted as one integer, which numpy does several times as fast as it
    sorts ids by their logits.
    """
    # Subtracted, not negated: 0 and minus 0 must tie.
    bits = (np.float32(0) - logits[tokens]).view(np.int32)
    # As integers, floats are in order but for the negative ones, which are reversed.
    keys = (bits ^ ((bits >> 31) & _ALL_BUT_SIGN)).astype(np.int64) << 32
    keys |= tokens
    keys.sort()
    return keys & _LOW_HALF


def weighed(logits: Logits, tokens: Tokens, temperature: float) -> Ranking:
    """``tokens``, which are likeliest first, as all there are."""
    if not len(tokens):
        raise NothingToChoose
    top = float(logits[tokens[0]])
    weights = weights_of(logits, tokens, temperature, top)
    return Ranking(tokens, weights, float(weights.sum()))


def weights_of(logits: Logits, tokens: Tokens, temperature: float, top: float) -> Weights:
    """What each token weighs beside one whose logit is ``top``."""
    if not math.isfinite(top):
        raise NothingToChoose
    # The difference first: a tiny temperature may divide to minus infinity, never to NaN.
    with np.errstate(over="ignore"):
        weights: Weights = np.exp((logits[tokens].astype(np.float64) - top) / temperature)
    return weights


def leading(logits: Logits, temperature: float, share: float) -> Ranking:
    """As many of the likeliest tokens as hold ``share`` of the whole vocabulary's mass.

    Its ``mass`` is exact enough to say which token makes ``share`` full.
    """
    if share >= 1:
        return weighed(logits, highest(logits, len(logits)), temperature)
    bounds: tuple[float, float] | None = None
    for tokens in prefixes(logits):
        ranking = weighed(logits, tokens, temperature)
        if len(tokens) == len(logits):
            break
        top = float(logits[tokens[0]])
        low, high = bounds or _mass_bounds(logits, temperature, top)
        if ranking.mass >= share * low and not _settled(ranking, share * low, share * high):
            low = high = total_mass(logits, temperature, top)
        bounds = low, high
        if ranking.mass >= share * high:
            return Ranking(tokens, ranking.weights, high)
    return ranking


def _settled(ranking: Ranking, low: float, high: float) -> bool:
    """Whether the same token makes a mass of ``low`` and one of ``high`` full."""
    sums = np.cumsum(ranking.weights)
    return bool(sums.searchsorted(low, side="left") == sums.searchsorted(high, side="right"))


def _mass_bounds(logits: Logits, temperature: float, top: float) -> tuple[float, float]:
    """What the mass of all logits is at least and at most, without each one's exponential."""
    near = logits >= np.float32(max(top - _NEAR * temperature, _LOWEST_LOGIT))
    count = int(np.count_nonzero(near))
    if count > len(logits) // 8:
        mass = total_mass(logits, temperature, top)
        return mass, mass
    mass = float(weights_of(logits, np.flatnonzero(near), temperature, top).sum())
    return mass, mass + (len(logits) - count) * math.exp(-_NEAR)


def total_mass(logits: Logits, temperature: float, top: float) -> float:
    """What all tokens weigh together beside one whose logit is ``top``."""
    scaled = exponents(logits, temperature, top)
    return total(np.exp(scaled, out=scaled))


def exponents(logits: Logits, temperature: float, top: float) -> Logits:
    """e to these is what each token weighs beside one whose logit is ``top``."""
    scaled: Logits = logits - np.float32(top)
    with np.errstate(over="ignore"):
        scaled *= np.float32(1 / min(max(temperature, _COLDEST), _HOTTEST))
    np.maximum(scaled, _LEAST_EXPONENT, out=scaled)
    return scaled


def total(weights: Logits) -> float:
    """Their sum. Float32 adds no more than 64 of them, float64 the rest of the way."""
    width = len(weights) // _ADDENDS
    columns = weights[: width * _ADDENDS].reshape(_ADDENDS, width).sum(axis=0)
    rest = weights[width * _ADDENDS :]
    return float(columns.sum(dtype=np.float64) + rest.sum(dtype=np.float64))


def _reaching(logits: Logits, count: int) -> Tokens:
    """Ids of all logits that reach some bound; no fewer than ``count``."""
    if count >= len(logits):
        return np.arange(len(logits))
    for depth in _DEPTHS:
        if count < len(logits) // depth // 2:
            return _reaching_by_columns(logits, count, depth)
    return np.flatnonzero(logits >= np.partition(logits, -count)[-count])


def _reaching_by_columns(logits: Logits, count: int, depth: int) -> Tokens:
    width = len(logits) // depth
    columns = logits[: width * depth].reshape(depth, width)
    maxima = columns.max(axis=0)
    bound = np.partition(maxima, -count)[-count]
    promising = np.flatnonzero(maxima >= bound)
    rows, at = np.nonzero(columns.take(promising, axis=1) >= bound)
    rest = np.flatnonzero(logits[width * depth :] >= bound)
    return np.concatenate((rows * width + promising[at], width * depth + rest))
