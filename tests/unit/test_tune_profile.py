"""How a profile and what a person set go together."""

from __future__ import annotations

from pathlib import Path

import pytest

from freehold.domain.engine import Affinity, CacheConfig, CacheType, Kernels
from freehold.domain.settings import Settings, resolve
from freehold.engines.base import EngineConfig
from freehold.machine.profile import EngineSettings, Profile, Speeds
from freehold.runtime.profiles import Here, Profiles, apply

MEASURED = EngineSettings(
    CacheConfig(key_type=CacheType.Q8_0, value_type=CacheType.Q8_0, flash_attention=True),
    threads=3,
    micro_batch=128,
    repack=False,
    affinity=Affinity.CORES,
)
SPEED = Speeds(1, 1, 1, 1)
PROFILE = Profile(
    *("a" * 64, "a" * 64, "computer", "build", "2026-11-24T00:00:00+00:00", "0"),
    *(MEASURED, 2048, 4, SPEED, SPEED),
)
CONFIG = EngineConfig("m", ("m.gguf",), 4096, 4, 8, cache=CacheConfig(cells=99, host_bytes=7))


def settings(**flags: object) -> Settings:
    return resolve(flags, environ={})


def test_a_profile_sets_what_nobody_has_set() -> None:
    applied = apply(PROFILE, CONFIG, settings())
    assert applied.threads == 3
    assert applied.micro_batch == 128
    assert applied.kernels is Kernels.PLAIN
    assert applied.affinity is Affinity.CORES
    assert applied.cache.key_type is CacheType.Q8_0
    assert applied.cache.flash_attention
    # How much of it there is, is not the profile's.
    assert (applied.cache.cells, applied.cache.host_bytes) == (99, 7)
    assert (applied.context, applied.parallel) == (4096, 4)


@pytest.mark.parametrize(
    "flags", [{"cache_layout": "unified"}, {"cache_type": "f16"}, {"flash_attention": False}]
)
def test_who_sets_one_thing_of_the_cache_sets_all(flags: dict[str, object]) -> None:
    applied = apply(PROFILE, CONFIG, settings(**flags))
    assert applied.cache == CONFIG.cache
    assert applied.threads == 3


def test_threads_that_were_set_stay() -> None:
    applied = apply(PROFILE, CONFIG, settings(threads=8))
    assert applied.threads == 8
    # Measured with as many threads as there were cores for.
    assert applied.affinity is Affinity.FREE


def test_kernels_found_broken_stay_off() -> None:
    able = Profile(
        *("a" * 64, "a" * 64, "computer", "build", "2026-11-24T00:00:00+00:00", "0"),
        *(EngineSettings(CacheConfig(), 3, 128), 2048, 4, SPEED, SPEED),
    )
    plain = EngineConfig("m", ("m.gguf",), 4096, 4, 8, kernels=Kernels.PLAIN)
    assert apply(able, plain, settings()).kernels is Kernels.PLAIN


def test_a_profile_holds_where_it_was_measured() -> None:
    assert Here("computer", "build").objection(PROFILE) is None
    assert "computer" in (Here("other", "build").objection(PROFILE) or "")
    assert "build" in (Here("computer", "other").objection(PROFILE) or "")


def test_profiles_come_back_as_they_were_put(tmp_path: Path) -> None:
    kept = Profiles(tmp_path)
    assert kept.get("a" * 64) is None
    kept.put(PROFILE)
    assert kept.get("a" * 64) == PROFILE
    kept.remove("a" * 64)
    assert kept.get("a" * 64) is None


@pytest.mark.parametrize("text", [b"", b"{}", b'{"format": 2}'])
def test_a_damaged_profile_is_none(tmp_path: Path, text: bytes) -> None:
    kept = Profiles(tmp_path)
    kept.put(PROFILE)
    (path,) = (tmp_path / "profiles").iterdir()
    path.write_bytes(text)
    assert kept.get("a" * 64) is None
