"""A grammar's mask: one bit for each token, set where the token is allowed."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from freehold.engines.llamacpp.ranking import Logits, Tokens

Mask = npt.NDArray[np.uint32]
"""Bit i of word i // 32, little end first: token i is allowed."""

# Up to so many words with a bit in them, listing the allowed tokens is cheaper than
# barring all others.
_FEW_WORDS = 256

# For each byte of a mask, the highest logit that each of its eight tokens may have.
_CEILINGS = np.where(
    np.unpackbits(np.arange(256, dtype=np.uint8)[:, np.newaxis], axis=1, bitorder="little"),
    np.float32(np.inf),
    np.float32(-np.inf),
)


def allows(mask: Mask, token: int) -> bool:
    word, bit = divmod(token, 32)
    return bool(int(mask[word]) >> bit & 1)


def few_allowed(mask: Mask, size: int) -> Tokens | None:
    """The allowed of ``size`` tokens, ascending, where they are few; None where they are not."""
    words = np.flatnonzero(mask)
    if len(words) > _FEW_WORDS:
        return None
    bits = np.flatnonzero(np.unpackbits(_bytes(mask[words]), bitorder="little"))
    tokens = words[bits // 32] * 32 + bits % 32
    return tokens[: np.searchsorted(tokens, size)]


def bar_the_rest(logits: Logits, mask: Mask) -> None:
    """Rule out, in place, every token that ``mask`` does not allow."""
    ceilings = _CEILINGS.take(_bytes(mask), axis=0).reshape(-1)[: len(logits)]
    np.minimum(logits, ceilings, out=logits)


def _bytes(mask: Mask) -> npt.NDArray[np.uint8]:
    return mask.astype("<u4", copy=False).view(np.uint8)
