"""Which tokens go into the next step. Pure.

Each sequence that decodes puts in the token chosen last, and perhaps a few guesses behind it. What
the step may hold beyond that goes to prompts, oldest first; a short prompt behind a long one gets
up to half of it.
"""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from freehold.domain.engine import CacheLayout
from freehold.engines.llamacpp.drafting import LONGEST
from freehold.engines.llamacpp.pace import Pace
from freehold.engines.llamacpp.prefix import RECOMPUTED
from freehold.engines.llamacpp.sequence import Phase, Sequence
from freehold.engines.llamacpp.tokens import TokenArray


@dataclass(frozen=True, eq=False)
class Work:
    """Put ``tokens`` of ``sequence`` into the cache from position ``start``.

    ``outputs`` of them, the last ones, want logits. ``decodes``: it is a sequence's last chosen
    token, with guesses behind it; otherwise a chunk of prompt, of which ``completes`` says that
    the first token of the answer follows.
    """

    sequence: Sequence
    stream: int
    start: int
    tokens: TokenArray
    outputs: int
    decodes: bool
    completes: bool

    @property
    def draft(self) -> TokenArray:
        return self.tokens[1:] if self.decodes else self.tokens[:0]


class StepLimits(Protocol):
    """The part of `scheduler.Limits` that matters here."""

    @property
    def context(self) -> int: ...
    @property
    def batch(self) -> int: ...
    @property
    def outputs(self) -> int: ...
    @property
    def layout(self) -> CacheLayout: ...
    @property
    def cuttable(self) -> bool: ...
    @property
    def drafts(self) -> bool: ...


def compose(
    group: SequenceOf[Sequence], limits: StepLimits, pace: Pace, unread: int = 1
) -> list[Work]:
    """One step's work for sequences that may share it, while so many prompts are ``unread``."""
    decoding = [sequence for sequence in group if sequence.phase is Phase.DECODE]
    reading = [sequence for sequence in group if sequence.phase is Phase.PREFILL]
    # Rows of logits beyond the one that each sequence may need. Prompts that are to be shown with
    # log-probabilities need many: then nobody guesses.
    spare = limits.outputs - len(decoding) - len(reading)
    shown = any(sequence.wants_prompt_logprobs for sequence in reading)
    work = []
    for sequence in decoding:
        draft = () if shown else _draft(sequence, len(decoding), spare, limits, pace)
        item = _decode(sequence, draft)
        spare -= len(item.draft)
        work.append(item)
    rows = sum(len(item.tokens) for item in work)
    budget = min(pace.chunk(rows, unread), limits.batch - rows)
    for sequence, count in _chunks(reading, budget):
        item = _read(sequence, count, spare + 1)
        spare -= max(0, item.outputs - 1)
        work.append(item)
    return work


def _decode(sequence: Sequence, draft: tuple[int, ...]) -> Work:
    assert sequence.stream is not None
    tokens = np.array([sequence.tokens[-1], *draft], dtype=np.int32)
    return Work(
        sequence,
        sequence.stream,
        sequence.committed,
        tokens,
        outputs=len(tokens),
        decodes=True,
        completes=True,
    )


def _draft(
    sequence: Sequence, decoding: int, spare: int, limits: StepLimits, pace: Pace
) -> tuple[int, ...]:
    """Guesses for a sequence, if they are expected to save time."""
    if not (limits.drafts and limits.cuttable):
        return ()
    room = min(
        spare,
        sequence.request.max_tokens - sequence.completion_tokens - 1,
        limits.context - len(sequence.tokens) - 1,
    )
    chance = sequence.drafter.chance()
    if chance is None:
        return ()
    # In streams, rows of one sequence that others have no counterpart for are a batch of their own.
    apart = limits.layout is CacheLayout.STREAMS and decoding > 1
    length = pace.draft_length(decoding, chance, min(room, LONGEST), apart=apart)
    return sequence.drafter.draft(length)


def _chunks(reading: SequenceOf[Sequence], budget: int) -> list[tuple[Sequence, int]]:
    """How much of each prompt is read, oldest first."""
    if not reading or budget < 1:
        return []
    oldest, others = reading[0], reading[1:]
    short = [sequence for sequence in others if 2 * sequence.remaining <= budget]
    reserved = min(budget // 2, sum(sequence.remaining for sequence in short))
    chunks = []
    for sequence in (oldest, *short, *(other for other in others if other not in short)):
        free = budget - (reserved if sequence is oldest else 0)
        count = _whole_enough(sequence, min(sequence.remaining, free))
        if count:
            chunks.append((sequence, count))
            budget -= count
    return chunks


def _whole_enough(sequence: Sequence, count: int) -> int:
    """``count``, or fewer so that a checkpoint is met and no rest is left that is too small.

    The end of a prompt is read in a chunk of at least `RECOMPUTED` tokens, see there.
    """
    ahead = [at for at in sequence.checkpoints if at > sequence.committed]
    if ahead:
        return min(count, min(ahead) - sequence.committed)
    rest = sequence.remaining - count
    if 0 < rest < RECOMPUTED:
        count -= RECOMPUTED - rest
    return max(0, count)


def _read(sequence: Sequence, count: int, rows: int) -> Work:
    """``rows`` of logits at most; at least one token is read."""
    assert sequence.stream is not None
    if sequence.wants_prompt_logprobs:
        count = min(count, rows)
        count = _whole_enough(sequence, count) or count
    tokens = sequence.tokens.array[sequence.committed : sequence.committed + count].copy()
    completes = count == sequence.remaining
    outputs = count if sequence.wants_prompt_logprobs else int(completes)
    return Work(
        sequence,
        sequence.stream,
        sequence.committed,
        tokens,
        outputs=outputs,
        decodes=False,
        completes=completes,
    )
