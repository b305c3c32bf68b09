"""Texts to vectors, in slices between the steps of generating.

requests ──one input of each in turn──▶ group ──slices──▶ vectors

An encoder, and every model whose pooling needs all of a text at once, computes a group in one
call. A decoder reads a group piece by piece into a cache of its own, then all last tokens together.
"""

from __future__ import annotations

import collections
import logging
import time
from dataclasses import dataclass

import numpy as np

from freehold.domain.chat import EmbedRequest
from freehold.domain.errors import EngineError, InvalidRequest
from freehold.engines.base import EngineConfig
from freehold.engines.llamacpp.binding import (
    BATCH_TOKENS,
    EmbeddingContext,
    Entry,
    Model,
    Pooling,
    Vector,
)
from freehold.engines.llamacpp.inbox import Closed, Inbox
from freehold.engines.llamacpp.messages import (
    AdapterReply,
    AddAdapter,
    Cancel,
    Embed,
    Embedded,
    Failure,
    Inspect,
    Inspected,
    RemoveAdapter,
    Share,
    failure_of,
)
from freehold.engines.llamacpp.outbox import Outbox
from freehold.engines.llamacpp.tokens import TokenArray

log = logging.getLogger(__name__)

# Texts that are computed together: each has a row in the call that gives the vectors, and
# decoders give a row of logits with it.
WHOLE_TEXTS, SLICED_TEXTS = 64, 16
# Tokens of the first slice beside running sequences, before anything was measured; and of any.
FIRST_SLICE, SMALLEST_SLICE = 64, 16
# However long the step before it took, a slice may take this share of the target latency.
LEAST_SHARE = 0.25
# Weight of what was known of the speed against one more slice.
MEMORY = 0.7


@dataclass(eq=False)
class _Job:
    """A request; ``begun`` of its inputs are computed, or in the group."""

    request: EmbedRequest
    begun: int = 0


@dataclass(eq=False)
class _Text:
    """One input in the group; ``read`` of its tokens are in the cache."""

    job: _Job
    stream: int
    tokens: TokenArray
    read: int = 0


