"""`freehold rm`: remove models."""

from __future__ import annotations

import click

from freehold.cli.common import JSON_OPTION, notice, print_json, settings_from, size
from freehold.cli.completing import LOCAL_MODEL
from freehold.domain.errors import InvalidReference, ModelNotPulled
from freehold.runtime.profiles import forget_made
from freehold.trust.locks import forget
from freehold.weights import housekeeping
from freehold.weights.library import Library
from freehold.weights.reference import PathReference


@click.command("rm")
@click.argument("references", nargs=-1, required=True, shell_complete=LOCAL_MODEL)
@JSON_OPTION
def command(references: tuple[str, ...], as_json: bool) -> None:
    """Remove models from the store. Files that another model shares are kept."""
    library = Library.open(settings_from())
    manifests = []
    for text in references:  # all must exist before any goes
        reference = library.reference(text)
        if isinstance(reference, PathReference):
            raise InvalidReference(
                f"{text} is a file of yours, not a model in the store.",
                hint="Delete it yourself if you mean to.",
            )
        manifest = library.registry.find(str(reference))
        if manifest is None:
            raise ModelNotPulled(str(reference))
        manifests.append(manifest)
    freed = {m.reference: housekeeping.remove(library.store, m) for m in manifests}
    for manifest in manifests:
        forget(library.store.home, manifest.reference)
        freed[manifest.reference] += forget_made(library, manifest.files[0].sha256)
    if as_json:
        print_json([{"reference": name, "freed": count} for name, count in freed.items()])
        return
    for name, count in freed.items():
        notice(f"{name} removed, {size(count)} freed.")
