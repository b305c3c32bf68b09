"""`freehold notice`: what must travel with the weights, written into a folder."""

from __future__ import annotations

from pathlib import Path

import click

from freehold.cli.common import notice, progress, settings_from
from freehold.cli.completing import LOCAL_MODEL
from freehold.trust import licences
from freehold.trust.dossier import Dossiers
from freehold.trust.notice import write_notice
from freehold.weights.library import Library


@click.command("notice")
@click.argument("reference", shell_complete=LOCAL_MODEL)
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False), required=False)
def command(reference: str, folder: Path | None) -> None:
    """Write the licence texts and notices of REFERENCE into FOLDER (NAME-notice).

    Whoever passes the weights on passes these on with them. What could not be found is said.
    """
    library = Library.open(settings_from())
    model = library.local(reference, progress=progress())
    dossiers = Dossiers.open(library)
    dossier = dossiers.of(model)
    target = folder or Path(f"{_plain(model.name)}-notice")
    written = write_notice(
        target,
        dossier.lock,
        dossier.verdict,
        dossiers.texts.get,
        canonical=_published,
    )
    for missing in written.missing:
        notice(f"Missing: {missing}")
    for file in written.files:
        click.echo(target / file.path)


def _published(licence: str) -> str | None:
    """The text that comes with freehold, of the newest version there is."""
    row = licences.bundled().get(licence)
    return next((text for each in row.text if (text := each.read())), None) if row else None


def _plain(name: str) -> str:
    return "".join(c if c.isalnum() or c in ".-_" else "-" for c in name)
