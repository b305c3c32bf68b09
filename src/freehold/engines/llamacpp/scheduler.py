"""What the next step does: decided here, done in `loop`. Pure; no device, no clock.

    admissions()  waiting requests, free slots → who starts where; `admit` records it
    plan()        running sequences → one step's work; `commit` records it

Every running sequence decodes one token in every step. What remains of the step's
token budget goes to prompts, oldest first, in chunks; a waiting request is admitted when
a slot is free, in order of arrival.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from freehold.engines.llamacpp import prefix
from freehold.engines.llamacpp.prefix import Slot
from freehold.engines.llamacpp.sequence import Phase, Sequence


@dataclass(frozen=True)
class Work:
    """Put ``tokens`` of ``sequence`` into the cache from position ``start``.

    ``wants_logits``: the last of them is followed by a choice.
    """

    sequence: Sequence
    slot: int
    start: int
    tokens: tuple[int, ...]
    wants_logits: bool


@dataclass(frozen=True)
class Admission:
    """A sequence takes a slot of which it keeps the first ``keep`` tokens."""

    sequence: Sequence
    slot: int
    keep: int


class Scheduler:
    """The sequences and slots of one context. ``budget`` is tokens per step."""

    def __init__(self, slots: int, budget: int) -> None:
        self.slots = [Slot(index) for index in range(slots)]
        self.sequences: list[Sequence] = []
        self._budget = budget
        self._uses = 0

    def add(self, sequence: Sequence) -> None:
        self.sequences.append(sequence)

    def find(self, request_id: str) -> Sequence | None:
        return next(
            (known for known in self.sequences if known.request.request_id == request_id), None
        )

    def admissions(self) -> tuple[Admission, ...]:
        """Who may start now, in order of arrival. Does not change anything."""
        taken: set[int] = set()
        admissions: list[Admission] = []
        for sequence in self.sequences:
            if sequence.phase is not Phase.WAITING:
                continue
            request = sequence.request
            free = [slot for slot in self.slots if slot.index not in taken]
            slot = prefix.choose(free, request.prompt, request.cache_scope)
            if slot is None:
                break
            keep = prefix.reusable(slot, request.prompt, request.cache_scope)
            admissions.append(Admission(sequence, slot.index, keep))
            taken.add(slot.index)
        return tuple(admissions)

    def plan(self) -> tuple[Work, ...]:
        """The next step's work. Does not change anything."""
        decodes = [
            Work(sequence, sequence.slot, sequence.committed, (sequence.tokens[-1],), True)
            for sequence in self.sequences
            if sequence.phase is Phase.DECODE and sequence.slot is not None
        ]
        budget = self._budget - len(decodes)
        prefills: list[Work] = []
        for sequence in self.sequences:
            if sequence.phase is not Phase.PREFILL or sequence.slot is None or budget <= 0:
                continue
            start = sequence.committed
            chunk = tuple(sequence.tokens[start : start + budget])
            whole = start + len(chunk) == len(sequence.tokens)
            prefills.append(Work(sequence, sequence.slot, start, chunk, wants_logits=whole))
            budget -= len(chunk)
        return (*decodes, *prefills)

    def admit(self, admission: Admission, *, kept: int, now: float) -> None:
        """Record that the slot was taken and ``kept`` of its tokens could be kept."""
        sequence, slot = admission.sequence, self.slots[admission.slot]
        self._uses += 1
        slot.busy, slot.last_used = True, self._uses
        slot.scope = sequence.request.cache_scope
        del slot.tokens[kept:]
        sequence.slot = slot.index
        sequence.phase = Phase.PREFILL
        sequence.committed = sequence.cached_tokens = kept
        sequence.admitted_at = now

    def commit(self, work: Work) -> None:
        """Record that the tokens of ``work`` are in the cache."""
        self.slots[work.slot].tokens.extend(work.tokens)
        work.sequence.committed += len(work.tokens)
        if work.wants_logits:
            work.sequence.phase = Phase.DECODE

    def release(self, sequence: Sequence) -> None:
        """Forget a sequence; what it committed stays in its slot as cache."""
        if sequence.slot is not None:
            slot = self.slots[sequence.slot]
            slot.busy = False
            del slot.tokens[sequence.committed :]
        self.sequences.remove(sequence)

    def clear(self, slots: Iterable[int]) -> None:
        """The cache of these slots was lost or emptied."""
        for index in slots:
            self.slots[index].tokens.clear()
