"""What a model is made of, as far as memory and speed depend on it. Sizes are bytes.

`machine.dissect` finds it out, exactly from a file's tensors, or about from a catalogue row.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from freehold.weights.gguf_types import TensorType


@dataclass(frozen=True)
class Weights:
    """Matrices of one type. ``rows`` is how many numbers a product with a token results in."""

    type: TensorType
    bytes: int
    elements: int
    rows: int


@dataclass(frozen=True)
class Attention:
    """What one layer keeps of every token, and how it looks at it.

    ``value_dim`` 0: the values are part of the keys (latent attention). ``window``: how many
    tokens back it looks; None: all.
    """

    heads: int
    kv_heads: int
    key_dim: int
    value_dim: int
    window: int | None = None

    @property
    def keys(self) -> int:
        """Numbers kept of every token as keys."""
        return self.kv_heads * self.key_dim

    @property
    def values(self) -> int:
        """Numbers kept of every token as values."""
        return self.kv_heads * self.value_dim


@dataclass(frozen=True)
class Layer:
    """``weights`` are matrices every token is multiplied with; of ``experts`` a token meets only
    those it is sent to. ``vectors``: bytes of norms and biases.

    ``state`` is what a recurrent layer keeps of a sequence, whatever its length, in bytes.
    """

    attention: Attention | None
    weights: tuple[Weights, ...]
    experts: tuple[Weights, ...] = ()
    vectors: int = 0
    state: int = 0

    @property
    def bytes(self) -> int:
        return sum(part.bytes for part in (*self.weights, *self.experts)) + self.vectors


@dataclass(frozen=True)
class Anatomy:
    """``output`` turns the last layer's result into logits; ``tied``: it is the embedding, used
    once more. ``lookup`` is the embedding, of which a token reads one row. ``exact`` False:
    estimated from a catalogue row. ``context`` is what it was trained for, in tokens;
    ``feed_forward`` the widest intermediate result of a token; ``entries`` those of the
    tokeniser, tokens and merges.
    """

    architecture: str
    exact: bool
    context: int | None
    embedding: int
    feed_forward: int
    vocabulary: int
    layers: tuple[Layer, ...]
    output: Weights
    lookup: Weights
    tied: bool
    entries: int
    experts: int = 0
    experts_used: int = 0

    @property
    def bytes(self) -> int:
        """All weights, as in the file."""
        head = 0 if self.tied else self.output.bytes
        return sum(layer.bytes for layer in self.layers) + self.lookup.bytes + head

    @property
    def parameters(self) -> int:
        body = sum(w.elements for layer in self.layers for w in (*layer.weights, *layer.experts))
        return body + self.lookup.elements + (0 if self.tied else self.output.elements)

    @property
    def active_parameters(self) -> int:
        """Those a token is multiplied with, the output's too."""
        return sum(w.elements for w in self.multiplied()) + self.output.elements

    def share_of_experts(self, tokens: int) -> float:
        """Of all experts, how many ``tokens`` tokens of one step are sent to: 1 - (1 - k/n)^tokens,
        the expectation for an even router."""
        if not self.experts:
            return 0.0
        return float(1 - (1 - self.experts_used / self.experts) ** tokens)

    def read(self, tokens: int = 1) -> tuple[Weights, ...]:
        """What of the layers a step of ``tokens`` tokens reads, by type, the largest first."""
        return self._body(self.share_of_experts(tokens))

    def multiplied(self) -> tuple[Weights, ...]:
        """What of the layers each token is multiplied with, by type, the largest first."""
        return self._body(self.experts_used / self.experts if self.experts else 0.0)

    def _body(self, share: float) -> tuple[Weights, ...]:
        parts = [w for layer in self.layers for w in layer.weights]
        parts += [_part(w, share) for layer in self.layers for w in layer.experts]
        return by_type(parts)


def by_type(parts: Iterable[Weights]) -> tuple[Weights, ...]:
    """The same with one entry a type, the largest first."""
    kept: dict[TensorType, Weights] = {}
    for part in parts:
        before = kept.get(part.type, Weights(part.type, 0, 0, 0))
        kept[part.type] = Weights(
            part.type,
            before.bytes + part.bytes,
            before.elements + part.elements,
            before.rows + part.rows,
        )
    return tuple(sorted(kept.values(), key=lambda w: (-w.bytes, w.type)))


def _part(whole: Weights, share: float) -> Weights:
    return Weights(
        whole.type,
        round(whole.bytes * share),
        round(whole.elements * share),
        round(whole.rows * share),
    )
