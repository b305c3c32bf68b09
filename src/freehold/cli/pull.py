"""`freehold pull`: fetch a model and verify it."""

from __future__ import annotations

from typing import Any

import click

from freehold.cli.common import (
    JSON_OPTION,
    OFFLINE_OPTION,
    notice,
    print_json,
    progress,
    settings_from,
    size,
)
from freehold.cli.completing import MODEL
from freehold.weights.catalog import CatalogModel
from freehold.weights.library import Library
from freehold.weights.registry import Manifest


@click.command("pull")
@click.argument("reference", shell_complete=MODEL)
@JSON_OPTION
@OFFLINE_OPTION
def command(reference: str, as_json: bool, offline: bool | None) -> None:
    """Fetch REFERENCE and verify it.

    REFERENCE is a name (deepseek-r1:1.5b), hf:owner/repo:file.gguf, or
    https://host/file.gguf#sha256=HEX. An interrupted pull goes on where it stopped.
    """
    library = Library.open(settings_from(offline=offline))
    announce(library, reference)
    manifest = library.pull(reference, progress())
    if as_json:
        print_json(as_data(manifest))
        return
    for file in manifest.files:
        notice(f"{file.name}  {size(file.size)}  sha256 {file.sha256}")
    notice(licence_line(manifest))
    click.echo(manifest.reference)


def announce(library: Library, reference: str) -> None:
    """Say plainly when a short name means something other than it seems to say."""
    row = library.row(library.reference(reference))
    if row is not None and row.distillate_of:
        notice(distillate_line(row))


def distillate_line(row: CatalogModel) -> str:
    return (
        f"{row.reference} is {row.title}, a distillate of {row.distillate_of}, "
        f"not {row.distillate_of} itself."
    )


def licence_line(manifest: Manifest) -> str:
    """What the card declares, and that it is a declaration."""
    if manifest.licence is None:
        return f"Licence of {manifest.reference}: none declared."
    source = f" (declared by {manifest.licence_source})" if manifest.licence_source else ""
    return f"Licence of {manifest.reference}: {manifest.licence}{source}"


def as_data(manifest: Manifest) -> dict[str, Any]:
    """A manifest as `--json` prints it."""
    return {
        "reference": manifest.reference,
        "size": manifest.size,
        "files": [
            {"name": file.name, "size": file.size, "sha256": file.sha256} for file in manifest.files
        ],
        "origin": manifest.origin,
        "revision": manifest.revision,
        "licence_declared": manifest.licence,
        "licence_source": manifest.licence_source,
        "base_models": list(manifest.base_models),
        "fetched_at": manifest.fetched_at,
    }
