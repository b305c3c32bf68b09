"""A profile: the settings that were measured to be best for one model on one computer.

    profiles/<weights digest>.json      written by `freehold tune`, used by `run` and `serve`

It holds for one weights digest, one computer (`Computer.fingerprint`) and one native build; where
one of them has changed it is not used, and the user is told once.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from freehold.domain.engine import CacheConfig

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


class Speeds(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Tokens per second: reading a prompt, and decoding behind it (``deep``), in an empty context
    (``empty``), and with several sequences at once behind short prompts (``many``, all together).
    """

    prefill: float
    empty: float
    deep: float
    many: float


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
    def date(self) -> str:
        return self.measured_at[:10]
