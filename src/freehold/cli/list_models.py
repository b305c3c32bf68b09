"""`freehold list`: the models here, or all that are known by name."""

from __future__ import annotations

import click

from freehold.cli.common import JSON_OPTION, notice, print_json, print_table, settings_from, size
from freehold.cli.pull import as_data
from freehold.cli.upstream_words import facts
from freehold.trust.dossier import Dossiers
from freehold.trust.verdict import Verdict
from freehold.weights.catalog import CatalogModel
from freehold.weights.library import Library


@click.command("list")
@click.option("--available", is_flag=True, help="Every model known by name, here or not.")
@JSON_OPTION
def command(available: bool, as_json: bool) -> None:
    """List the models on this machine, and the upstreams that can be asked from it."""
    settings = settings_from()
    library = Library.open(settings)
    if available:
        _list_available(library, as_json)
        return
    manifests = library.registry.all()
    upstreams = tuple(settings.upstreams.values())
    verdicts = Dossiers.open(library).verdicts(manifests)
    if as_json:
        pairs = zip(manifests, verdicts, strict=True)
        here = [{**as_data(m), "licence": _short(verdict)} for m, verdict in pairs]
        print_json([*here, *({"reference": u.name, "upstream": facts(u)} for u in upstreams)])
        return
    if not manifests and not upstreams:
        notice(
            "No models yet. `freehold pull qwen2.5-coder:0.5b` fetches a small one; "
            "`freehold list --available` shows more."
        )
        return
    print_table(
        ("NAME", "SIZE", "LICENCE", "RUN", "SERVE", "FETCHED", "FROM"),
        (
            *(
                (
                    *(m.reference, size(m.size), v.concluded or "unknown"),
                    *(v.run.outcome, v.serve.outcome, m.fetched_at[:10], m.origin),
                )
                for m, v in zip(manifests, verdicts, strict=True)
            ),
            *((u.name, "", "", "", "", "", f"upstream: {', '.join(u.urls)}") for u in upstreams),
        ),
    )


def _short(verdict: Verdict) -> dict[str, object]:
    return {
        "concluded": verdict.concluded,
        "run": verdict.run.outcome,
        "serve": verdict.serve.outcome,
        "duties": [duty.text for duty in verdict.serve.duties],
    }


def _list_available(library: Library, as_json: bool) -> None:
    rows = library.catalog.models
    here = {manifest.reference for manifest in library.registry.all()}
    if as_json:
        print_json([_row_data(row, here) for row in rows])
        return
    print_table(
        ("NAME", "MODEL", "SIZE", "LICENCE (DECLARED)", ""),
        (
            (
                row.reference,
                row.title,
                _size(row),
                row.declared_licence or "unknown",
                _remark(row, here),
            )
            for row in rows
        ),
    )


def _size(row: CatalogModel) -> str:
    known = row.file[0].size if row.file else None
    return size(known) if known else ""


def _remark(row: CatalogModel, here: set[str]) -> str:
    if row.reference in here:
        return "here"
    if not row.fetchable:
        return "no file known; name one with hf:owner/repo:file"
    return f"distilled from {row.distillate_of}" if row.distillate_of else ""


def _row_data(row: CatalogModel, here: set[str]) -> dict[str, object]:
    return {
        "reference": row.reference,
        "title": row.title,
        "licence_declared": row.declared_licence,
        "upstream": row.upstream,
        "distillate_of": row.distillate_of,
        "tasks": list(row.tasks),
        "fetchable": row.fetchable,
        "here": row.reference in here,
        "source": list(row.source),
        "checked": row.checked.isoformat(),
    }
