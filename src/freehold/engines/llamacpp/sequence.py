"""One sequence: a request on its way through the context."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from freehold.domain.chat import AdapterUse, GenerateRequest
from freehold.engines.llamacpp.drafting import Drafter
from freehold.engines.llamacpp.tokens import TokenLog


class Phase(enum.Enum):
    """Where a sequence is.

    COMPILING ──grammar ready──▶ WAITING ──admit──▶ PREFILL ──prompt done──▶ DECODE
                                    ▲                  │                        │
                                    └──── preempted ───┴────────────────────────┤
        any ──cancel──▶ gone                                     gone ◀── end ──┘

    One without a constraint begins in WAITING. A preempted one comes back with all its
    tokens, answer included, and reads them as a prompt.
    """

    COMPILING = "compiling"
    WAITING = "waiting"
    PREFILL = "prefill"
    DECODE = "decode"


@dataclass(frozen=True)
class PrefixKey:
    """Whose cached tokens may be shared: those of one scope, computed with the same adapters."""

    scope: str
    adapters: tuple[AdapterUse, ...]

    def uses(self, adapter: str) -> bool:
        return any(use.name == adapter for use in self.adapters)


@dataclass(eq=False)
class Sequence:
    """``committed`` of ``tokens`` are in the cache, in stream ``stream``.

    Invariant: ``committed < len(tokens)`` while it runs; in `DECODE` exactly one token is not
    committed, the one chosen last. ``arrived``, ``admitted_at`` and ``first_token_at`` are
    seconds of the monotonic clock. ``checkpoints`` are positions at which the state is to be
    saved, for models whose memory cannot be cut. ``shared`` of its tokens it has in
    common with ``shares_with``, a running one it took them over from.
    """

    request: GenerateRequest
    arrived: float
    phase: Phase = Phase.WAITING
    stream: int | None = None
    committed: int = 0
    cached_tokens: int = 0
    shared: int = 0
    shares_with: Sequence | None = None
    admitted_at: float | None = None
    first_token_at: float | None = None
    checkpoints: set[int] = field(default_factory=set)
    tokens: TokenLog = field(init=False)
    drafter: Drafter = field(init=False)
    key: PrefixKey = field(init=False)

    def __post_init__(self) -> None:
        self.tokens = TokenLog(self.request.prompt)
        self.drafter = Drafter(self.request.prompt)
        self.key = PrefixKey(self.request.cache_scope, self.request.adapters)

    @property
    def prompt_tokens(self) -> int:
        return len(self.request.prompt)

    @property
    def completion_tokens(self) -> int:
        return len(self.tokens) - self.prompt_tokens

    @property
    def remaining(self) -> int:
        """Tokens that are known and not in the cache yet."""
        return len(self.tokens) - self.committed

    @property
    def wants_prompt_logprobs(self) -> bool:
        """Whether every position of the prompt must be computed, and shown, by this request."""
        return self.request.prompt_logprobs is not None and self.first_token_at is None
