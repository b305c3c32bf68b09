"""From logits to the next token. Pure; float32 logits of the whole vocabulary in.

In this order: logit bias, the tokens that end a turn, repetition, presence and frequency
penalties, DRY and the mask change single logits in place; then the highest is taken, or one is
drawn from what the filters leave.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

from freehold.domain.sampling import Sampling
from freehold.engines.llamacpp.dry import DryPenalty
from freehold.engines.llamacpp.filters import surviving
from freehold.engines.llamacpp.masks import Mask, allows, bar_the_rest, few_allowed
from freehold.engines.llamacpp.penalties import Counts, PresencePenalty, RepetitionPenalty
from freehold.engines.llamacpp.ranking import (
    Logits,
    NothingToChoose,
    Ranking,
    Tokens,
    highest,
    likeliest,
    total_mass,
)

__all__ = [
    "SEED_LIMIT",
    "Logits",
    "Mask",
    "NothingToChoose",
    "SampledVocabulary",
    "Sampler",
    "log_probabilities",
    "log_probability",
]

# Seeds a person can read, type and hand to another program.
SEED_LIMIT = 2**31

# Above every logit, and far enough below the highest float32 that sums stay finite.
_HIGHEST_BIAS = 1e30


class SampledVocabulary(Protocol):
    """What a sampler has to know of the tokens it chooses from."""

    @property
    def size(self) -> int: ...

    @property
    def ends(self) -> Sequence[int]:
        """The tokens that end a turn."""
        ...

    def piece(self, token: int, /) -> bytes:
        """The text of a token."""
        ...


class Penalty(Protocol):
    """Lowers the logits of tokens for what has been said."""

    def apply(self, logits: Logits) -> None: ...

    def accept(self, token: int) -> None: ...


class Sampler:
    """Chooses the tokens of one sequence; the same seed and logits give the same choices.

    ``fresh_seed`` is used where ``sampling`` has none. Raises ValueError, naming the id, for a
    logit bias on a token that is not in the vocabulary.
    """

    def __init__(
        self,
        sampling: Sampling,
        fresh_seed: int,
        prompt: Sequence[int],
        vocabulary: SampledVocabulary,
    ) -> None:
        self._sampling = sampling
        self.seed = sampling.seed if sampling.seed is not None else fresh_seed % SEED_LIMIT
        self._random = np.random.Generator(np.random.PCG64(self.seed))
        self._biased, self._biases = _biases(sampling, vocabulary.size)
        ends = vocabulary.ends if sampling.ignore_end else ()
        self._ruled_out = np.array(ends, dtype=np.intp)
        self._penalties = tuple(_penalties(sampling, prompt, vocabulary))

    def choose(self, logits: Logits, mask: Mask | None = None) -> int:
        """The next token, which is not recorded. Changes ``logits``.

        Raises NothingToChoose, a ValueError, where no token is allowed and possible.
        """
        self._adjust(logits)
        if mask is None:
            return self._pick(logits)
        if self._sampling.greedy and allows(mask, token := likeliest(logits)):
            return token
        allowed = few_allowed(mask, len(logits))
        if allowed is not None:
            return int(allowed[self._pick(logits[allowed])])
        bar_the_rest(logits, mask)
        return self._pick(logits)

    def accept(self, token: int) -> None:
        """Record the token that was really taken."""
        for penalty in self._penalties:
            penalty.accept(token)

    def _adjust(self, logits: Logits) -> None:
        if len(self._biased):
            logits[self._biased] += self._biases
        if len(self._ruled_out):
            logits[self._ruled_out] = -np.inf
        for penalty in self._penalties:
            penalty.apply(logits)

    def _pick(self, logits: Logits) -> int:
        if not len(logits):
            raise NothingToChoose
        if self._sampling.greedy:
            return likeliest(logits)
        drawn = self._random.random()
        return _at(surviving(logits, self._sampling, drawn), drawn)


def log_probability(logits: Logits, token: int, top: int) -> tuple[float, list[tuple[int, float]]]:
    """The natural log-probability of ``token``, and the ``top`` likeliest with theirs.

    Best first, ties to the lower id. Minus infinity for a token the model rules out.
    """
    highest_logit = float(logits[likeliest(logits)])
    log_mass = highest_logit + math.log(total_mass(logits, 1.0, highest_logit))
    best = highest(logits, top).tolist() if top else []
    return float(logits[token]) - log_mass, [
        (other, float(logits[other]) - log_mass) for other in best
    ]


def log_probabilities(
    rows: Sequence[Logits] | Logits, tokens: Sequence[int], top: int
) -> list[tuple[float, list[tuple[int, float]]]]:
    """`log_probability` of each row's token.

    One row after another: a row fits the processor's cache, and a chunk of rows does not.
    """
    return [log_probability(row, token, top) for row, token in zip(rows, tokens, strict=True)]


def _at(ranking: Ranking, share: float) -> int:
    """The token at which the likeliest, added up, come to more than ``share`` of the mass."""
    at = int(np.searchsorted(np.cumsum(ranking.weights), share * ranking.mass, side="right"))
    # Rounding must not lead past the last token that is possible.
    return int(ranking.tokens[min(at, int(np.count_nonzero(ranking.weights)) - 1)])


def _biases(sampling: Sampling, size: int) -> tuple[Tokens, Logits]:
    """Tokens and what is added to their logits."""
    sums: dict[int, float] = {}
    for token, bias in sampling.logit_bias:
        if not 0 <= token < size:
            raise ValueError(f"logit_bias: there is no token {token}; ids go from 0 to {size - 1}")
        if math.isnan(bias):
            raise ValueError(f"logit_bias: the bias of token {token} is not a number")
        sums[token] = sums.get(token, 0.0) + min(max(bias, -_HIGHEST_BIAS), _HIGHEST_BIAS)
    return np.array(list(sums), dtype=np.intp), np.array(list(sums.values()), dtype=np.float32)


def _penalties(
    sampling: Sampling, prompt: Sequence[int], vocabulary: SampledVocabulary
) -> Iterator[Penalty]:
    """The penalties that are on, in the order in which they apply."""
    window = sampling.penalty_window
    if sampling.repetition_penalty != 1:
        yield RepetitionPenalty(sampling.repetition_penalty, Counts(prompt, window))
    presence, frequency = sampling.presence_penalty, sampling.frequency_penalty
    if presence or frequency:
        yield PresencePenalty(presence, frequency, Counts((), window))
    if sampling.dry is not None and sampling.dry.multiplier:
        yield DryPenalty(sampling.dry, prompt, window, vocabulary.piece)
