"""The wire between the gateway and a worker.

gateway                                    worker
   │  ◀───────────────────────── Ready ──── │
   │  ── Load ────────────────────────────▶ │
   │  ◀──────── Loading* Loaded | Refused ─ │
   │  ── Generate / Cancel ───────────────▶ │   any number, any time
   │  ◀─────────────────────────── Step* ── │   one per step at most, merged when slow
   │  ── AddAdapter / RemoveAdapter ──────▶ │
   │  ◀───────────────────── AdapterReply ─ │   one for each
   │  ── Embed / Cancel ──────────────────▶ │
   │  ◀──────────────────────── Embedded* ─ │   some vectors each, in the order of the inputs
   │  ── Inspect ─────────────────────────▶ │
   │  ◀───────────────────────── Inspected ─ │
"""

from __future__ import annotations

from freehold.domain.chat import EmbedRequest, GenerateRequest
from freehold.domain.errors import FreeholdError, InvalidRequest
from freehold.domain.events import Finished, PromptProcessed, PromptRead, TokenLogprob
from freehold.engines.base import Adapter, EngineConfig
from freehold.process.frames import PROTOCOL_VERSION, Message


class Ready(Message, frozen=True):
    """The worker's first word."""

    version: int = PROTOCOL_VERSION


class Load(Message, frozen=True):
    """Load one model, once."""

    config: EngineConfig


class Loading(Message, frozen=True):
    """How much of the weights has been read, from 0 to 1."""

    progress: float


class Loaded(Message, frozen=True):
    """``context`` is what each sequence really has: never more than the model was trained for.

    ``generates`` and ``embeds``: what the model can do; at least one of them.
    """

    context: int
    description: str
    generates: bool
    embeds: bool


class Refused(Message, frozen=True):
    """The model could not be loaded; the worker ends."""

    message: str
    hint: str | None


class Generate(Message, frozen=True):
    request: GenerateRequest


class Cancel(Message, frozen=True):
    """Stop a request and free its sequence; unknown ids are ignored."""

    request_id: str


class Embed(Message, frozen=True):
    request: EmbedRequest


class Embedded(Message, frozen=True):
    """The next vectors of a request: each of length 1, as 32-bit floats, little endian."""

    request_id: str
    vectors: tuple[bytes, ...] = ()
    failed: Failure | None = None


class AddAdapter(Message, frozen=True):
    adapter: Adapter


class RemoveAdapter(Message, frozen=True):
    name: str


class AdapterReply(Message, frozen=True):
    """``refused`` None: it is done."""

    name: str
    refused: Failure | None = None


class Inspect(Message, frozen=True):
    """Ask what the engine has been doing."""


class Share(Message, frozen=True):
    """What steps of one kind did: ``rows`` are of answers, ``tokens`` of prompts; ``seconds`` from
    handing a batch over to having its logits.
    """

    steps: int = 0
    seconds: float = 0.0
    rows: int = 0
    tokens: int = 0


class Inspected(Message, frozen=True):
    """Since the worker began, in seconds and counts.

    ``decode_seconds`` were spent in llama.cpp's ``llama_decode``. ``answering`` steps held
    nothing but rows of answers, ``reading`` ones nothing but prompts, ``mixed`` ones both.
    ``held_tokens`` are in streams now, ``shelved_bytes`` in host memory.
    """

    decode_seconds: float
    answering: Share
    mixed: Share
    reading: Share
    drafted_tokens: int
    accepted_tokens: int
    preemptions: int
    running: int
    waiting: int
    held_tokens: int
    shelved_bytes: int

    @property
    def steps(self) -> int:
        return self.answering.steps + self.mixed.steps + self.reading.steps

    @property
    def decoded_rows(self) -> int:
        return self.answering.rows + self.mixed.rows

    @property
    def prompt_tokens(self) -> int:
        return self.mixed.tokens + self.reading.tokens


class Failure(Message, frozen=True):
    """The engine could not go on; ``message`` is a sentence for people.

    ``field`` names the part of the request that is to blame, where one is.
    """

    message: str
    field: str | None = None


def failure_of(error: FreeholdError) -> Failure:
    field = error.field if isinstance(error, InvalidRequest) else None
    return Failure(message=error.message, field=field)


class SequenceDelta(Message, frozen=True):
    """What happened to one sequence since the last frame, in the order of the fields."""

    request_id: str
    read: PromptRead | None = None
    processed: PromptProcessed | None = None
    text: str = ""
    tokens: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    finished: Finished | None = None
    failed: Failure | None = None

    def then(self, later: SequenceDelta) -> SequenceDelta:
        """This delta and a later one of the same request as one."""
        return SequenceDelta(
            request_id=self.request_id,
            read=later.read or self.read,
            processed=self.processed or later.processed,
            text=self.text + later.text,
            tokens=self.tokens + later.tokens,
            logprobs=self.logprobs + later.logprobs,
            finished=later.finished,
            failed=later.failed,
        )


class Step(Message, frozen=True):
    """Every sequence that moved."""

    deltas: tuple[SequenceDelta, ...]


FromGateway = Load | Generate | Embed | Cancel | AddAdapter | RemoveAdapter | Inspect
FromWorker = Ready | Loading | Loaded | Refused | Step | Embedded | AdapterReply | Inspected
