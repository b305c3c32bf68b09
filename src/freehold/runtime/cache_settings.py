"""The key-value cache as the settings have it."""

from __future__ import annotations

from freehold.domain.engine import CacheConfig, CacheLayout, CacheType
from freehold.domain.settings import Settings


def cache_config(settings: Settings) -> CacheConfig:
    kind = CacheType(settings.cache_type)
    return CacheConfig(
        layout=CacheLayout(settings.cache_layout),
        key_type=kind,
        value_type=kind,
        flash_attention=settings.flash_attention,
        cells=settings.cells,
        host_bytes=settings.prefix_memory * 1024 * 1024,
    )
