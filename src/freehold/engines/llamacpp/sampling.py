"""From logits to the next token. Pure; float32 logits of the whole vocabulary in.

Only as many candidates as the request needs are ever sorted: greedy is one argmax, top-k
a partial selection. Order of filters: top-k, temperature, top-p, as in llama.cpp's
default chain, except that the temperature is applied before top-p, so that
``top_p`` means what the published sampling settings of models assume.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from freehold.domain.sampling import Sampling

Logits = npt.NDArray[np.float32]

# Seeds a person can read, type and hand to another program.
SEED_LIMIT = 2**31


class Sampler:
    """Chooses the tokens of one sequence; the same seed and logits give the same choices."""

    def __init__(self, sampling: Sampling, fresh_seed: int) -> None:
        self._sampling = sampling
        self.seed = sampling.seed if sampling.seed is not None else fresh_seed % SEED_LIMIT
        self._random = np.random.Generator(np.random.PCG64(self.seed))

    def choose(self, logits: Logits) -> int:
        if self._sampling.greedy:
            return int(np.argmax(logits))
        candidates, probabilities = distribution(logits, self._sampling)
        cumulative = np.cumsum(probabilities)
        at = int(np.searchsorted(cumulative, self._random.random() * cumulative[-1], side="right"))
        return int(candidates[min(at, len(candidates) - 1)])


def distribution(
    logits: Logits, sampling: Sampling
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """The candidates that survive the filters, most likely first, and their probabilities."""
    candidates = _top_k(logits, sampling.top_k)
    chosen = logits[candidates].astype(np.float64)
    # The difference first: a tiny temperature may divide to minus infinity, never to NaN.
    with np.errstate(over="ignore"):
        probabilities = np.exp((chosen - chosen[0]) / sampling.temperature)
    probabilities /= probabilities.sum()
    if sampling.top_p < 1.0:
        before = np.cumsum(probabilities) - probabilities
        kept = max(1, int(np.count_nonzero(before < sampling.top_p)))
        candidates, probabilities = candidates[:kept], probabilities[:kept]
        probabilities = probabilities / probabilities.sum()
    return candidates, probabilities


def _top_k(logits: Logits, count: int) -> npt.NDArray[np.int64]:
    """Ids of the ``count`` highest logits (0: all), highest first, ties to the lower id."""
    if 0 < count < len(logits):
        last = np.partition(logits, -count)[-count]
        above, equal = np.flatnonzero(logits > last), np.flatnonzero(logits == last)
        chosen = np.sort(np.concatenate((above, equal[: count - len(above)])))
    else:
        chosen = np.arange(len(logits))
    order = np.argsort(-logits[chosen], kind="stable")
    return chosen[order]
