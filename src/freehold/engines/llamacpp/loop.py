"""The one thread that owns the context.

drain → admit → plan → decode → sample → commit → emit, for ever
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Iterator
from collections.abc import Sequence as SequenceOf

from freehold.domain.chat import GenerateRequest
from freehold.domain.errors import EngineError, FreeholdError, InvalidRequest
from freehold.domain.events import (
    Finished,
    FinishReason,
    PromptProcessed,
    PromptRead,
    Timings,
    Usage,
)
from freehold.engines.base import EngineConfig
from freehold.engines.llamacpp.adapters import Adapters
from freehold.engines.llamacpp.batching import Work
from freehold.engines.llamacpp.binding import BATCH_TOKENS, Aborted, Context, Entry, NoRoom
from freehold.engines.llamacpp.cache import Cache
from freehold.engines.llamacpp.embedding import Embedder
from freehold.engines.llamacpp.grammars import Grammars
from freehold.engines.llamacpp.inbox import Closed, Compiled, Inbox
from freehold.engines.llamacpp.messages import (
    AdapterReply,
    AddAdapter,
    Cancel,
    Embed,
    Failure,
    Generate,
    Inspect,
    RemoveAdapter,
    SequenceDelta,
    failure_of,
)
from freehold.engines.llamacpp.outbox import Outbox
from freehold.engines.llamacpp.pace import Pace
from freehold.engines.llamacpp.prefix import Shelf
from freehold.engines.llamacpp.sampling import Logits
from freehold.engines.llamacpp.scheduler import Limits, Scheduler, Step
from freehold.engines.llamacpp.sequence import Phase, Sequence
from freehold.engines.llamacpp.tally import Tally
from freehold.engines.llamacpp.voice import Said, Voice

log = logging.getLogger(__name__)


class Loop:
    """Runs every request of one model. The receiver thread fills ``inbox``; `Closed` ends it.

    ``embedder`` takes turns with generating, if the model embeds.
    """

    def __init__(
        self,
        context: Context,
        config: EngineConfig,
        inbox: Inbox,
        outbox: Outbox,
        embedder: Embedder | None = None,
    ) -> None:
        self._context = context
        self._embedder = embedder
        self.scheduler = Scheduler(
            _limits(context, config),
            Pace(config.latency),
            Shelf(config.cache.host_bytes, cuttable=context.cuttable),
        )
        self.cache = Cache(context, self.scheduler)
        self._adapters = Adapters(context)
        self._grammars = Grammars(context.vocabulary, inbox)
        self._inbox = inbox
        self._outbox = outbox
        self._voices: dict[str, Voice] = {}
        self._deltas: list[SequenceDelta] = []
        self._tally = Tally()

    def run(self) -> None:
        while self.drain(wait=True):
            self.step()

    def step(self) -> None:
        """One turn: admit, plan, decode, sample, commit, emit; then some embedding."""
        began = time.monotonic()
        self._admit()
        step = self.scheduler.plan()
        if step.work:
            rows = self._decode(step)
            if rows is not None:
                for work in step.work:
                    self._advance(work, [next(rows) for _ in range(work.outputs)])
                self.scheduler.stepped(step)
        self._emit()
        if self._embedder is not None:
            alone = not self.scheduler.sequences
            self._embedder.turn(None if alone else time.monotonic() - began)

    # drain

    def drain(self, *, wait: bool) -> bool:
        """Take every command that is there; ``wait`` for one if there is nothing else to do.

        False: nothing more will come.
        """
        while True:
            idle = all(s.phase is Phase.COMPILING for s in self.scheduler.sequences) and not (
                self._embedder is not None and self._embedder.busy
            )
            item = self._inbox.get(wait=wait and idle)
            match item:
                case None:
                    return True
                case Closed():
                    return False
                case Generate(request):
                    self._begin(request)
                case Embed(wanted) if self._embedder is not None:
                    self._embedder.add(wanted)
                case Cancel(request_id):
                    self._cancel(request_id)
                case Compiled():
                    self._constrain(item)
                case AddAdapter() | RemoveAdapter():
                    self._change_adapters(item)
                case Inspect():
                    self._outbox.answer(
                        self._tally.report(self.scheduler, self._context.decode_seconds)
                    )
                case _:
                    log.error("unexpected message %s", type(item).__name__)
            self._emit()

    def _begin(self, request: GenerateRequest) -> None:
        try:
            self._adapters.require(request.adapters)
            voice = Voice(request, self._context.vocabulary, secrets.randbits(31))
        except InvalidRequest as error:
            self._deltas.append(_failed(request.request_id, error))
            return
        self._voices[request.request_id] = voice
        sequence = Sequence(request, arrived=time.monotonic())
        if request.constraint is not None:
            sequence.phase = Phase.COMPILING
            self._grammars.compile(request)
        self.scheduler.add(sequence)

    def _constrain(self, compiled: Compiled) -> None:
        sequence = self.scheduler.find(compiled.request_id)
        if sequence is None:  # cancelled meanwhile
            return
        if isinstance(compiled.outcome, Failure):
            self._deltas.append(
                SequenceDelta(request_id=compiled.request_id, failed=compiled.outcome)
            )
            self._release(sequence)
            return
        self._voices[compiled.request_id].matcher = compiled.outcome
        sequence.phase = Phase.WAITING

    def _cancel(self, request_id: str) -> None:
        if self._embedder is not None:
            self._embedder.cancel(request_id)
        sequence = self.scheduler.find(request_id)
        if sequence is not None:
            self._release(sequence)

    def _change_adapters(self, command: AddAdapter | RemoveAdapter) -> None:
        name = command.name if isinstance(command, RemoveAdapter) else command.adapter.name
        refused = None
        try:
            if isinstance(command, AddAdapter):
                self._adapters.add(command.adapter)
            else:
                self._require_unused(name)
                self._adapters.remove(name)
                self.cache.forget_adapter(name)
        except FreeholdError as error:
            refused = failure_of(error)
        self._outbox.answer(AdapterReply(name=name, refused=refused))

    def _require_unused(self, name: str) -> None:
        users = sum(sequence.key.uses(name) for sequence in self.scheduler.sequences)
        if users:
            raise InvalidRequest(
                f"The adapter {name!r} is in use ({users} running or waiting); repeat when "
                "they have ended.",
                field="adapters",
            )

    # admit

    def _admit(self) -> None:
        while (admission := self.scheduler.next_admission()) is not None:
            self.cache.admit(admission, time.monotonic())
        move = self.scheduler.due_move()
        if move is not None:
            self.cache.move(move)

    # decode

    def _decode(self, step: Step) -> Iterator[Logits] | None:
        """The step's rows of logits; None if it did not come to that, and why is dealt with."""
        self._adapters.apply(step.adapters)
        entries = [Entry(work.stream, work.start, work.tokens, work.outputs) for work in step.work]
        ids = [work.sequence.request.request_id for work in step.work]
        # Asking costs time, so only steps that may be long are asked about.
        abort = None if step.rows else lambda: self._inbox.all_cancelled(ids)
        began = time.monotonic()
        try:
            rows = self._context.decode(entries, abort)
        except NoRoom:
            if not self.cache.relieve():
                self._fail(step, EngineError("The cache has no room for this request."))
            return None
        except Aborted:
            for work in step.work:
                self.cache.roll_back(work.sequence)
            return None
        except EngineError as error:
            self._fail(step, error)
            return None
        seconds = time.monotonic() - began
        self.scheduler.timed(step, seconds)
        self._tally.step(step, seconds)
        return iter(rows)

    def _fail(self, step: Step, error: EngineError) -> None:
        """A step failed: its sequences end, and what their streams hold is not trusted."""
        log.error("%s", error)
        for work in step.work:
            self._deltas.append(_failed(work.sequence.request.request_id, error))
            self._release(work.sequence)
        self.cache.forget(tuple(work.stream for work in step.work))

    # sample, commit

    def _advance(self, work: Work, rows: SequenceOf[Logits]) -> None:
        """Say what follows from a piece of work, and commit what of it is in the cache for good."""
        sequence = work.sequence
        voice = self._voices[sequence.request.request_id]
        if not work.decodes and sequence.wants_prompt_logprobs:
            end = work.start + len(work.tokens) + 1
            voice.hear(work.start, rows, sequence.tokens.array[work.start + 1 : end])
        if not work.completes:
            self.scheduler.commit(work, len(work.tokens))
            self.cache.keep_checkpoint(sequence)
            self._tell_reading(sequence)
            return
        spoken_rows = rows if work.decodes else rows[-1:]
        try:
            said = voice.say(spoken_rows, work.draft, self._room(sequence))
        except (EngineError, InvalidRequest) as error:
            self._deltas.append(_failed(sequence.request.request_id, error))
            self.scheduler.commit(work, len(work.tokens) - len(work.draft))
            self._settle(work, 0)
            self._release(sequence)
            return
        self.scheduler.commit(work, len(work.tokens) - len(work.draft) + said.matched)
        self._settle(work, said.matched)
        self._tell(sequence, said)

    def _settle(self, work: Work, matched: int) -> None:
        """Take wrong guesses out of the cache, and learn from them."""
        drafted = len(work.draft)
        if not drafted:
            return
        if matched < drafted:
            self.cache.roll_back(work.sequence)
        work.sequence.drafter.learn(drafted, matched)
        self._tally.drafted(drafted, matched)

    def _room(self, sequence: Sequence) -> int:
        """How many more tokens the answer may have."""
        return min(
            sequence.request.max_tokens - sequence.completion_tokens,
            self._context.context - len(sequence.tokens),
        )

    # emit

    def _tell_reading(self, sequence: Sequence) -> None:
        """How far its prompt has been read; not of one that is read again, to make room."""
        if sequence.first_token_at is None:
            read = PromptRead(sequence.committed, sequence.prompt_tokens)
            self._deltas.append(SequenceDelta(sequence.request.request_id, read=read))

    def _tell(self, sequence: Sequence, said: Said) -> None:
        voice = self._voices[sequence.request.request_id]
        processed = None
        if sequence.first_token_at is None:
            processed = PromptProcessed(
                sequence.prompt_tokens, sequence.cached_tokens, voice.heard()
            )
            sequence.first_token_at = time.monotonic()
        for token in said.tokens:
            sequence.tokens.append(token)
            sequence.drafter.append(token)
        finished = self._finished(sequence, said.reason) if said.reason else None
        self._deltas.append(
            SequenceDelta(
                request_id=sequence.request.request_id,
                processed=processed,
                text=said.text,
                tokens=said.tokens,
                logprobs=said.logprobs,
                finished=finished,
            )
        )
        if finished:
            self._release(sequence)

    def _finished(self, sequence: Sequence, reason: FinishReason) -> Finished:
        voice, now = self._voices[sequence.request.request_id], time.monotonic()
        admitted = sequence.admitted_at or now
        first = sequence.first_token_at or now
        return Finished(
            reason=reason,
            usage=Usage(
                prompt_tokens=sequence.prompt_tokens,
                cached_tokens=sequence.cached_tokens,
                completion_tokens=sequence.completion_tokens,
            ),
            timings=Timings(
                queued=admitted - sequence.arrived, prefill=first - admitted, decode=now - first
            ),
            seed=voice.sampler.seed,
            stop=voice.stop,
        )

    def _emit(self) -> None:
        """Send what the step had to say. A gateway that has stopped reading ends every stream."""
        self._outbox.post(self._deltas)
        self._deltas = []
        if self._outbox.stalled():
            self._abandon_all()

    # ends

    def _release(self, sequence: Sequence) -> None:
        del self._voices[sequence.request.request_id]
        self.scheduler.release(sequence)

    def _abandon_all(self) -> None:
        if not self._voices:
            return
        log.error("the gateway has stopped reading; %d streams end", len(self._voices))
        failure = Failure(message="The answer was not read for too long and has been stopped.")
        sequences = self.scheduler.sequences
        self._outbox.post(
            [SequenceDelta(request_id=s.request.request_id, failed=failure) for s in sequences]
        )
        for sequence in sequences:
            self._release(sequence)


def _limits(context: Context, config: EngineConfig) -> Limits:
    return Limits(
        streams=context.streams,
        parallel=config.parallel,
        context=context.context,
        cells=context.cells,
        batch=BATCH_TOKENS,
        outputs=context.outputs,
        layout=context.layout,
        cuttable=context.cuttable,
        drafts=config.drafts,
    )


def _failed(request_id: str, error: FreeholdError) -> SequenceDelta:
    return SequenceDelta(request_id=request_id, failed=failure_of(error))
