"""`freehold pull`: fetch a model and verify it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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
from freehold.trust.acquire import acquire
from freehold.trust.dossier import Dossiers
from freehold.trust.verdict import Outcome, Verdict
from freehold.trust.wording import verdict_data
from freehold.weights.catalog import CatalogModel
from freehold.weights.library import Library
from freehold.weights.registry import Manifest

if TYPE_CHECKING:
    from freehold.trust.template_report import TemplateReport


@click.command("pull")
@click.argument("reference", shell_complete=MODEL)
@click.option("--accept", metavar="REASON", help="Answer for running it, whatever the verdict.")
@JSON_OPTION
@OFFLINE_OPTION
def command(reference: str, accept: str | None, as_json: bool, offline: bool | None) -> None:
    """Fetch REFERENCE and verify it.

    REFERENCE is a name (deepseek-r1:1.5b), hf:owner/repo:file.gguf, or
    https://host/file.gguf#sha256=HEX. An interrupted pull goes on where it stopped.
    """
    library = Library.open(settings_from(offline=offline))
    announce(library, reference)
    dossiers = Dossiers.open(library)
    acquired = acquire(dossiers, reference, progress(), accepted=accept)
    manifest, verdict = acquired.manifest, acquired.dossier.verdict
    for note in acquired.dossier.notes:
        notice(note)
    if as_json:
        print_json({**as_data(manifest), "licence": verdict_data(verdict)})
        return
    for file in manifest.files:
        notice(f"{file.name}  {size(file.size)}  sha256 {file.sha256}")
    model = library.local(manifest.reference)
    template = dossiers.template(model, acquired.dossier)
    for line in (*summary(manifest.reference, verdict), *template_lines(template)):
        notice(line)
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


def summary(reference: str, verdict: Verdict) -> tuple[str, ...]:
    """The verdict in a line, its reason where it is not plain, and where to read the rest."""
    line = (
        f"Licence of {reference}: {verdict.concluded or 'unknown'}; "
        f"run: {verdict.run.outcome}, serve: {verdict.serve.outcome}."
    )
    told = [line]
    for ruling in dict.fromkeys((verdict.run, verdict.serve)):
        if ruling.outcome not in (Outcome.OK, Outcome.DUTIES):
            told += [reason for reason in ruling.reasons[:1] if reason not in told]
    told.append(f"Everything behind it: freehold licence {reference}")
    return tuple(told)


def template_lines(template: TemplateReport | None) -> tuple[str, ...]:
    """Nothing for a template that is its publisher's own."""
    if template is None or not (template.changes or template.worrying):
        return ()
    head = f"The chat template is {template.sentence}."
    if template.changes:
        head = f"The chat template {template.sentence}; `freehold show` prints how."
    return (head, *(f"  {each}" for each in template.worrying))


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
