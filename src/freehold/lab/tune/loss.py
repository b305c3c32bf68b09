"""From sums over windows to a loss with its uncertainty.

Tokens of one window depend on each other, windows hardly do: errors are standard errors over the
means of windows, all of the same length.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from freehold.engines.llamacpp.tuning_messages import Difference
from freehold.machine.profile import Loss


def summarise(windows: Sequence[Difference]) -> Loss:
    """Perplexity is exp(mean negative log-likelihood); the error of its ratio to the source's is,
    to first order, the ratio times the error of the mean difference. Needs two windows or more.
    """
    if len(windows) < 2:
        raise ValueError("one window has no spread")
    tokens = sum(window.tokens for window in windows)
    divergence, divergence_error = _mean([w.divergence / w.tokens for w in windows])
    agreement, agreement_error = _mean([w.agreed / w.tokens for w in windows])
    source, _ = _mean([w.source_loss / w.tokens for w in windows])
    added, added_error = _mean([(w.other_loss - w.source_loss) / w.tokens for w in windows])
    return Loss(
        tokens=tokens,
        divergence=divergence,
        divergence_error=divergence_error,
        agreement=agreement,
        agreement_error=agreement_error,
        source_perplexity=math.exp(source),
        perplexity=math.exp(source + added),
        perplexity_error=math.exp(added) * added_error,
    )


def _mean(values: Sequence[float]) -> tuple[float, float]:
    """And its standard error."""
    mean = sum(values) / len(values)
    variance = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return mean, math.sqrt(variance / len(values))
