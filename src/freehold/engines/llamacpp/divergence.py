"""How far one model's predictions are from another's, over the whole vocabulary."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from freehold.engines.llamacpp.tuning_messages import Difference

Rows = npt.NDArray[np.float32]


def difference(source: Rows, other: Rows, said: npt.NDArray[np.int64]) -> Difference:
    """Of rows of logits that predict the tokens ``said``; one row a token.

    KL(P ‖ Q) = Σ p (log p - log q), by Kullback and Leibler, exact over the vocabulary.
    """
    p, q = log_softmax(source), log_softmax(other)
    rows = np.arange(len(said))
    return Difference(
        tokens=len(said),
        divergence=float((np.exp(p) * (p - q)).sum()),
        agreed=int((source.argmax(axis=1) == other.argmax(axis=1)).sum()),
        source_loss=float(-p[rows, said].sum()),
        other_loss=float(-q[rows, said].sum()),
    )


def log_softmax(logits: Rows) -> npt.NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    result: npt.NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result


def total(parts: list[Difference]) -> Difference:
    """Several pieces of one window as one."""
    return Difference(
        tokens=sum(part.tokens for part in parts),
        divergence=sum(part.divergence for part in parts),
        agreed=sum(part.agreed for part in parts),
        source_loss=sum(part.source_loss for part in parts),
        other_loss=sum(part.other_loss for part in parts),
    )
