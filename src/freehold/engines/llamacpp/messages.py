"""The wire between the gateway and a worker.

gateway                                    worker
   │  ◀───────────────────────── Ready ──── │
   │  ── Load ────────────────────────────▶ │
   │  ◀──────── Loading* Loaded | Refused ─ │
   │  ── Generate / Cancel ───────────────▶ │   any number, any time
   │  ◀─────────────────────────── Step* ── │   one per step at most, merged when slow
"""

from __future__ import annotations

from freehold.domain.chat import GenerateRequest
from freehold.domain.events import Finished, PromptProcessed
from freehold.engines.base import EngineConfig
from freehold.process.frames import PROTOCOL_VERSION, Message


class Ready(Message, frozen=True):
    """The worker's first word."""

    version: int = PROTOCOL_VERSION


class Load(Message, frozen=True):
    """Load one model, once."""

    config: EngineConfig


class Loaded(Message, frozen=True):
    """``context`` is what each sequence really has: never more than the model was trained for."""

    context: int
    description: str


class Refused(Message, frozen=True):
    """The model could not be loaded; the worker ends."""

    message: str
    hint: str | None


class Generate(Message, frozen=True):
    request: GenerateRequest


class Cancel(Message, frozen=True):
    """Stop a request and free its sequence; unknown ids are ignored."""

    request_id: str


class Failure(Message, frozen=True):
    """The engine could not go on with a request; ``message`` is a sentence for people."""

    message: str


class SequenceDelta(Message, frozen=True):
    """What happened to one sequence since the last frame, in the order of the fields."""

    request_id: str
    processed: PromptProcessed | None = None
    text: str = ""
    tokens: tuple[int, ...] = ()
    finished: Finished | None = None
    failed: Failure | None = None

    def then(self, later: SequenceDelta) -> SequenceDelta:
        """This delta and a later one of the same request as one."""
        return SequenceDelta(
            request_id=self.request_id,
            processed=self.processed or later.processed,
            text=self.text + later.text,
            tokens=self.tokens + later.tokens,
            finished=later.finished,
            failed=later.failed,
        )


class Step(Message, frozen=True):
    """Every sequence that moved."""

    deltas: tuple[SequenceDelta, ...]


FromGateway = Load | Generate | Cancel
FromWorker = Ready | Loaded | Refused | Step
