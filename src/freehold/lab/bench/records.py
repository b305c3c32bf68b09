"""What is kept of each request, and the limits it may be held to. Times in ms, moments in s."""

from __future__ import annotations

import enum

import msgspec

from freehold.lab.bench.answer import Answer
from freehold.lab.bench.statistics import gaps, time_per_token


class Outcome(enum.StrEnum):
    """``refused``: the server said not now (429, 503). ``cancelled``: the run was ended."""

    COMPLETED = "completed"
    REFUSED = "refused"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One request.

    ``sent_s`` and ``ended_s`` are seconds since the stage began. ``late_ms``: sent so much after
    its arrival was due, the connection included (None in a closed loop). ``ttft_ms`` is to the
    first piece of text, ``ttfa_ms`` to the first that is no reasoning, both from sending.
    ``counted_by_server`` False: ``completion_tokens`` are the pieces that came.
    """

    number: int
    outcome: Outcome
    sent_s: float
    ended_s: float
    wanted_tokens: int
    connecting_ms: float = 0.0
    late_ms: float | None = None
    ttft_ms: float | None = None
    ttfa_ms: float | None = None
    reasoned: bool = False
    gaps_ms: tuple[float, ...] = ()
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    completion_tokens: int = 0
    reasoning_tokens: int | None = None
    counted_by_server: bool = True
    finish: str | None = None
    status: int | None = None
    error: str | None = None

    @property
    def tpot_ms(self) -> float | None:
        return time_per_token(self.gaps_ms, self.completion_tokens)


def record(
    number: int,
    outcome: Outcome,
    answer: Answer,
    *,
    began: float,
    now: float,
    wanted: int,
    due: float | None = None,
    status: int | None = None,
    error: str | None = None,
) -> Record:
    """What is kept of ``answer``. ``began`` (of the stage), ``now`` and ``due`` by one clock."""
    sent = answer.sent if answer.sent is not None else now
    first = answer.chunks[0] - sent if answer.chunks else None
    content = answer.first_content - sent if answer.first_content is not None else None
    counted = answer.completion_tokens is not None
    return Record(
        number=number,
        outcome=outcome,
        sent_s=round(sent - began, 6),
        ended_s=round(now - began, 6),
        wanted_tokens=wanted,
        connecting_ms=_milliseconds(answer.connecting),
        late_ms=None if due is None else _milliseconds(sent - due),
        ttft_ms=None if first is None else _milliseconds(first),
        ttfa_ms=None if content is None else _milliseconds(content),
        reasoned=answer.reasoned,
        gaps_ms=tuple(map(_milliseconds, gaps(answer.chunks))),
        prompt_tokens=answer.prompt_tokens,
        cached_tokens=answer.cached_tokens,
        completion_tokens=(
            answer.completion_tokens if answer.completion_tokens is not None else len(answer.chunks)
        ),
        reasoning_tokens=answer.reasoning_tokens,
        counted_by_server=counted,
        finish=answer.finish,
        status=status,
        error=error,
    )


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 3)


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a good answer keeps to: its first token, the mean time per token, its longest gap."""

    ttft_ms: float | None = None
    tpot_ms: float | None = None
    itl_ms: float | None = None

    @property
    def given(self) -> bool:
        return self != Limits()

    def met(self, record: Record) -> bool:
        """Whether a completed answer kept to all of them; one of no text keeps to none."""
        if record.outcome is not Outcome.COMPLETED or record.ttft_ms is None:
            return False
        longest = max(record.gaps_ms, default=0.0)
        pairs = (
            (record.ttft_ms, self.ttft_ms),
            (record.tpot_ms or 0.0, self.tpot_ms),
            (longest, self.itl_ms),
        )
        return all(most is None or value <= most for value, most in pairs)

    def __str__(self) -> str:
        named = (("TTFT", self.ttft_ms), ("TPOT", self.tpot_ms), ("every gap", self.itl_ms))
        return ", ".join(f"{name} ≤ {most:g} ms" for name, most in named if most is not None)
