"""Which tokens are where, and what a new prompt can take over. Pure.

Tokens that were computed stay: in the stream they were computed in until somebody else needs
it, then in host memory, on the `Shelf`, until its room is needed. Least recently used goes first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from freehold.engines.llamacpp.sequence import PrefixKey, Sequence
from freehold.engines.llamacpp.tokens import TokenArray, TokenLog, common_prefix

# Tokens at the end of a prompt that are computed anew although they are cached. One must be,
# to get logits; with fewer than eight llama.cpp's CPU backend takes other kernels, whose rounding
# differs: the answer to a repeated prompt would not be the answer to a fresh one.
RECOMPUTED = 8
# Saving fewer tokens than this is not worth a copy, or a wait for somebody who computes them.
WORTH_SAVING = 32


@dataclass(eq=False)
class Stream:
    """One sequence id of the context, and the tokens in the cache under it.

    While ``owner`` runs, ``tokens`` is the owner's log and grows with it; ``length`` of
    them are in the cache.
    """

    index: int
    tokens: TokenLog = field(default_factory=lambda: TokenLog(()))
    length: int = 0
    key: PrefixKey | None = None
    owner: Sequence | None = None
    last_used: int = 0

    @property
    def content(self) -> TokenArray:
        return self.tokens.array[: self.length]

    def empty(self) -> None:
        self.tokens, self.length, self.key = TokenLog(()), 0, None


@dataclass(frozen=True, eq=False)
class Shelved:
    """A prefix in host memory. ``size`` in bytes; the bytes themselves are the loop's."""

    number: int
    content: TokenArray
    key: PrefixKey
    size: int


class Shelf:
    """Prefixes in host memory, at most ``capacity`` bytes of them.

    Where memory can be cut, a longer prefix serves as well as a shorter one that it begins with.
    """

    def __init__(self, capacity: int, *, cuttable: bool = True) -> None:
        self._capacity = capacity
        self._cuttable = cuttable
        self._items: dict[int, Shelved] = {}  # least recently used first
        self._numbers = 0

    def __iter__(self) -> Iterator[Shelved]:
        return iter(self._items.values())

    def __len__(self) -> int:
        return len(self._items)

    @property
    def size(self) -> int:
        return sum(item.size for item in self._items.values())

    @property
    def capacity(self) -> int:
        return self._capacity

    def put(self, content: TokenArray, key: PrefixKey, size: int) -> Shelved:
        """Take in a prefix there is room for (see `displaced`)."""
        self._numbers += 1
        item = Shelved(self._numbers, content.copy(), key, size)
        self._items[item.number] = item
        return item

    def displaced(self, content: TokenArray, key: PrefixKey, size: int) -> tuple[Shelved, ...]:
        """What must go before a prefix of ``size`` bytes comes: what it contains, and the oldest.

        It fits afterwards only if ``size`` is at most the capacity.
        """
        gone = [
            item
            for item in self._items.values()
            if item.key == key and self._serves(content, item.content)
        ]
        held = self.size - sum(item.size for item in gone)
        for item in self._items.values():
            if held + size <= self._capacity:
                break
            if item not in gone:
                gone.append(item)
                held -= item.size
        return tuple(gone)

    def _serves(self, held: TokenArray, wanted: TokenArray) -> bool:
        """Whether a prefix that is held makes keeping another one pointless."""
        alike = common_prefix(held, wanted) == len(wanted)
        return alike and (self._cuttable or len(held) == len(wanted))

    def holds(self, stream: Stream, streams: Iterable[Stream]) -> bool:
        """Whether what a stream has is here too, or in another stream."""
        others = [
            other.content for other in streams if other.key == stream.key and other is not stream
        ]
        others += [item.content for item in self if item.key == stream.key]
        return any(self._serves(other, stream.content) for other in others)

    def remove(self, number: int) -> None:
        del self._items[number]

    def touch(self, number: int) -> None:
        """It was used just now. Does nothing if it has had to go meanwhile."""
        if number in self._items:
            self._items[number] = self._items.pop(number)


@dataclass(frozen=True)
class InStream:
    index: int


@dataclass(frozen=True)
class OnShelf:
    number: int


@dataclass(frozen=True)
class Reuse:
    """``keep`` tokens of a prompt need not be computed: they are at ``source``."""

    source: InStream | OnShelf | None = None
    keep: int = 0


def usable(content: TokenArray, wanted: TokenArray, *, cuttable: bool) -> int:
    """Tokens of ``wanted`` that ``content`` saves computing.

    Memory that cannot be cut (recurrent models) serves only what continues all of it.
    """
    common = common_prefix(content, wanted)
    if cuttable:
        return max(0, min(common, len(wanted) - RECOMPUTED))
    return common if common == len(content) <= len(wanted) - RECOMPUTED else 0


def best_reuse(
    wanted: TokenArray,
    key: PrefixKey,
    streams: Iterable[Stream],
    shelf: Shelf,
    *,
    cuttable: bool,
) -> Reuse:
    """The longest prefix of ``wanted`` that is anywhere. At equal length an idle stream first."""
    best, best_rank = Reuse(), (0, 0)
    for stream in streams:
        if stream.key == key and stream.length:
            keep = usable(stream.content, wanted, cuttable=cuttable)
            rank = (keep, 2 if stream.owner is None else 1)
            if keep and rank > best_rank:
                best, best_rank = Reuse(InStream(stream.index), keep), rank
    for item in shelf:
        if item.key == key:
            keep = usable(item.content, wanted, cuttable=cuttable)
            if (keep, 0) > best_rank:
                best, best_rank = Reuse(OnShelf(item.number), keep), (keep, 0)
    return best


def worth_shelving(stream: Stream, streams: Iterable[Stream], shelf: Shelf) -> bool:
    """Whether what an idle stream holds is long enough, and nowhere else."""
    if stream.key is None or stream.length < WORTH_SAVING or not shelf.capacity:
        return False
    return not shelf.holds(stream, streams)
