"""A profile: the settings that were measured to be best for one model on one computer.

    profiles/<weights digest>.json      written by `freehold tune`, used by `run` and `serve`

It holds for one weights digest, one computer (`Computer.fingerprint`) and one native build; where
one of them has changed it is not used, and the user is told once.
"""

from __future__ import annotations

import msgspec

from freehold.domain.engine import CacheConfig

PROFILE_FORMAT = 1


class EngineSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What tuning may change without changing an answer beyond rounding."""

    cache: CacheConfig
    threads: int
    micro_batch: int
    repack: bool = True


class Measured(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Tokens per second, as measured: at which depth, with how many sequences."""

    depth: int
    sequences: int
    prefill: float
    decode: float


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``source`` is the digest the user named; ``weights`` the digest that is run instead (the
    same where the format was left as it is). ``loss`` is the mean KL divergence between them.
    """

    source: str
    weights: str
    computer: str
    build: str
    measured_at: str
    settings: EngineSettings
    before: tuple[Measured, ...] = ()
    after: tuple[Measured, ...] = ()
    loss: float | None = None
    format: int = PROFILE_FORMAT
