"""Which cards vLLM is given for a model, how they share it, and how long a context they hold. Pure.

As few cards of one kind as hold the weights and everybody's context, all of which share each layer
(tensor parallel). Where the model's heads cannot be divided among enough of them, as few groups as
will do share the layers (pipeline parallel): cards in a row wait for each other. Sizes are bytes;
none has been measured on a card.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from freehold.machine.computer import Gpu, GpuKind
from freehold.machine.placement import RUNTIME
from freehold.machine.plan import gigabytes
from freehold.machine.vllm_need import Room, capacity, number


@dataclass(frozen=True)
class Shape:
    """``heads`` of a layer's attention, as many ``kept`` ones have keys and values; ``layers``."""

    heads: int
    kept: int
    layers: int

    def divisible(self, tensor: int) -> bool:
        """Whether vLLM lets so many cards share a layer: each has as many heads as any other, and
        of those that are kept too, or they are copied evenly.
        """
        return self.heads % tensor == 0 and (self.kept % tensor == 0 or tensor % self.kept == 0)


@dataclass(frozen=True)
class Sharing:
    """``tensor`` cards share each layer, ``pipeline`` groups of them the layers."""

    tensor: int = 1
    pipeline: int = 1

    @property
    def cards(self) -> int:
        return self.tensor * self.pipeline


@dataclass(frozen=True)
class Wish:
    """``users`` sequences of ``context`` tokens, each of which takes ``cell`` bytes. With ``most``
    the context may be that long where there is room, and shorter where there is none.
    """

    weights: int
    cell: int
    users: int
    context: int
    most: int | None = None


@dataclass(frozen=True)
class Layout:
    """``cards`` are numbers among the ``found`` CUDA cards, all of the kind ``name``. ``fewer``:
    on how many there was no room.
    """

    name: str
    cards: tuple[int, ...]
    found: int
    sharing: Sharing
    context: int
    room: Room
    fewer: Room | None = None

    @property
    def words(self) -> str:
        """Which cards, how they share the model, and why it is so many."""
        count = len(self.cards)
        which = self.name if count == 1 else f"{count} {self.name}"
        of = "" if count == self.found else f" of {self.found} cards"
        why = ""
        if self.fewer is not None:
            numbers = f"{gigabytes(self.fewer.needed)} of {gigabytes(self.fewer.available)}"
            why = f" (on {self.fewer.cards} it would need {numbers})"
        return f"{which}{of}{_how(self.sharing)}{why}"


def _how(sharing: Sharing) -> str:
    if sharing.cards == 1:
        return ""
    if sharing.pipeline == 1:
        return ", which share each layer"
    if sharing.tensor == 1:
        return ", each with a part of the layers"
    return f", in {sharing.pipeline} groups with a part of the layers, {sharing.tensor} to a layer"


def shape_of(config: Mapping[str, Any]) -> Shape | None:
    """None where its configuration does not tell."""
    heads = number(config, "num_attention_heads")
    shape = Shape(
        heads, number(config, "num_key_value_heads") or heads, number(config, "num_hidden_layers")
    )
    return shape if shape.heads and shape.layers else None


def choose(
    wish: Wish, shape: Shape | None, gpus: Sequence[Gpu], given: Sharing | None = None
) -> Layout | None:
    """``given``: how it was said to be shared. None: there are no cards for it.

    Where no cards hold the whole context those are taken that hold most of it, and where none holds
    the weights the largest; the room tells.
    """
    cuda = [gpu for gpu in gpus if gpu.kind is GpuKind.CUDA]
    layouts = [
        layout for cards in _kinds(cuda) for layout in _layouts(wish, shape, cuda, cards, given)
    ]
    enough = [each for each in layouts if each.room.enough and each.context >= wish.context]
    if enough:
        return min(
            enough,
            key=lambda each: (each.sharing.pipeline, each.sharing.cards, -each.room.available),
        )
    return max(
        layouts,
        key=lambda each: (each.room.enough, each.context, each.room.available),
        default=None,
    )


def _kinds(gpus: Sequence[Gpu]) -> list[tuple[int, ...]]:
    """The cards that are free for vLLM, those of one kind together."""
    kinds: dict[tuple[str, int], tuple[int, ...]] = {}
    for index, gpu in enumerate(gpus):
        if capacity(gpu):
            kind = (gpu.name, gpu.total)
            kinds[kind] = (*kinds.get(kind, ()), index)
    return list(kinds.values())


def _layouts(
    wish: Wish,
    shape: Shape | None,
    gpus: Sequence[Gpu],
    cards: tuple[int, ...],
    given: Sharing | None,
) -> Iterator[Layout]:
    """On ever more of these cards."""
    first = gpus[cards[0]]
    fewer = None
    for sharing in (given,) if given else _sharings(shape, len(cards)):
        if sharing.cards > len(cards):
            return
        room = _room(wish, shape, sharing, first, wish.context)
        context = _context(wish, shape, sharing, first)
        yield Layout(
            first.name,
            cards[: sharing.cards],
            len(gpus),
            sharing,
            context,
            _room(wish, shape, sharing, first, context),
            fewer,
        )
        fewer = fewer if room.enough else room


def _sharings(shape: Shape | None, most: int) -> Iterator[Sharing]:
    yield Sharing()
    if shape is None:
        return
    for cards in range(2, most + 1):
        tensor = max(
            each for each in range(1, cards + 1) if cards % each == 0 and shape.divisible(each)
        )
        if cards // tensor <= shape.layers:
            yield Sharing(tensor, cards // tensor)


def _context(wish: Wish, shape: Shape | None, sharing: Sharing, gpu: Gpu) -> int:
    """As long as there is room for; as it was wished where that does not help."""
    if wish.most is None or not wish.cell:
        return wish.context
    empty = _room(wish, shape, sharing, gpu, 0)
    tokens = empty.tokens(wish.cell * wish.users * _copies(shape, sharing))
    return min(tokens, wish.most) or wish.context


def _room(wish: Wish, shape: Shape | None, sharing: Sharing, gpu: Gpu, context: int) -> Room:
    cache = int(context * wish.users * wish.cell * _copies(shape, sharing))
    needed = wish.weights + cache + sharing.cards * RUNTIME
    return Room(sharing.cards, needed, sharing.cards * capacity(gpu))


def _copies(shape: Shape | None, sharing: Sharing) -> float:
    """How often what is kept lies on the cards: where more share a layer than it has such heads,
    each has one.
    """
    return max(1.0, sharing.tensor / shape.kept) if shape is not None else 1.0
