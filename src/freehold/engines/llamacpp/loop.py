"""The one thread that owns the context.

drain → admit → plan → decode → sample → commit → emit, for ever
"""

from __future__ import annotations

import logging
import queue
import secrets
import time
from dataclasses import dataclass

from freehold.domain.chat import GenerateRequest
from freehold.domain.errors import EngineError
from freehold.domain.events import Finished, FinishReason, PromptProcessed, Timings, Usage
from freehold.engines.llamacpp.answer import Answer, Spoken
from freehold.engines.llamacpp.binding import BATCH_TOKENS, Context, Entry
from freehold.engines.llamacpp.messages import (
    Cancel,
    Failure,
    FromGateway,
    Generate,
    SequenceDelta,
)
from freehold.engines.llamacpp.outbox import Outbox
from freehold.engines.llamacpp.sampling import Logits, Sampler
from freehold.engines.llamacpp.scheduler import Scheduler, Work
from freehold.engines.llamacpp.sequence import Sequence

log = logging.getLogger(__name__)


@dataclass
class _Voice:
    """What a sequence needs beside its place in the schedule."""

    answer: Answer
    sampler: Sampler


class Loop:
    """Runs every request of one model. ``inbox`` is filled by the receiver thread; None ends it."""

    def __init__(
        self,
        context: Context,
        slots: int,
        inbox: queue.SimpleQueue[FromGateway | None],
        outbox: Outbox,
    ) -> None:
        self._context = context
        self._scheduler = Scheduler(slots, BATCH_TOKENS)
        self._inbox = inbox
        self._outbox = outbox
        self._voices: dict[str, _Voice] = {}

    def run(self) -> None:
        while self._drain():
            self._admit()
            work = self._scheduler.plan()
            if not work:
                continue
            try:
                logits = iter(self._context.decode([_entry(item) for item in work]))
            except EngineError as error:
                self._fail(work, error)
                continue
            for item in work:
                self._scheduler.commit(item)
                if item.wants_logits:
                    self._advance(item.sequence, next(logits))
            if self._outbox.stalled():
                self._abandon_all()

    # drain

    def _drain(self) -> bool:
        """Take every waiting command; wait for one if there is nothing else to do."""
        idle = not self._scheduler.sequences
        while True:
            try:
                command = self._inbox.get(block=idle)
            except queue.Empty:
                return True
            idle = False
            match command:
                case None:
                    return False
                case Generate(request):
                    self._begin(request)
                case Cancel(request_id):
                    self._cancel(request_id)
                case _:
                    log.error("unexpected message %s", type(command).__name__)

    def _begin(self, request: GenerateRequest) -> None:
        self._scheduler.add(Sequence(request, arrived=time.monotonic()))
        self._voices[request.request_id] = _Voice(
            Answer(request), Sampler(request.sampling, secrets.randbits(31))
        )

    def _cancel(self, request_id: str) -> None:
        sequence = self._scheduler.find(request_id)
        if sequence is not None:
            self._release(sequence)

    # admit

    def _admit(self) -> None:
        for admission in self._scheduler.admissions():
            kept = self._context.truncate(admission.slot, admission.keep)
            self._scheduler.admit(admission, kept=kept, now=time.monotonic())

    # sample, emit

    def _advance(self, sequence: Sequence, logits: Logits) -> None:
        """Choose the sequence's next token and say what follows from it."""
        voice = self._voices[sequence.request.request_id]
        token = voice.sampler.choose(logits)
        processed = None
        if not sequence.first_token_at:
            sequence.first_token_at = time.monotonic()
            processed = PromptProcessed(sequence.prompt_tokens, sequence.cached_tokens)
        if self._context.vocabulary.is_end(token):
            self._say(sequence, voice.answer.end(FinishReason.STOP), (), processed)
            return
        sequence.tokens.append(token)
        spoken = voice.answer.speak(self._context.vocabulary.piece(token))
        if spoken.reason is None and self._at_limit(sequence):
            rest = voice.answer.end(FinishReason.LENGTH)
            spoken = Spoken(spoken.text + rest.text, rest.reason)
        self._say(sequence, spoken, (token,), processed)

    def _at_limit(self, sequence: Sequence) -> bool:
        return (
            sequence.completion_tokens >= sequence.request.max_tokens
            or len(sequence.tokens) >= self._context.context
        )

    def _say(
        self,
        sequence: Sequence,
        spoken: Spoken,
        tokens: tuple[int, ...],
        processed: PromptProcessed | None,
    ) -> None:
        finished = self._finished(sequence, spoken.reason) if spoken.reason else None
        self._outbox.post(
            SequenceDelta(
                request_id=sequence.request.request_id,
                processed=processed,
                text=spoken.text,
                tokens=tokens,
                finished=finished,
            )
        )
        if finished:
            self._release(sequence)

    def _finished(self, sequence: Sequence, reason: FinishReason) -> Finished:
        now = time.monotonic()
        return Finished(
            reason=reason,
            usage=Usage(
                prompt_tokens=sequence.prompt_tokens,
                cached_tokens=sequence.cached_tokens,
                completion_tokens=sequence.completion_tokens,
            ),
            timings=Timings(
                queued=sequence.admitted_at - sequence.arrived,
                prefill=sequence.first_token_at - sequence.admitted_at,
                decode=now - sequence.first_token_at,
            ),
            seed=self._voices[sequence.request.request_id].sampler.seed,
        )

    # ends

    def _release(self, sequence: Sequence) -> None:
        del self._voices[sequence.request.request_id]
        self._scheduler.release(sequence)

    def _fail(self, work: tuple[Work, ...], error: EngineError) -> None:
        """A step failed: its sequences end, and what their slots hold is not trusted."""
        log.error("%s", error)
        for sequence in {id(item.sequence): item.sequence for item in work}.values():
            self._outbox.post(
                SequenceDelta(
                    request_id=sequence.request.request_id,
                    failed=Failure(message=error.message),
                )
            )
            self._release(sequence)
        slots = {item.slot for item in work}
        for slot in slots:
            self._context.truncate(slot, 0)
        self._scheduler.clear(slots)

    def _abandon_all(self) -> None:
        log.error("the gateway has stopped reading; %d streams end", len(self._voices))
        failure = Failure(message="The answer was not read for too long and has been stopped.")
        for sequence in tuple(self._scheduler.sequences):
            self._outbox.post(SequenceDelta(request_id=sequence.request.request_id, failed=failure))
            self._release(sequence)


def _entry(work: Work) -> Entry:
    return Entry(work.slot, work.start, work.tokens, work.wants_logits)
