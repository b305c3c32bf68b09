"""What the next step does: decided here, done in `loop`. Pure; no device, no clock.

    next_admission()  a waiting request, a place and a source → `admit` records it
    due_move()        a gap among the streams that run → `moved` records it
    plan()            running sequences → one step's work → `commit` records it
    relief()          the device has no room → whose cells to give up

There are no prefill steps and no decode steps: every running sequence decodes in every step, and
what time is left under the target latency reads prompts, in chunks (`pace`). A request is
admitted when there is time to read it and a place; it takes over the longest prefix that anyone
holds, and waits for one that another request is just computing. Sequences with different adapters
cannot share a step: groups of equal adapters take turns.
"""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass

from freehold.domain.chat import AdapterUse
from freehold.domain.engine import CacheLayout
from freehold.engines.llamacpp import batching
from freehold.engines.llamacpp.batching import Work
from freehold.engines.llamacpp.pace import Pace
from freehold.engines.llamacpp.prefix import (
    RECOMPUTED,
    WORTH_SAVING,
    InStream,
    OnShelf,
    Reuse,
    Shelf,
    Stream,
    best_reuse,
    worth_shelving,
)
from freehold.engines.llamacpp.sequence import Phase, Sequence
from freehold.engines.llamacpp.tokens import common_prefix

# Steps a group of sequences with the same adapters has before another group's turn.
TURN_STEPS = 8
# Cells kept free for each running sequence when another is admitted to a shared cache.
HEADROOM = 32


@dataclass(frozen=True)
class Limits:
    """What the context can do.

    ``streams`` sequence ids, of which ``parallel`` may run; ``context`` tokens a sequence can hold;
    ``cells`` tokens all of them can hold together; ``batch`` tokens and ``outputs`` rows of logits
    in a step. ``cuttable`` memory can forget the end of a sequence. ``drafts`` allows speculation.
    """

    streams: int
    parallel: int
    context: int
    cells: int
    batch: int
    outputs: int
    layout: CacheLayout = CacheLayout.STREAMS
    cuttable: bool = True
    drafts: bool = True


@dataclass(frozen=True)
class Admission:
    """``sequence`` starts in stream ``target``, with what ``reuse`` says.

    ``shelve``: what an earlier sequence left in the target is saved to host memory first.
    """

    sequence: Sequence
    target: int
    reuse: Reuse
    shelve: bool


@dataclass(frozen=True)
class Move:
    """The sequence in stream ``source`` goes on in ``target``."""

    source: int
    target: int
    shelve: bool


@dataclass(frozen=True)
class Step:
    """One decode: ``work`` in ascending order of streams, all with the same ``adapters``."""

    work: tuple[Work, ...]
    adapters: tuple[AdapterUse, ...] = ()

    @property
    def rows(self) -> int:
        """Tokens of sequences that are decoding."""
        return sum(len(item.tokens) for item in self.work if item.decodes)

    @property
    def prompt_tokens(self) -> int:
        return sum(len(item.tokens) for item in self.work if not item.decodes)


@dataclass(frozen=True)
class EvictIdle:
    """Give up what a finished sequence left in a stream."""

    stream: int


@dataclass(frozen=True)
class Preempt:
    """Take the cells of a running sequence; it is computed again later."""

    sequence: Sequence


Relief = EvictIdle | Preempt


