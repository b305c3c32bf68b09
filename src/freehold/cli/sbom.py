"""`freehold sbom`: a model as a CycloneDX bill of materials."""

from __future__ import annotations

import json
from pathlib import Path

import click

from freehold.cli.common import notice, progress, settings_from
from freehold.cli.completing import LOCAL_MODEL
from freehold.trust.dossier import Dossiers
from freehold.trust.sbom import HeaderFacts, sbom
from freehold.weights.files import write_atomically
from freehold.weights.library import Library


@click.command("sbom")
@click.argument("reference", shell_complete=LOCAL_MODEL)
@click.option("--output", "-o", type=click.Path(path_type=Path, dir_okay=False), help="Write here.")
def command(reference: str, output: Path | None) -> None:
    """Print REFERENCE as CycloneDX 1.6: files and digests, licences, lineage, model card."""
    library = Library.open(settings_from())
    model = library.local(reference, progress=progress())
    dossier = Dossiers.open(library).of(model)
    document = sbom(dossier.lock, dossier.verdict, HeaderFacts.of(model.header))
    text = json.dumps(document, indent=2, ensure_ascii=False)
    if output is None:
        click.echo(text)
        return
    write_atomically(output, text.encode() + b"\n")
    notice(f"{output}: {dossier.lock.reference} as CycloneDX 1.6")
