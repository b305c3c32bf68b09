"""What clients may call a model: its name in the store, a served file's, an alias. No model is
opened here."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from freehold.domain.errors import FreeholdError, InvalidRequest, ModelNotPulled, UnknownModel
from freehold.runtime.access.caller import current_caller, may_see
from freehold.weights.library import Library
from freehold.weights.reference import PathReference, parse
from freehold.weights.registry import Manifest


@dataclass(frozen=True)
class Described:
    """One model as a listing shows it: in the store, with a manifest, or a served file.

    ``aliases`` are other names of it; ``alias_of`` is the model that ``name`` is an alias of.
    """

    name: str
    loaded: bool
    aliases: tuple[str, ...] = ()
    manifest: Manifest | None = None
    path: Path | None = None
    alias_of: str | None = None


class Names:
    """``served`` are files that may be asked for by name. ``aliases`` may be replaced."""

    def __init__(
        self, library: Library, served: tuple[Path, ...], aliases: Mapping[str, str]
    ) -> None:
        self._library = library
        self._served = served
        self.aliases: Mapping[str, str] = dict(aliases)

    def all(self) -> tuple[str, ...]:
        """Of every model that can be leased now: the store's, the files served, the aliases."""
        return tuple(dict.fromkeys([*self._own(), *self._known_aliases()]))

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
        for path in self._served:
            if key == str(path):
                return Described(path.stem, False, (str(path), *self._names_of(key)), path=path)
        manifest = self._library.registry.get(key)
        return Described(manifest.reference, False, self._names_of(key), manifest)

    def _names_of(self, key: str) -> tuple[str, ...]:
        """The aliases of a model, as far as its name can be read."""
        found = []
        for alias in self.aliases:
            with contextlib.suppress(FreeholdError):
                if self.canonical(alias) == key:
                    found.append(alias)
        return tuple(found)

    def canonical(self, name: str) -> str:
        """What to load for a client's ``name``: a reference, or the path of a served file.

        Raises `UnknownModel` or `InvalidReference`. A path nobody named at the
        start is not opened for a client. An alias goes before everything else. For a caller who
        may not ask for it, a model is not here.
        """
        name = self.aliases.get(name, name)
        seen = [path for path in self._served if may_see(path.stem)]
        for path in seen:
            if name in (path.stem, str(path)):
                return str(path)
        reference = parse(name)
        if isinstance(reference, PathReference):
            for path in seen:
                if path.absolute() == reference.path.absolute():
                    return str(path)
            raise UnknownModel(
                name,
                hint="A file is served only if it is named when the server starts: "
                f"freehold serve {name}",
            )
        try:
            found = str(self._library.reference(name))
        except UnknownModel:
            if current_caller().terms.models:  # names that are near may be hidden from it
                raise UnknownModel(name) from None
            raise
        if not may_see(found):
            raise ModelNotPulled(found)
        return found

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
