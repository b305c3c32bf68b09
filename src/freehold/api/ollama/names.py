"""What a name means that an Ollama client gives: ``latest`` is the tag of whatever has none."""

from __future__ import annotations

from freehold.domain.errors import InvalidReference, InvalidRequest, RefusedFile
from freehold.runtime.wiring import Runtime
from freehold.weights.reference import PathReference, UrlReference, parse

_DEFAULT_TAG = ":latest"
_HUBS = ("hf.co/", "huggingface.co/")


def known_name(runtime: Runtime, given: str) -> str:
    """Our name for ``given``; whether there is such a model is another question. Reads the store.

    An alias and an upstream go before everything else, as everywhere; a model of that name with
    the tag ``latest`` before the catalogue's default tag.
    """
    bare = bare_name(given)
    tagged = tagged_name(bare)
    for spelling in (given, bare, tagged or bare):
        if spelling in runtime.settings.aliases or spelling in runtime.settings.upstreams:
            return spelling
    if tagged is not None and runtime.library.registry.find(tagged) is not None:
        return tagged
    return bare


def fetchable_name(runtime: Runtime, given: str) -> str:
    """As `known_name`. Raises `InvalidRequest` for what is not fetched over HTTP."""
    name = known_name(runtime, given)
    if isinstance(parse(name), PathReference | UrlReference):
        raise InvalidRequest(
            "Only models of the catalogue and of the hub are pulled over HTTP.",
            field="model",
            hint="Use `freehold pull` on the machine itself.",
        )
    return name


def bare_name(given: str) -> str:
    """``given`` without the default tag; what names the hub, in our notation."""
    for hub in _HUBS:
        if given.startswith(hub):
            given = f"hf:{given.removeprefix(hub)}"
    return given.removesuffix(_DEFAULT_TAG)


def tagged_name(bare: str) -> str | None:
    """The short name ``bare`` with the default tag; None for what has a tag or is no such name."""
    if ":" in bare or "/" in bare:
        return None
    try:
        return str(parse(f"{bare}{_DEFAULT_TAG}"))
    except (InvalidReference, RefusedFile):
        return None
