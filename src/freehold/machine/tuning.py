"""What a search for the best profile found, whole: every finalist with its speed and its loss.

    state/tuned/<weights digest>.json      written by `freehold tune` when it ends

Nothing is run by it, that is the profile's part; it is for whoever wants to see the frontier again.
"""

from __future__ import annotations

import msgspec

from freehold.machine.profile import EngineSettings, Loss, Profile, Speeds


class TunedPoint(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One finalist. ``weights`` None: as they are; ``loss`` None: nothing but rounding differs.

    ``gain`` is against the untuned model. ``admissible``: within the loss allowed, and slower at
    nothing; ``on_frontier``: nobody beats it at both speed and loss.
    """

    weights: str | None
    settings: EngineSettings
    tokens_per_second: Speeds
    gain: float
    loss: Loss | None
    admissible: bool
    on_frontier: bool
    chosen: bool


class Tuning(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``model`` as it was called; ``max_loss`` was allowed, a mean KL divergence in nats."""

    model: str
    max_loss: float
    baseline: TunedPoint
    points: tuple[TunedPoint, ...]
    profile: Profile
