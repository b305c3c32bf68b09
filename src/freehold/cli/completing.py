"""Shell completion of model names: from the store and the catalogue, never the network."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import click


def MODEL(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:  # noqa: N802
    """Names that begin with what was typed; nothing at all if the store cannot be read."""
    from freehold.domain.errors import FreeholdError
    from freehold.domain.settings import resolve
    from freehold.weights.library import Library

    try:
        settings = resolve()
        library = Library.open(settings)
    except FreeholdError:
        return []
    names = {*settings.upstreams, *(manifest.reference for manifest in library.registry.all())}
    names |= {model.reference for model in library.catalog.models if model.fetchable}
    return sorted(name for name in names if name.startswith(incomplete))


def LOCAL_MODEL(  # noqa: N802
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[str]:
    """As `MODEL`, only what is here."""
    from freehold.domain.errors import FreeholdError
    from freehold.domain.settings import resolve
    from freehold.weights.library import Library

    try:
        library = Library.open(resolve())
    except FreeholdError:
        return []
    names = (manifest.reference for manifest in library.registry.all())
    return sorted(name for name in names if name.startswith(incomplete))
