"""One sequence: a request on its way through the context."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from freehold.domain.chat import GenerateRequest


class Phase(enum.Enum):
    """Where a sequence is.

    WAITING ──admit──▶ PREFILL ──prompt done──▶ DECODE
       │                  │                        │
       └────cancel────────┴──── cancel or end ─────┴──▶ gone
    """

    WAITING = "waiting"
    PREFILL = "prefill"
    DECODE = "decode"


@dataclass
class Sequence:
    """``committed`` tokens are in the cache of ``slot``; ``tokens`` are all that are known.

    Invariant: ``committed <= len(tokens)``; in `DECODE` exactly one token is not
    committed yet, the one chosen last.
    """

    request: GenerateRequest
    arrived: float
    tokens: list[int] = field(default_factory=list)
    phase: Phase = Phase.WAITING
    slot: int | None = None
    committed: int = 0
    cached_tokens: int = 0
    admitted_at: float = 0.0
    first_token_at: float = 0.0

    def __post_init__(self) -> None:
        self.tokens = list(self.request.prompt)

    @property
    def prompt_tokens(self) -> int:
        return len(self.request.prompt)

    @property
    def completion_tokens(self) -> int:
        return len(self.tokens) - len(self.request.prompt)
