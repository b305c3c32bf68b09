"""What `freehold tune` found for a model, as programs see it. Pure."""

from __future__ import annotations

from pydantic import BaseModel

from freehold.machine.profile import EngineSettings, Profile


class SettingsShown(BaseModel):
    """``affinity``: ``free``, or ``cores`` where each thread has a core of its own."""

    cache_layout: str
    key_type: str
    value_type: str
    flash_attention: bool
    threads: int
    affinity: str
    micro_batch: int
    repack: bool


class ProfileShown(BaseModel):
    """``quantisation`` null: the weights are as they are. ``gain`` is against the untuned model,
    ``divergence`` what other weights lose: the mean KL divergence in nats, null where nothing but
    rounding differs. ``objection``: why it is not used; null: it is.
    """

    quantisation: str | None
    settings: SettingsShown
    measured_at: str
    gain: float
    divergence: float | None
    objection: str | None = None


def profile_shown(profile: Profile, objection: str | None = None) -> ProfileShown:
    return ProfileShown(
        quantisation=profile.quantisation,
        settings=settings_shown(profile.settings),
        measured_at=profile.measured_at,
        gain=profile.gain,
        divergence=profile.loss.divergence if profile.loss else None,
        objection=objection,
    )


def settings_shown(settings: EngineSettings) -> SettingsShown:
    cache = settings.cache
    return SettingsShown(
        cache_layout=cache.layout.value,
        key_type=cache.key_type.value,
        value_type=cache.value_type.value,
        flash_attention=cache.flash_attention,
        threads=settings.threads,
        affinity=settings.affinity.value,
        micro_batch=settings.micro_batch,
        repack=settings.repack,
    )
