"""`freehold licence`: may this model be used, and for what."""

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
)
from freehold.cli.completing import MODEL
from freehold.cli.pull import template_lines
from freehold.domain.errors import InvalidRequest, ModelNotPulled
from freehold.trust.acquire import hub
from freehold.trust.dossier import Dossiers
from freehold.trust.lock import Lock
from freehold.trust.verdict import Use, Verdict
from freehold.trust.wording import lines, verdict_data
from freehold.weights.library import Library

if TYPE_CHECKING:
    from freehold.trust.template_report import TemplateReport


@click.command("licence")
@click.argument("reference", metavar="REF|PATH", shell_complete=MODEL)
@click.option(
    "--accept", type=click.Choice([use.value for use in Use]), help="Answer for this use."
)
@click.option("--why", metavar="REASON", help="With --accept: why, for the record.")
@click.option("--refresh", is_flag=True, help="Ask the hub again for cards and licence files.")
@JSON_OPTION
@OFFLINE_OPTION
def command(
    reference: str,
    accept: str | None,
    why: str | None,
    refresh: bool,
    as_json: bool,
    offline: bool | None,
) -> None:
    """Say what the licences of REF and of what it was made of allow: to run it for oneself, and to
    serve it to others or pass it on. Not legal advice.

    Of a model that is not here the hub is asked for its card and licence, not for weights.
    """
    if (accept is None) != (why is None):
        raise InvalidRequest("--accept and --why go together.", field="why")
    settings = settings_from(offline=offline)
    library = Library.open(settings)
    dossiers = Dossiers.open(library)
    try:
        model = library.local(reference, progress=progress())
    except ModelNotPulled:
        if accept is not None:
            raise
        ask = None if settings.offline else hub(settings)
        verdict, notes = dossiers.preview(library.reference(reference), ask)
        _say(reference, verdict, None, notes, None, as_json)
        return
    if accept is not None and why is not None:
        dossier = dossiers.decide(model, Use(accept), why)
    elif refresh and not settings.offline:
        dossier = dossiers.keep(model, hub(settings))
    else:
        dossier = dossiers.of(model)
    template = dossiers.template(model, dossier)
    _say(model.reference, dossier.verdict, dossier.lock, dossier.notes, template, as_json)


def _say(
    reference: str,
    verdict: Verdict,
    lock: Lock | None,
    notes: tuple[str, ...],
    template: TemplateReport | None,
    as_json: bool,
) -> None:
    for note in notes:
        notice(note)
    if as_json:
        print_json(
            {
                "reference": reference,
                **verdict_data(verdict),
                "template": template.data if template is not None else None,
                "decisions": _decisions(lock),
            }
        )
        return
    for line in (*lines(verdict), *template_lines(template)):
        click.echo(line)
    for decision in lock.decisions if lock is not None else ():
        click.echo(
            f"On record: {decision.who} answers for {decision.use} ({decision.outcome}), "
            f"{decision.when[:10]}: {decision.why}"
        )


def _decisions(lock: Lock | None) -> list[dict[str, Any]]:
    import msgspec

    return [msgspec.to_builtins(each) for each in lock.decisions] if lock is not None else []
