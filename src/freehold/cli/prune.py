"""`freehold prune`: delete what no model needs."""

from __future__ import annotations

import click

from freehold.cli.common import JSON_OPTION, notice, print_json, print_table, settings_from, size
from freehold.weights import housekeeping
from freehold.weights.housekeeping import Litter
from freehold.weights.store import Store

_EXPLAINED = {
    Litter.PARTIAL: "download that did not finish",
    Litter.UNREFERENCED: "file no model names",
    Litter.DERIVED: "made here from another model, can be made again",
}


@click.command("prune")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@click.option("--partial", "only", flag_value=Litter.PARTIAL.value, help="Unfinished downloads.")
@click.option(
    "--unreferenced", "only", flag_value=Litter.UNREFERENCED.value, help="Files no model names."
)
@click.option(
    "--derived", "only", flag_value=Litter.DERIVED.value, help="Models made here from others."
)
@JSON_OPTION
def command(dry_run: bool, only: str | None, as_json: bool) -> None:
    """Delete unfinished downloads, files no model names, and derived models."""
    store = Store.open(settings_from().home)
    kinds = (Litter(only),) if only else tuple(Litter)
    found = housekeeping.survey(store, kinds) if dry_run else housekeeping.prune(store, kinds)
    total = sum(item.size for item in found)
    if as_json:
        print_json(
            {
                "deleted": not dry_run,
                "bytes": total,
                "items": [{"kind": i.kind.value, "name": i.name, "size": i.size} for i in found],
            }
        )
        return
    if found:
        print_table(
            ("SIZE", "WHAT", "NAME"), ((size(i.size), _EXPLAINED[i.kind], i.name) for i in found)
        )
    notice(f"{size(total)} {'would be ' if dry_run else ''}freed.")
