"""What lies where: layers on graphics processors as far as they have room, the rest on the host.

llama.cpp offloads the *last* layers and counts the output as one more behind them, so that
``n_gpu_layers = 1`` offloads the output alone; it gives consecutive layers to consecutive cards, to
each as many as its part of the free memory is. The embedding stays on the host. Sizes are bytes.

Source: ``llama_model_base::load_tensors`` of llama.cpp as vendored by llama-cpp-python 0.3.36.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from freehold.machine.anatomy import Anatomy
from freehold.machine.computer import Gpu, GpuKind
from freehold.machine.footprint import Footprint
from freehold.machine.profile import EngineSettings
from freehold.weights.gguf_types import TensorType

# What a process takes of a card before any model: the runtime's own context and kernels.
# A round figure; drivers differ between 0.3 and 0.6 GB.
RUNTIME = 500_000_000

# How far a footprint may be off; so much more must be free than it says.
MARGIN = 1.05


@dataclass(frozen=True)
class Load:
    """What each layer takes, the output last: ``on_card``, or ``on_host``, where a repacked copy
    comes with it and a tied output is there already. ``buffers`` are needed on each card that is
    used, ``host`` on the host in any case.
    """

    on_card: tuple[int, ...]
    on_host: tuple[int, ...]
    buffers: int
    host: int


@dataclass(frozen=True)
class OnCard:
    """``index`` counts the computer's cards."""

    index: int
    name: str
    layers: int
    needed: int
    available: int


@dataclass(frozen=True)
class Placement:
    """``offloaded`` of ``layers`` (the output counts as one) are on ``cards``. ``host`` is what
    ordinary memory must hold; of a card that shares it, that includes the card's part. ``total`` is
    what all memory together must."""

    layers: int
    cards: tuple[OnCard, ...]
    host: int
    total: int

    @property
    def offloaded(self) -> int:
        return sum(card.layers for card in self.cards)

    @property
    def whole(self) -> bool:
        """Whether every layer is on a card."""
        return self.offloaded == self.layers


def load_of(
    anatomy: Anatomy, needs: Footprint, settings: EngineSettings, repacked: frozenset[TensorType]
) -> Load:
    """A footprint by layers. With every layer on the host it is ``needs.total``."""
    kinds = repacked if settings.repack else frozenset()
    copies = [
        sum(part.bytes for part in (*layer.weights, *layer.experts) if part.type in kinds)
        for layer in anatomy.layers
    ]
    copies.append(anatomy.output.bytes if anatomy.output.type in kinds else 0)
    on_host = [layer + copy for layer, copy in zip(needs.layers, copies, strict=True)]
    if anatomy.tied:
        on_host[-1] = copies[-1]
    return Load(needs.layers, tuple(on_host), needs.buffers, needs.total - sum(on_host))


def place(load: Load, gpus: Sequence[Gpu]) -> Placement:
    """As many layers on cards as these have room for; the host takes the rest, however much."""
    count = len(load.on_card)
    for offloaded in range(count, 0, -1):
        cards = _filled(load, load.on_card[count - offloaded :], gpus)
        if cards is not None:
            break
    else:
        offloaded, cards = 0, ()
    shared = sum(c.needed for c in cards if gpus[c.index].kind is GpuKind.METAL)
    host = load.host + sum(load.on_host[: count - offloaded])
    return Placement(count, cards, host + shared, host + sum(c.needed for c in cards))


def _filled(load: Load, layers: Sequence[int], gpus: Sequence[Gpu]) -> tuple[OnCard, ...] | None:
    """Shared as llama.cpp does, or else one card filled after the other; None: they do not fit."""
    return _shared(load, layers, gpus) or _in_turn(load, layers, list(enumerate(gpus)))


def _shared(load: Load, layers: Sequence[int], gpus: Sequence[Gpu]) -> tuple[OnCard, ...] | None:
    """To each card as many layers as its part of all free memory is; None: one has no room."""
    free = [gpu.available for gpu in gpus]
    if not sum(free):
        return None
    ends = [end / sum(free) for end in accumulate(free)]
    places = [bisect_right(ends, number / len(layers)) for number in range(len(layers))]
    cards = []
    for index, gpu in enumerate(gpus):
        own = [layer for place, layer in zip(places, layers, strict=True) if place == index]
        needed = _overhead(load, gpu) + sum(own)
        if own and needed * MARGIN > gpu.available:
            return None
        if own:
            cards.append(OnCard(index, gpu.name, len(own), needed, gpu.available))
    return tuple(cards)


def _in_turn(
    load: Load, layers: Sequence[int], gpus: Sequence[tuple[int, Gpu]]
) -> tuple[OnCard, ...] | None:
    cards = []
    left = list(layers)
    for index, gpu in gpus:
        sums = [_overhead(load, gpu) + each for each in accumulate(left)]
        taken = sum(needed * MARGIN <= gpu.available for needed in sums)
        if taken:
            cards.append(OnCard(index, gpu.name, taken, sums[taken - 1], gpu.available))
            left = left[taken:]
        if not left:
            return tuple(cards)
    return None


def _overhead(load: Load, gpu: Gpu) -> int:
    """What a card that is used holds beside layers."""
    return load.buffers + (0 if gpu.kind is GpuKind.METAL else RUNTIME)
