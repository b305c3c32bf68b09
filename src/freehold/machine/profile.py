"""A profile: the settings that were measured to be best for one model on one computer.

    profiles/<weights digest>.json      written by `freehold tune`, used by `run` and `serve`

It holds for one weights digest, one computer (`Computer.fingerprint`) and one native build; where
one of them has changed it is not used, and the user is told once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

import msgspec

from freehold.domain.engine import Affinity, CacheConfig, CacheLayout

PROFILE_FORMAT: Literal[1] = 1


class EngineSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What tuning may change without changing an answer beyond rounding.

    Of ``cache`` only layout, types and flash attention are meant: how much of it there is, is the
    user's to say.
    """

    cache: CacheConfig
    threads: int
    micro_batch: int
    repack: bool = True
    affinity: Affinity = Affinity.FREE

    @property
    def text(self) -> str:
        """``streams f16, no flash, micro-batch 256, 2 threads, plain kernels``."""
        cache = self.cache
        layout = "unified" if cache.layout is CacheLayout.UNIFIED else "streams"
        words = [
            f"{layout} {cache.key_type.value}",
            "flash" if cache.flash_attention else "no flash",
            f"micro-batch {self.micro_batch}",
            f"{self.threads} threads"
            + (" on a core each" if self.affinity is Affinity.CORES else ""),
        ]
        if not self.repack:
            words.append("plain kernels")
        return ", ".join(words)


class Speeds(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Tokens per second: reading a prompt, and decoding behind it (``deep``), in an empty context
    (``empty``), and with several sequences at once behind short prompts (``many``, all together).
    """

    prefill: float
    empty: float
    deep: float
    many: float


# The stated mix: reading prompts, answering short questions, answering behind a long text, and
# answering several people at once.
WEIGHTS: Mapping[str, float] = MappingProxyType(
    {"prefill": 0.3, "empty": 0.25, "deep": 0.25, "many": 0.2}
)


def score(speeds: Speeds, baseline: Speeds) -> float:
    """The geometric mean of the ratios to the baseline's speeds, weighted by `WEIGHTS`: twice as
    fast at everything is 2, and no unit matters."""
    return math.exp(
        sum(
            weight * math.log(getattr(speeds, part) / getattr(baseline, part))
            for part, weight in WEIGHTS.items()
        )
    )


class Loss(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How far other weights are from those they were made of, on ``tokens`` of the bundled text.

    ``divergence`` is the mean KL divergence in nats, ``agreement`` the part of the tokens at which
    both would have said the same. Each ``_error`` is one standard error; that of the perplexity is
    of its ratio to ``source_perplexity``.
    """

    tokens: int
    divergence: float
    divergence_error: float
    agreement: float
    agreement_error: float
    source_perplexity: float
    perplexity: float
    perplexity_error: float


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``source`` is the digest the user named; ``weights`` the digest that is run instead, in
    ``quantisation`` and with ``loss`` (both None where the weights were left as they are).

    ``before`` and ``after`` were measured in turns, ``depth`` tokens deep and with ``users``
    sequences. ``measured_at`` is ISO 8601 in UTC; ``version`` is ours.
    """

    source: str
    weights: str
    computer: str
    build: str
    measured_at: str
    version: str
    settings: EngineSettings
    depth: int
    users: int
    before: Speeds
    after: Speeds
    quantisation: str | None = None
    loss: Loss | None = None
    format: Literal[1] = PROFILE_FORMAT

    @property
    def gain(self) -> float:
        """How many times as fast as the untuned model, by `score`."""
        return score(self.after, self.before)

    @property
    def date(self) -> str:
        return self.measured_at[:10]
