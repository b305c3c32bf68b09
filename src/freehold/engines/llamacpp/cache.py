"""Carries out, on the context, what the scheduler decides about streams and shelf.

The bytes of shelved prefixes are here; which there are, and for whom, the scheduler knows.
"""

from __future__ import annotations

from freehold.domain.engine import CacheLayout
from freehold.engines.llamacpp.binding import Blob, Context
from freehold.engines.llamacpp.prefix import InStream, OnShelf, Shelved, worth_shelving
from freehold.engines.llamacpp.scheduler import Admission, EvictIdle, Move, Preempt, Scheduler
from freehold.engines.llamacpp.sequence import Sequence


class Cache:
    """The cache of one context. Belongs to the loop's thread."""

    def __init__(self, context: Context, scheduler: Scheduler) -> None:
        self._context = context
        self._scheduler = scheduler
        self.blobs: dict[int, Blob] = {}

    def admit(self, admission: Admission, now: float) -> None:
        """Put the prefix that an admission takes over where it is wanted."""
        target, reuse = admission.target, admission.reuse
        # Before shelving, which may push the very prefix from the shelf.
        blob = self.blobs[reuse.source.number] if isinstance(reuse.source, OnShelf) else None
        if admission.shelve:
            self._shelve(target)
        if blob is not None:
            kept = self._restore(target, blob, reuse.keep)
        elif isinstance(reuse.source, InStream) and reuse.source.index != target:
            kept = self._context.copy(reuse.source.index, target, reuse.keep)
        else:
            kept = self._context.truncate(target, reuse.keep)
        self._scheduler.admit(admission, kept=kept, now=now)

    def _restore(self, target: int, blob: Blob, keep: int) -> int:
        """In a shared pool, at the cost of the oldest idle prefixes if need be."""
        while True:
            kept = self._context.restore(target, blob, keep)
            if kept or self._context.layout is CacheLayout.STREAMS:
                return kept
            held = sum(stream.length for stream in self._scheduler.streams)
            crowded = held + keep > self._context.cells  # otherwise room is not what is missing
            if not (crowded and isinstance(self._scheduler.relief(), EvictIdle)):
                return 0
            self.relieve()

    def move(self, move: Move) -> None:
        """Let a running sequence go on in another stream."""
        if move.shelve:
            self._shelve(move.target)
        length = self._scheduler.streams[move.source].length
        kept = self._context.copy(move.source, move.target, length)
        sequence = self._scheduler.streams[move.source].owner
        assert sequence is not None
        self._context.truncate(move.source, 0)
        self._scheduler.moved(move)
        self._scheduler.rolled_back(sequence, kept)

    def relieve(self) -> bool:
        """Give up something so that the next step may fit; False if there is nothing to give."""
        match self._scheduler.relief():
            case EvictIdle(index):
                scheduler = self._scheduler
                if worth_shelving(scheduler.streams[index], scheduler.streams, scheduler.shelf):
                    self._shelve(index)
                scheduler.lost([index])
            case Preempt(sequence):
                index = self._scheduler.preempt(sequence)
            case None:
                return False
        self._context.truncate(index, 0)
        return True

    def roll_back(self, sequence: Sequence) -> None:
        """Back to what a sequence had committed, after a step that was given up."""
        assert sequence.stream is not None
        kept = self._context.truncate(sequence.stream, sequence.committed)
        self._scheduler.rolled_back(sequence, kept)

    def keep_checkpoint(self, sequence: Sequence) -> None:
        """Save what a sequence has committed, if this is one of the places agreed on."""
        if sequence.committed in sequence.checkpoints and sequence.stream is not None:
            sequence.checkpoints.discard(sequence.committed)
            self._shelve(sequence.stream)

    def forget(self, streams: tuple[int, ...]) -> None:
        """What these streams hold is not to be trusted."""
        for stream in streams:
            self._context.truncate(stream, 0)
        self._scheduler.lost(streams)

    def forget_adapter(self, name: str) -> None:
        """Drop every prefix computed with an adapter: another file may come by its name."""
        self.forget(
            tuple(
                stream.index
                for stream in self._scheduler.streams
                if stream.key is not None and stream.key.uses(name)
            )
        )
        for item in [item for item in self._scheduler.shelf if item.key.uses(name)]:
            self._drop(item)

    def _drop(self, item: Shelved) -> None:
        self._scheduler.shelf.remove(item.number)
        del self.blobs[item.number]

    def _shelve(self, index: int) -> None:
        stream, shelf = self._scheduler.streams[index], self._scheduler.shelf
        size = self._context.saved_size(index)
        if stream.key is None or size > shelf.capacity:
            return
        for item in shelf.displaced(stream.content, stream.key, size):
            self._drop(item)
        item = shelf.put(stream.content, stream.key, size)
        self.blobs[item.number] = self._context.save(index)
