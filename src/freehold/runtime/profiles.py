"""The profiles that `freehold tune` wrote, and how an engine is set up by one.

A profile is used where it was measured: on the same computer, with the same native build, for the
same bytes. What a person set by a flag, a variable or the file goes before it.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from dataclasses import dataclass
from pathlib import Path

import msgspec

from freehold.domain.engine import CacheConfig, Kernels
from freehold.domain.errors import RefusedFile
from freehold.domain.settings import Settings, environment
from freehold.engines.base import EngineConfig
from freehold.engines.llamacpp.build import installed
from freehold.machine.probe import probe
from freehold.machine.profile import Profile
from freehold.process.decoding import from_json
from freehold.runtime.tuned import Tuned
from freehold.trust.lock import Lock
from freehold.trust.locks import forget
from freehold.weights import housekeeping
from freehold.weights.files import is_sha256, write_atomically
from freehold.weights.gguf import read_header
from freehold.weights.library import Library, LocalModel

log = logging.getLogger(__name__)

_CACHE_SETTINGS = ("cache_layout", "cache_type", "flash_attention")


class Profiles:
    """The profiles of one store, one for each digest that was tuned."""

    def __init__(self, home: Path) -> None:
        self._folder = home / "profiles"

    def get(self, digest: str) -> Profile | None:
        """None too for one that is damaged or of another format; the log says so."""
        path = self._path(digest)
        try:
            profile = from_json(path.read_bytes(), Profile)
        except FileNotFoundError:
            return None
        except (msgspec.DecodeError, OSError) as error:
            log.warning("the profile %s cannot be read and is ignored: %s", path.name, error)
            return None
        return profile if profile.source == digest and is_sha256(profile.weights) else None

    def put(self, profile: Profile) -> None:
        data = msgspec.json.format(msgspec.json.encode(profile), indent=2)
        write_atomically(self._path(profile.source), data + b"\n")

    def weights(self) -> frozenset[str]:
        """The digests of all that profiles of this store run."""
        found = (
            self.get(path.stem) for path in self._folder.glob("*.json") if is_sha256(path.stem)
        )
        return frozenset(profile.weights for profile in found if profile is not None)

    def remove(self, digest: str) -> None:
        self._path(digest).unlink(missing_ok=True)

    def _path(self, digest: str) -> Path:
        if not is_sha256(digest):
            raise ValueError(f"not a SHA-256: {digest!r}")
        return self._folder / f"{digest}.json"


@dataclass(frozen=True)
class Here:
    """What profiles made on this computer are bound to."""

    computer: str
    build: str

    @classmethod
    def now(cls, home: Path) -> Here:
        build = installed()
        fingerprint = probe(home, environment()).fingerprint
        return cls(fingerprint, build.identity if build is not None else "")

    def objection(self, profile: Profile) -> str | None:
        """Why a profile does not hold here; None: it does."""
        if profile.computer != self.computer:
            return "was measured on another computer"
        if profile.build != self.build:
            return "was measured with another build of llama.cpp"
        return None


@dataclass(frozen=True)
class Held:
    """A profile of the store. ``objection``: why it is not used; None: it is."""

    profile: Profile
    objection: str | None


class Holding:
    """The profiles of one store as a server goes by them; what this computer and build are is
    found out once. With ``locks`` no weights are run that no lock names."""

    def __init__(self, library: Library, settings: Settings, locks: tuple[Lock, ...] = ()) -> None:
        self._library = library
        self._settings = settings
        self._locks = locks

    @functools.cached_property
    def _here(self) -> Here:
        return Here.now(self._settings.home)

    def of(self, digest: str) -> Held | None:
        """What was measured of these weights. Reads a small file."""
        profile = Profiles(self._settings.home).get(digest)
        if profile is None:
            return None
        if not self._settings.profiles:
            return Held(profile, "is left out by the settings")
        return Held(profile, self._objection(profile))

    def _objection(self, profile: Profile) -> str | None:
        objection = self._here.objection(profile)
        if objection is not None or profile.weights == profile.source:
            return objection
        locked = {file.sha256 for lock in self._locks for file in lock.files}
        if self._locks and profile.weights not in locked:
            return "runs weights that no lock names"
        if not self._library.store.has(profile.weights):
            return "needs weights that were made here and are gone"
        return None


@dataclass(frozen=True)
class Choice:
    """What is to be loaded, and one line about it for a person, if there is something to say.

    ``profile`` is the one in effect. ``made`` is the digest of weights that are run instead of the
    model's own.
    """

    config: EngineConfig
    remark: str | None = None
    made: str | None = None
    profile: Profile | None = None


def choose(
    library: Library,
    model: LocalModel,
    config: EngineConfig,
    settings: Settings,
    locks: tuple[Lock, ...] = (),
) -> Choice:
    """``config`` as the profile of ``model`` has it, if there is one that holds.

    Weights made here are verified like any others. With ``locks`` none are run that no lock names.
    """
    held = Holding(library, settings, locks).of(model.digest) if settings.profiles else None
    if held is None:
        return Choice(config)
    profile = held.profile
    if held.objection is not None:
        return Choice(
            config,
            f"The profile of {model.name} {held.objection} and is not used. "
            f"To measure anew: freehold tune {model.reference}",
        )
    paths, made = config.paths, None
    if profile.weights != model.digest:
        try:
            path = library.store.verify(profile.weights)
            read_header(path)
        except RefusedFile as error:
            return Choice(config, f"The profile of {model.name} is not used: {error.message}")
        paths, made = (str(path),), profile.weights
    applied = apply(profile, dataclasses.replace(config, paths=paths), settings)
    return Choice(applied, _remark(model, profile), made, profile)


def forget_made(library: Library, digest: str) -> int:
    """Delete the profile of weights that no model names any more, and what was made of them here;
    returns the bytes freed."""
    if digest in library.registry.referenced():
        return 0
    Profiles(library.store.home).remove(digest)
    Tuned(library.store.home).remove(digest)
    freed = 0
    for manifest in library.registry.all():
        if manifest.derived_from == digest:
            freed += housekeeping.remove(library.store, manifest)
            forget(library.store.home, manifest.reference)
    return freed


def apply(profile: Profile, config: EngineConfig, settings: Settings) -> EngineConfig:
    """The settings of a profile, except where a person set something else.

    The cache's layout, types and flash attention depend on each other: who sets one, sets all.
    Kernels that the probe has found broken stay off.
    """
    measured = profile.settings
    own = {name for name, origin in settings.origins.items() if origin != "default"}
    cache = config.cache
    if not own.intersection(_CACHE_SETTINGS):
        cache = merged(cache, measured.cache)
    return dataclasses.replace(
        config,
        cache=cache,
        threads=config.threads if "threads" in own else measured.threads,
        affinity=config.affinity if "threads" in own else measured.affinity,
        micro_batch=measured.micro_batch,
        kernels=config.kernels if measured.repack else Kernels.PLAIN,
    )


def merged(cache: CacheConfig, measured: CacheConfig) -> CacheConfig:
    """Kind of the one, amount of the other."""
    return dataclasses.replace(
        cache,
        layout=measured.layout,
        key_type=measured.key_type,
        value_type=measured.value_type,
        flash_attention=measured.flash_attention,
    )


def _remark(model: LocalModel, profile: Profile) -> str:
    weights = ""
    if profile.quantisation is not None and profile.loss is not None:
        loss = f"{profile.loss.divergence:.3f}"
        weights = f" as {profile.quantisation} (mean KL divergence {loss})"
    return (
        f"{model.name} runs{weights} with its profile of {profile.date}; "
        "--no-profile leaves it out."
    )
