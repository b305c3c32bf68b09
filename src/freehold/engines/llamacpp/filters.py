"""Which candidates survive, and with what chances. Pure.

Order of the filters: top-k, temperature, typical, top-p, min-p. As in llama.cpp's default
chain, except that the temperature comes before the filters on probabilities, so that
``top_p`` means what the published sampling settings of models assume. Each filter keeps at
least one token, and the next one sees chances that add up to 1 again.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from freehold.domain.sampling import Sampling
from freehold.engines.llamacpp.ranking import (
    Logits,
    Ranking,
    Tokens,
    Weights,
    above,
    by_likelihood,
    exponents,
    highest,
    leading,
    likeliest,
    prefixes,
    total,
    weighed,
    weights_of,
)

_LEAST_WEIGHT = 1e-300  # has a logarithm


def distribution(logits: Logits, sampling: Sampling) -> tuple[Tokens, Weights]:
    """The candidates that survive the filters, most likely first, and their probabilities."""
    survivors = surviving(logits, sampling, 1.0)
    return survivors.tokens, survivors.weights / survivors.mass


def surviving(logits: Logits, sampling: Sampling, share: float) -> Ranking:
    """The candidates that survive the filters.

    Where no filter is on, the likeliest are listed until they hold ``share`` of the mass.
    """
    ranking = _candidates(logits, sampling, share)
    if sampling.top_p < 1:
        before = np.cumsum(ranking.weights) - ranking.weights
        ranking = _first(ranking, before < sampling.top_p * ranking.mass)
    if sampling.min_p > 0:
        ranking = _first(ranking, ranking.weights >= sampling.min_p * ranking.weights[0])
    return ranking


def _first(ranking: Ranking, kept: npt.NDArray[np.bool_]) -> Ranking:
    """The first ones: ``kept`` is true, then false."""
    return ranking.only(slice(max(1, int(np.count_nonzero(kept)))))


def _candidates(logits: Logits, sampling: Sampling, share: float) -> Ranking:
    """What top-k and typical leave; without them, as many as later filters can keep."""
    temperature, typical = sampling.temperature, sampling.typical_p
    if 0 < sampling.top_k < len(logits):
        ranking = weighed(logits, highest(logits, sampling.top_k), temperature)
        return _typical(ranking, typical) if typical < 1 else ranking
    if typical < 1:
        return _typical_of_all(logits, temperature, typical)
    if sampling.top_p < 1:
        return leading(logits, temperature, sampling.top_p)
    if sampling.min_p > 0:
        distance = -temperature * math.log(min(sampling.min_p, 1.0))
        return weighed(logits, above(logits, distance), temperature)
    return leading(logits, temperature, share)


def _typical(ranking: Ranking, share: float) -> Ranking:
    """Locally typical sampling (arXiv 2202.00666).

    Keeps the tokens whose surprise is nearest to the expected one until they hold ``share``
    of the mass. The logarithm of the mass is part of both, so their distance is that of
    the token's exponent to the mean exponent.
    """
    mean = float((ranking.weights * _logarithms(ranking.weights)).sum()) / ranking.mass
    return _nearest(ranking, mean, share)


def _typical_of_all(logits: Logits, temperature: float, share: float) -> Ranking:
    """The same for the whole vocabulary, looking at the nearest first."""
    top = float(logits[likeliest(logits)])
    scaled = exponents(logits, temperature, top)
    weights = np.exp(scaled)
    mass = total(weights)
    weights *= scaled
    mean = total(weights) / mass
    scaled -= np.float32(mean)
    np.abs(scaled, out=scaled)
    for near in prefixes(np.negative(scaled, out=scaled)):
        if len(near) == len(logits):
            break
        tokens = by_likelihood(logits, near)
        ranking = Ranking(tokens, weights_of(logits, tokens, temperature, top), mass)
        if float(ranking.weights.sum()) >= share * mass:
            return _nearest(ranking, mean, share)
    return _typical(weighed(logits, highest(logits, len(logits)), temperature), share)


def _nearest(ranking: Ranking, mean: float, share: float) -> Ranking:
    """Those whose exponent is nearest to the mean, ties to the likelier."""
    order = np.argsort(np.abs(_logarithms(ranking.weights) - mean), kind="stable")
    weights = ranking.weights[order]
    before = np.cumsum(weights) - weights
    kept = max(1, int(np.count_nonzero(before < share * ranking.mass)))
    return ranking.only(np.sort(order[:kept]))


def _logarithms(weights: Weights) -> Weights:
    logarithms: Weights = np.log(np.maximum(weights, _LEAST_WEIGHT))
    return logarithms
