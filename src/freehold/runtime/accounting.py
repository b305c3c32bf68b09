"""The end of an answer: counted where operators and keys look, and one line in the log."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from freehold.domain.answers import AnswerUsage
from freehold.runtime.logs import current_request, figures
from freehold.runtime.observing import ModelTally, Reading

log = logging.getLogger(__name__)


class Seen(Reading, Protocol):
    """What was seen of an answer. Times are seconds after its request's arrival."""

    @property
    def first_answer(self) -> float | None: ...


@dataclass(frozen=True)
class Closing:
    """How an answer ended: an end of `EndReason`, ``cancelled``, or the code of an error.

    ``queued`` and ``decode`` are seconds, as in `Timings`; None: it did not come to that.
    """

    identity: str
    end: str
    queued: float | None
    decode: float


@dataclass(frozen=True)
class Account:
    """Where the answers of one request are counted: the model's tally, and whoever asked."""

    model: str
    tally: ModelTally
    reads: Callable[[Reading], None]
    took: Callable[[AnswerUsage], None]

    def open(self, seen: Seen) -> None:
        """One answer begins."""
        self.reads(seen)
        self.tally.reading.add(seen)

    def close(self, closing: Closing, seen: Seen) -> None:
        """Count one answer and log its end."""
        self._count(closing, seen)
        self._log(closing, seen)

    def _count(self, closing: Closing, seen: Seen) -> None:
        used, tally = seen.usage, self.tally
        self.took(used)
        tally.reading.discard(seen)
        tally.answers[closing.end] += 1
        tally.prompt_tokens += used.prompt_tokens
        tally.cached_tokens += used.cached_tokens
        tally.completion_tokens += used.completion_tokens
        tally.reasoning_tokens += used.reasoning_tokens
        tally.prefix_hits += used.cached_tokens > 0
        if seen.first_token is not None:
            tally.first_token.add(seen.first_token)
        if closing.queued is not None:
            tally.queued.add(closing.queued)
        if (asked := current_request()) is not None:
            asked.model = self.model
            asked.prompt_tokens += used.prompt_tokens
            asked.completion_tokens += used.completion_tokens

    def _log(self, closing: Closing, seen: Seen) -> None:
        """For operators: numbers, and nothing of what was said."""
        used, decode = seen.usage, closing.decode
        further = used.completion_tokens - 1
        told = {
            "answer": closing.identity,
            "model": self.model,
            "end": closing.end,
            "prompt_tokens": used.prompt_tokens,
            "cached_tokens": used.cached_tokens,
            "completion_tokens": used.completion_tokens,
            "reasoning_tokens": used.reasoning_tokens,
            "first_token": _figure(seen.first_token),
            "first_answer": _figure(seen.first_answer),
            "tokens_per_second": _figure(further / decode if further > 0 and decode > 0 else None),
        }
        said = " ".join(
            f"{name}={value!r}" if name == "model" else f"{name}={'-' if value is None else value}"
            for name, value in told.items()
        )
        log.info("%s", said, extra=figures(told))


def _figure(measured: float | None) -> float | None:
    return None if measured is None else round(measured, 3)