class Embedder:
    """Embeds for every request of one model; belongs to the loop's thread.

    The context is made when it is first needed, and made anew for a longer text. ``cached``: the
    model is a decoder.
    """

    def __init__(
        self, model: Model, config: EngineConfig, pooling: Pooling, outbox: Outbox, *, cached: bool
    ) -> None:
        self._model = model
        self._config = config
        self._pooling = pooling
        self._sliced = cached and pooling is Pooling.LAST
        self._texts = WHOLE_TEXTS if not self._sliced else 1 if model.stateful else SLICED_TEXTS
        self._outbox = outbox
        self._context: EmbeddingContext | None = None
        self._jobs: collections.deque[_Job] = collections.deque()
        self._group: list[_Text] = []
        self._rate: float | None = None  # tokens a second

    @property
    def busy(self) -> bool:
        return bool(self._jobs or self._group)

    def add(self, request: EmbedRequest) -> None:
        size = self._model.vocabulary.size
        bad = [token for tokens in request.inputs for token in tokens if not 0 <= token < size]
        if bad:
            error = InvalidRequest(
                f"There is no token {bad[0]}; this model has {size}.", field="input"
            )
            self._fail(request.request_id, failure_of(error))
            return
        self._jobs.append(_Job(request))

    def cancel(self, request_id: str) -> None:
        """Drop what of a request has not been computed."""
        self._jobs = collections.deque(
            job for job in self._jobs if job.request.request_id != request_id
        )
        self._drop([text for text in self._group if text.job.request.request_id == request_id])

    def turn(self, spent: float | None) -> None:
        """Compute one slice, if there is anything to do.

        ``spent``: seconds that the sequences beside it have waited already; None: there are none.
        """
        limit = self._limit(spent)
        try:
            if not self._group:
                self._group = self._take(BATCH_TOKENS if self._sliced else limit)
            if self._group:
                self._compute(limit)
        except EngineError as error:
            log.error("%s", error)
            self._abandon(failure_of(error))

    def close(self) -> None:
        if self._context is not None:
            self._context.close()
            self._context = None

    # Slices

    def _limit(self, spent: float | None) -> int:
        """How many tokens to compute now."""
        if spent is None:
            return BATCH_TOKENS
        if self._rate is None:
            return FIRST_SLICE
        latency = self._config.latency
        seconds = max(latency - spent, LEAST_SHARE * latency)
        return min(max(SMALLEST_SLICE, int(seconds * self._rate)), BATCH_TOKENS)

    def _take(self, limit: int) -> list[_Text]:
        """The next inputs, one of each request in turn: ``limit`` tokens, or one longer text."""
        group: list[_Text] = []
        total = 0
        while self._jobs and len(group) < self._texts:
            job = self._jobs[0]
            tokens = job.request.inputs[job.begun]
            total += len(tokens)
            if group and total > limit:
                break
            group.append(_Text(job, len(group), np.array(tokens, dtype=np.int32)))
            job.begun += 1
            self._jobs.popleft()
            if job.begun < len(job.request.inputs):
                self._jobs.append(job)
        return group

    def _ready(self, tokens: int) -> EmbeddingContext:
        """A context with room for so many."""
        if self._context is None or self._context.room < tokens:
            self.close()
            room = BATCH_TOKENS
            while room < tokens:
                room *= 2
            self._context = EmbeddingContext(
                self._model,
                self._config.threads,
                self._pooling,
                sliced=self._sliced,
                texts=self._texts,
                room=room,
            )
        return self._context

    def _compute(self, limit: int) -> None:
        context = self._ready(sum(len(text.tokens) for text in self._group))
        began = time.monotonic()
        if not self._sliced:
            vectors = context.embed(
                [Entry(t.stream, 0, t.tokens, len(t.tokens)) for t in self._group]
            )
            self._timed(sum(len(text.tokens) for text in self._group), began)
            self._tell(vectors)
            return
        entries = self._unread(limit)
        if entries:
            context.read(entries)
            self._timed(sum(len(entry.tokens) for entry in entries), began)
        if all(text.read == len(text.tokens) - 1 for text in self._group):
            self._tell(
                context.embed([Entry(t.stream, t.read, t.tokens[-1:], 1) for t in self._group])
            )

    def _unread(self, limit: int) -> list[Entry]:
        """What to read next: all but the last token of each text, ``limit`` tokens at most."""
        entries = []
        for text in self._group:
            end = min(len(text.tokens) - 1, text.read + limit)
            if end > text.read:
                entries.append(Entry(text.stream, text.read, text.tokens[text.read : end], 0))
                limit -= end - text.read
                text.read = end
        return entries

    def _timed(self, tokens: int, began: float) -> None:
        rate = tokens / max(time.monotonic() - began, 1e-6)
        known = self._rate
        self._rate = rate if known is None else MEMORY * known + (1 - MEMORY) * rate

    # What becomes of the group

    def _tell(self, vectors: list[Vector]) -> None:
        found: dict[str, list[bytes]] = {}
        spoilt: dict[str, EngineError] = {}
        for text, vector in zip(self._group, vectors, strict=True):
            request_id = text.job.request.request_id
            try:
                found.setdefault(request_id, []).append(_normalised(vector))
            except EngineError as error:
                spoilt[request_id] = error
        self._group = []
        for request_id, those in found.items():
            if request_id not in spoilt:
                self._outbox.answer(Embedded(request_id=request_id, vectors=tuple(those)))
        for request_id, reason in spoilt.items():
            log.error("%s", reason)
            self.cancel(request_id)
            self._fail(request_id, failure_of(reason))

    def _drop(self, texts: list[_Text]) -> None:
        if not texts:
            return
        self._group = [text for text in self._group if text not in texts]
        if not self._group and self._context is not None:
            self._context.clear()

    def _abandon(self, failure: Failure) -> None:
        """The group failed: so have the requests it belongs to, and the context is not trusted."""
        failed = dict.fromkeys(text.job.request.request_id for text in self._group)
        self.close()
        self._group = []
        for request_id in failed:
            self.cancel(request_id)
            self._fail(request_id, failure)

    def _fail(self, request_id: str, failure: Failure) -> None:
        self._outbox.answer(Embedded(request_id=request_id, failed=failure))


def _normalised(vector: Vector) -> bytes:
    """Of length 1, as it travels. Raises `EngineError` for what has no direction."""
    length = float(np.linalg.norm(vector.astype(np.float64)))
    if not np.isfinite(length) or length == 0.0:
        raise EngineError("The model gave a vector without a direction.")
    return (vector / np.float32(length)).astype("<f4").tobytes()


class EmbeddingLoop:
    """The one thread of a model that only embeds."""

    def __init__(self, embedder: Embedder, inbox: Inbox, outbox: Outbox) -> None:
        self._embedder = embedder
        self._inbox = inbox
        self._outbox = outbox

    def run(self) -> None:
        while self._drain():
            self._embedder.turn(None)

    def _drain(self) -> bool:
        """Take every command that is there. False: nothing more will come."""
        while True:
            item = self._inbox.get(wait=not self._embedder.busy)
            match item:
                case None:
                    return True
                case Closed():
                    return False
                case Embed(request):
                    self._embedder.add(request)
                case Cancel(request_id):
                    self._embedder.cancel(request_id)
                case AddAdapter() | RemoveAdapter():
                    self._refuse_adapters(item)
                case Inspect():
                    self._outbox.answer(_NOTHING)
                case _:
                    log.error("unexpected message %s", type(item).__name__)

    def _refuse_adapters(self, command: AddAdapter | RemoveAdapter) -> None:
        name = command.name if isinstance(command, RemoveAdapter) else command.adapter.name
        refused = Failure(message="This model has no adapters: it only embeds.", field="adapters")
        self._outbox.answer(AdapterReply(name=name, refused=refused))


# What a model that only embeds has generated.
_NOTHING = Inspected(
    decode_seconds=0.0,
    answering=Share(),
    mixed=Share(),
    reading=Share(),
    drafted_tokens=0,
    accepted_tokens=0,
    preemptions=0,
    running=0,
    waiting=0,
    held_tokens=0,
    shelved_bytes=0,
)