class Scheduler:
    """The sequences, streams and shelved prefixes of one context."""

    def __init__(self, limits: Limits, pace: Pace, shelf: Shelf) -> None:
        self.limits = limits
        self.pace = pace
        self.shelf = shelf
        self.streams = [Stream(index) for index in range(limits.streams)]
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []
        self._uses = 0
        self._adapters: tuple[AdapterUse, ...] = ()
        self._turn = self._steps = 0
        self._served: dict[tuple[AdapterUse, ...], int] = {}
        self._gap_seen = False
        # Somebody had to go for want of room, and nobody has ended since: admitting one now would
        # only take the room from those for whom it was made.
        self._pressed = False
        self.preemptions = 0

    # Requests

    @property
    def sequences(self) -> tuple[Sequence, ...]:
        return (*self.running, *self.waiting)

    def add(self, sequence: Sequence) -> None:
        if not self.limits.cuttable:
            self._agree_on_checkpoints(sequence)
        self.waiting.append(sequence)

    def find(self, request_id: str) -> Sequence | None:
        return next(
            (known for known in self.sequences if known.request.request_id == request_id), None
        )

    def _agree_on_checkpoints(self, sequence: Sequence) -> None:
        """Where memory cannot be cut, save it where a repetition or a sibling will need it."""
        sequence.checkpoints.add(max(0, sequence.prompt_tokens - RECOMPUTED))
        for other in self.sequences:
            if other.key != sequence.key:
                continue
            shared = common_prefix(other.tokens.array, sequence.tokens.array)
            last = min(other.prompt_tokens, sequence.prompt_tokens) - RECOMPUTED
            if max(other.committed + 1, WORTH_SAVING) <= shared <= last:
                other.checkpoints.add(shared)

    # Admission

    def next_admission(self) -> Admission | None:
        """Who starts now. Does not change anything; repeat after `admit`."""
        if len(self.running) >= self.limits.parallel or (self._pressed and self.running):
            return None
        chunk = self.pace.chunk(self._decoding_rows, self._unread)
        unread = [s.remaining for s in self.running if s.phase is Phase.PREFILL]
        if sum(unread) >= chunk and len(unread) != 1:
            return None
        for sequence in self.waiting:
            if sequence.phase is Phase.COMPILING:
                continue
            reuse = self._reuse(sequence)
            if not self._has_room(sequence, reuse):
                return None  # nobody overtakes it: it would wait for ever
            if self._is_being_computed(sequence, reuse):
                continue
            cost = len(sequence.tokens) - reuse.keep
            # A short prompt need not wait for a long one to be read, but one at a time.
            overtakes = len(unread) == 1 and 2 * cost <= min(chunk, unread[0])
            if sum(unread) < chunk or overtakes:
                return self._place(sequence, reuse)
        return None

    @property
    def _decoding_rows(self) -> int:
        return sum(1 for sequence in self.running if sequence.phase is Phase.DECODE)

    @property
    def _unread(self) -> int:
        """Requests whose prompt waits to be read, or is being read."""
        reading = sum(1 for sequence in self.running if sequence.phase is Phase.PREFILL)
        return reading + sum(1 for s in self.waiting if s.phase is Phase.WAITING)

    def _reuse(self, sequence: Sequence) -> Reuse:
        if sequence.wants_prompt_logprobs:
            return Reuse()
        return best_reuse(
            sequence.tokens.array,
            sequence.key,
            self.streams,
            self.shelf,
            cuttable=self.limits.cuttable,
        )

    def _is_being_computed(self, sequence: Sequence, reuse: Reuse) -> bool:
        """Whether a running sequence will soon hold more of this prompt than anybody does now."""
        if sequence.wants_prompt_logprobs:
            return False
        for other in self.running:
            if other.phase is not Phase.PREFILL or other.key != sequence.key:
                continue
            shared = common_prefix(other.tokens.array, sequence.tokens.array)
            shared = min(shared, len(sequence.tokens) - RECOMPUTED)
            if not self.limits.cuttable and shared not in other.checkpoints:
                continue
            if shared > other.committed and shared >= reuse.keep + WORTH_SAVING:
                return True
        return False

    def _has_room(self, sequence: Sequence, reuse: Reuse) -> bool:
        """Whether a shared cache is likely to hold it beside those that run.

        An estimate: what several sequences share is counted once for those that took it over
        from a running one. The device has the last word (`relief`).
        """
        if self.limits.layout is CacheLayout.STREAMS or not self.running:
            return True
        held = sum(
            len(other.tokens) - (other.shared if other.shares_with else 0) + HEADROOM
            for other in self.running
        )
        source = reuse.source
        borrowed = isinstance(source, InStream) and self.streams[source.index].owner is not None
        own = len(sequence.tokens) - (reuse.keep if borrowed else 0)
        return held + own + HEADROOM <= self.limits.cells

    def _place(self, sequence: Sequence, reuse: Reuse) -> Admission:
        """Where it runs: beside the others, without a gap, and if possible on its own prefix."""
        free = [stream for stream in self.streams if stream.owner is None]
        if self.limits.layout is CacheLayout.STREAMS:
            free = [stream for stream in free if stream.index <= len(self.running)]
        if isinstance(reuse.source, InStream) and self.streams[reuse.source.index] in free:
            target, stays = self.streams[reuse.source.index], reuse.keep
        else:
            target, stays = min(free, key=lambda stream: (stream.length, stream.last_used)), 0
        shelve = target.length - stays >= WORTH_SAVING and worth_shelving(
            target, self.streams, self.shelf
        )
        return Admission(sequence, target.index, reuse, shelve)

    def admit(self, admission: Admission, *, kept: int, now: float) -> None:
        """Record that it runs there, and how many tokens of its prefix could be kept."""
        sequence, stream = admission.sequence, self.streams[admission.target]
        source = admission.reuse.source
        if isinstance(source, InStream) and source.index != stream.index:
            sequence.shared, sequence.shares_with = kept, self.streams[source.index].owner
        self._use(stream)
        if isinstance(source, InStream):
            self._use(self.streams[source.index])
        elif isinstance(source, OnShelf) and kept:
            self.shelf.touch(source.number)
        stream.tokens, stream.length, stream.key = sequence.tokens, kept, sequence.key
        stream.owner = sequence
        sequence.stream, sequence.phase, sequence.committed = stream.index, Phase.PREFILL, kept
        if sequence.admitted_at is None:
            sequence.admitted_at = now
        if sequence.first_token_at is None:
            sequence.cached_tokens = kept
        self.waiting.remove(sequence)
        self.running.append(sequence)
        self.running.sort(key=lambda running: running.arrived)

    def _use(self, stream: Stream) -> None:
        self._uses += 1
        stream.last_used = self._uses

    # Compaction

    def due_move(self) -> Move | None:
        """Close a gap among the running streams that nobody is coming to fill.

        llama.cpp batches only consecutive streams. A gap that is new is left alone for one
        step: whoever finished there may come back with the next turn.
        """
        if self.limits.layout is not CacheLayout.STREAMS or not self.running:
            return None
        last = max(s.stream for s in self.running if s.stream is not None)
        gap = last >= len(self.running)
        was_seen, self._gap_seen = self._gap_seen, gap
        if not gap or not was_seen:
            return None
        target = next(stream for stream in self.streams if stream.owner is None)
        return Move(last, target.index, worth_shelving(target, self.streams, self.shelf))

    def moved(self, move: Move) -> None:
        """Record a move; nothing is left in the source."""
        source, target = self.streams[move.source], self.streams[move.target]
        assert source.owner is not None
        target.tokens, target.length, target.key = source.tokens, source.length, source.key
        target.owner, source.owner = source.owner, None
        target.owner.stream = target.index
        self._use(target)
        source.empty()
        self._gap_seen = False

    # Steps

    def plan(self) -> Step:
        """The next step's work. Does not change anything."""
        adapters = self._next_adapters()
        group = [sequence for sequence in self.running if sequence.request.adapters == adapters]
        work = batching.compose(group, self.limits, self.pace, self._unread)
        return Step(tuple(sorted(work, key=lambda item: item.stream)), adapters)

    @property
    def _groups(self) -> list[tuple[AdapterUse, ...]]:
        """The adapter sets of the running sequences, in order of arrival."""
        return list(dict.fromkeys(sequence.request.adapters for sequence in self.running))

    def _next_adapters(self) -> tuple[AdapterUse, ...]:
        """Whose turn it is: the present group until its turn is over, then who waited longest."""
        groups = self._groups
        if not groups:
            return ()
        if self._adapters in groups and self._turn < TURN_STEPS:
            return self._adapters
        return min(groups, key=lambda group: self._served.get(group, self._steps))

    def timed(self, step: Step, seconds: float) -> None:
        """Learn from how long a step's decode took."""
        lengths = {len(work.tokens) for work in step.work}
        # In streams, work of unequal lengths runs as several batches; that says nothing of one.
        uneven = self.limits.layout is CacheLayout.STREAMS and len(lengths) > 1
        if step.prompt_tokens or not uneven:
            self.pace.observe(step.rows, step.prompt_tokens, seconds)

    def stepped(self, step: Step) -> None:
        """Record that a step was done, for the turns of the groups."""
        self._turn = self._turn % TURN_STEPS + 1 if step.adapters == self._adapters else 1
        self._adapters = step.adapters
        self._steps += 1
        # A group that is new waits from now on; one that has gone is forgotten.
        self._served = {group: self._served.get(group, self._steps) for group in self._groups}
        self._served[step.adapters] = self._steps

    def commit(self, work: Work, count: int) -> None:
        """Record that the first ``count`` tokens of ``work`` are in the cache for good."""
        sequence = work.sequence
        sequence.committed = work.start + count
        self.streams[work.stream].length = sequence.committed
        if work.completes:
            sequence.phase = Phase.DECODE

    # Ends

    def release(self, sequence: Sequence) -> None:
        """Forget a sequence; what it committed stays in its stream until the room is needed."""
        if sequence.stream is None:
            self.waiting.remove(sequence)
            return
        self._vacate(sequence)
        self._pressed = False

    def _vacate(self, sequence: Sequence) -> Stream:
        assert sequence.stream is not None
        stream = self.streams[sequence.stream]
        stream.owner, stream.length = None, sequence.committed
        self._use(stream)
        self.running.remove(sequence)
        sequence.stream = None
        self._bequeath(sequence)
        return stream

    def _bequeath(self, sequence: Sequence) -> None:
        """What others share with a sequence that leaves is counted for one of them from now on."""
        heirs = [other for other in self.running if other.shares_with is sequence]
        if heirs:
            first = max(heirs, key=lambda heir: heir.shared)
            for other in heirs:
                other.shares_with = first
            first.shared, first.shares_with = 0, None
        sequence.shared, sequence.shares_with = 0, None

    def relief(self) -> Relief | None:
        """What to give up so that a step fits: the oldest idle prefix, else the newest sequence.

        None: there is one sequence left and nothing else to give up.
        """
        idle = [stream for stream in self.streams if stream.owner is None and stream.length]
        if idle:
            return EvictIdle(min(idle, key=lambda stream: stream.last_used).index)
        if len(self.running) > 1:
            return Preempt(max(self.running, key=lambda sequence: sequence.arrived))
        return None

    def preempt(self, sequence: Sequence) -> int:
        """Send a running sequence back to wait, in its old place. Returns the stream it leaves."""
        stream = self._vacate(sequence)
        stream.empty()
        sequence.phase, sequence.committed = Phase.WAITING, 0
        self.preemptions += 1
        self._pressed = True
        self.waiting.append(sequence)
        self.waiting.sort(key=lambda waiting: waiting.arrived)
        return stream.index

    def rolled_back(self, sequence: Sequence, kept: int) -> None:
        """A step was given up, and ``kept`` of the sequence's tokens are in the cache still.

        Where that is less than it had committed, it reads the rest again.
        """
        assert sequence.stream is not None
        if kept < sequence.committed:
            sequence.phase = Phase.PREFILL
        sequence.committed = self.streams[sequence.stream].length = kept
        if sequence.first_token_at is None:
            sequence.cached_tokens = min(sequence.cached_tokens, kept)

    def lost(self, streams: SequenceOf[int]) -> None:
        """What these streams held is gone, or not to be trusted."""
        for index in streams:
            self.streams[index].empty()
