"""`freehold convert`: a model's weights in another form."""

from __future__ import annotations

import asyncio

import click

from freehold.cli.common import JSON_OPTION, notice, print_json, progress, settings_from, size
from freehold.cli.completing import LOCAL_MODEL
from freehold.domain.settings import environment
from freehold.weights.library import Library


@click.command("convert")
@click.argument("reference", shell_complete=LOCAL_MODEL)
@click.option(
    "--to",
    "form",
    type=click.Choice(["safetensors"]),
    required=True,
    help="safetensors: what vLLM reads; weights become bfloat16.",
)
@JSON_OPTION
def command(reference: str, form: str, as_json: bool) -> None:
    """Make other weights of a model's, here, linked to what they were made of.

    What a quantised file has lost stays lost: its weights become larger, not better.
    """
    from freehold.lab.convert import Conversion

    library = Library.open(settings_from())
    model = library.local(reference, progress=progress())
    quantised = model.header.quantisation
    notice(
        f"{model.name} ({quantised or 'GGUF'}, {size(model.size)}) becomes {form} in bfloat16, "
        f"about {size(model.header.parameter_count * 2)}."
    )
    made = asyncio.run(Conversion(library, model, environment(), notice).make())
    if as_json:
        print_json(
            {
                "reference": made.reference,
                "derived_from": made.derived_from,
                "bytes": made.size,
                "files": [file.name for file in made.files],
            }
        )
        return
    click.echo(f"{made.reference}, {size(made.size)}")
