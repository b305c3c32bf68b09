"""What clients may call a model: its name in the store, a served file's, an alias. No model is
opened here."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from freehold.domain.errors import (
    FreeholdError,
    InvalidRequest,
    InvalidSetting,
    ModelNotPulled,
    UnknownModel,
)
from freehold.domain.upstreams import Upstream
from freehold.runtime.access.caller import current_caller, may_see
from freehold.weights.library import Library
from freehold.weights.reference import PathReference, parse
from freehold.weights.registry import Manifest


@dataclass(frozen=True)
class Described:
    """One model as a listing shows it: in the store, with a manifest, a served file, or another
    server's.

    ``aliases`` are other names of it; ``alias_of`` is the model that ``name`` is an alias of.
    """

    name: str
    loaded: bool
    aliases: tuple[str, ...] = ()
    manifest: Manifest | None = None
    path: Path | None = None
    alias_of: str | None = None
    upstream: Upstream | None = None


class Names:
    """``served`` are files that may be asked for by name. ``aliases`` may be replaced.

    Raises `InvalidSetting` for an upstream that is called like another model: nobody would know
    whether what is asked of it leaves this machine.
    """

    def __init__(
        self,
        library: Library,
        served: tuple[Path, ...],
        aliases: Mapping[str, str],
        upstreams: Mapping[str, Upstream] | None = None,
    ) -> None:
        self._library = library
        self._served = served
        self._upstreams = upstreams or {}
        for name in self._upstreams:
            if is_taken(library, name) or name in (path.stem for path in served):
                raise InvalidSetting(
                    f"The upstream {name} has the name of a model that runs on this machine.",
                    hint="Give it another one in the configuration.",
                )
        self.aliases: Mapping[str, str] = dict(aliases)

    def all(self) -> tuple[str, ...]:
        """Of every model that can be asked now: the store's, the files served, the upstreams, the
        aliases.
        """
        elsewhere = filter(may_see, self._upstreams)
        return tuple(dict.fromkeys([*self._own(), *elsewhere, *self._known_aliases()]))

    def _own(self) -> list[str]:
        stored = [manifest.reference for manifest in self._library.registry.models()]
        return [name for name in [*stored, *(path.stem for path in self._served)] if may_see(name)]

    def _known_aliases(self) -> list[str]:
        """Those whose model is here."""
        known = []
        for alias in self.aliases:
            with contextlib.suppress(FreeholdError):
                self.describe(alias)
                known.append(alias)
        return known

    def describe(self, name: str) -> Described:
        """What is known of a model without opening its files, whether it is loaded or not. Raises
        as `canonical` does, and `ModelNotPulled` for one whose weights are not here.
        """
        if name in self.aliases:
            described = self.describe(self.aliases[name])
            return replace(described, name=name, aliases=(), alias_of=described.name)
        key = self.canonical(name)
        if (upstream := self._upstreams.get(key)) is not None:
            return Described(key, False, self._names_of(key), upstream=upstream)
        for path in self._served:
            if key == str(path):
                return Described(path.stem, False, (str(path), *self._names_of(key)), path=path)
        manifest = self._library.registry.get(key)
        return Described(manifest.reference, False, self._names_of(key), manifest)

    def digest(self, described: Described) -> str | None:
        """Of a model's weights; None: it is another server's, or a file that was not read yet."""
        if described.manifest is not None:
            return described.manifest.files[0].sha256
        if described.path is None:
            return None
        with contextlib.suppress(OSError):
            known = self._library.store.path_record(described.path)
            if known is not None and known.still_describes(described.path):
                return known.sha256
        return None

    def _names_of(self, key: str) -> tuple[str, ...]:
        """The aliases of a model, as far as its name can be read."""
        found = []
        for alias in self.aliases:
            with contextlib.suppress(FreeholdError):
                if self.canonical(alias) == key:
                    found.append(alias)
        return tuple(found)

    def canonical(self, name: str) -> str:
        """What to load for a client's ``name``: a reference, or the path of a served file; or what
        to ask, an upstream's name.

        Raises `UnknownModel` or `InvalidReference`. A path nobody named at the
        start is not opened for a client. An alias goes before everything else. For a caller who
        may not ask for it, a model is not here.
        """
        name = self.aliases.get(name, name)
        if name in self._upstreams:
            if not may_see(name):
                raise ModelNotPulled(name)
            return name
        if (path := self._served_as(name)) is not None:
            return str(path)
        try:
            found = str(self._library.reference(name))
        except UnknownModel:
            if current_caller().terms.models:  # names that are near may be hidden from it
                raise UnknownModel(name) from None
            raise
        if not may_see(found):
            raise ModelNotPulled(found)
        return found

    def _served_as(self, name: str) -> Path | None:
        """The served file of that name or path. Raises `UnknownModel` for another path."""
        seen = [path for path in self._served if may_see(path.stem)]
        for path in seen:
            if name in (path.stem, str(path)):
                return path
        reference = parse(name)
        if not isinstance(reference, PathReference):
            return None
        for path in seen:
            if path.absolute() == reference.path.absolute():
                return path
        raise UnknownModel(
            name,
            hint="A file is served only if it is named when the server starts: "
            f"freehold serve {name}",
        )

    def upstream(self, name: str) -> Upstream | None:
        """None: it is a model of this machine. Raises as `canonical`."""
        return self._upstreams.get(self.canonical(name))

    def local(self, name: str) -> str:
        """As `canonical`. Raises `InvalidRequest` for an upstream."""
        key = self.canonical(name)
        if key in self._upstreams:
            raise InvalidRequest(
                f"{key} is an upstream: its server keeps its files, its template and its tokens.",
                field="model",
                hint="Conversations can be asked of it, and nothing else.",
            )
        return key

    def shown(self, key: str) -> str:
        """The name that listings show for what `canonical` found."""
        return next((path.stem for path in self._served if key == str(path)), key)

    def sole(self, loaded: frozenset[str]) -> str:
        """The only model that is ``loaded``, or else the only one here. Raises `InvalidRequest`."""
        here = list(dict.fromkeys(name for name in self._own() if name not in self.aliases))
        for names in (sorted(loaded), here):
            if len(names) == 1:
                return names[0]
        raise InvalidRequest(
            "There are several models; say which is meant."
            if here
            else "There is no model here yet.",
            field="model",
        )


def is_taken(library: Library, name: str) -> bool:
    """Whether a short name means a model of the store or of the catalogue."""
    try:
        library.reference(name)
    except UnknownModel:
        return False
    return True
