"""Texts and the vectors that stand for them, as every dialect understands them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from freehold.domain.errors import InvalidRequest

Vector = tuple[float, ...]


@dataclass(frozen=True)
class EmbeddingRequest:
    """Texts to embed, each by itself. An input of token ids is taken as it is.

    ``dimensions``: only so many of each vector. ``deadline`` is when the first vector must have
    come, in seconds of the event loop's clock; None means never. ``keep_alive`` is how many seconds
    the model stays unused from then on; None leaves that as it is.
    """

    model: str
    inputs: tuple[str | tuple[int, ...], ...]
    dimensions: int | None = None
    cache_scope: str = "local"
    deadline: float | None = None
    keep_alive: float | None = None


@dataclass(frozen=True)
class Embeddings:
    """A vector of length 1 for each input, in their order. ``model`` is its id.

    ``loaded`` is how many seconds passed until the model was ready and the inputs tokenised.
    """

    model: str
    vectors: tuple[Vector, ...]
    prompt_tokens: int
    loaded: float


def shortened(vector: Vector, dimensions: int) -> Vector:
    """The first ``dimensions`` numbers, scaled to length 1. Raises `InvalidRequest`."""
    if dimensions > len(vector):
        raise InvalidRequest(
            f"This model's vectors have {len(vector)} dimensions; {dimensions} were asked for.",
            field="dimensions",
        )
    if dimensions == len(vector):
        return vector
    cut = vector[:dimensions]
    length = math.hypot(*cut)
    if length == 0.0:
        raise InvalidRequest(
            f"The first {dimensions} dimensions of a vector are all zero.", field="dimensions"
        )
    return tuple(number / length for number in cut)
