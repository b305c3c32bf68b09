"""`freehold lock`: the record of what a model is, down to the byte; signed if one wants."""

from __future__ import annotations

from pathlib import Path

import click

from freehold.cli.common import OFFLINE_OPTION, notice, progress, settings_from
from freehold.cli.completing import LOCAL_MODEL
from freehold.domain.errors import InvalidLock, InvalidRequest
from freehold.trust import lock as locking
from freehold.trust import signing
from freehold.trust.acquire import hub
from freehold.trust.dossier import Dossiers
from freehold.weights.files import write_atomically
from freehold.weights.library import Library

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command("lock")
@click.argument("reference", required=False, shell_complete=LOCAL_MODEL)
@click.option("--output", "-o", type=_FILE, help="Write the lock here instead of printing it.")
@click.option("--sign", "key", type=_FILE, help="Sign it with this private key (with --output).")
@click.option("--new-key", type=_FILE, help="Make a key to sign with, and do nothing else.")
@click.option("--refresh", is_flag=True, help="Ask the hub again for cards and licence files.")
@OFFLINE_OPTION
def command(
    reference: str | None,
    output: Path | None,
    key: Path | None,
    new_key: Path | None,
    refresh: bool,
    offline: bool | None,
) -> None:
    """Print the lock of REFERENCE: source, commit, the SHA-256 of every file, the template's, the
    licence texts', the lineage, and the decisions taken.

    With --sign a signature is written beside it, as OUTPUT.sig.
    """
    if new_key is not None:
        made = signing.generate_key(new_key)
        notice(f"The private key is in {new_key}: keep it to yourself. The public key:")
        click.echo(signing.public_text(made.public_key()))
        return
    if reference is None:
        raise InvalidRequest("Name a model, or a file for a --new-key.", field="reference")
    if key is not None and output is None:
        raise InvalidRequest("A signature goes into a file: add --output.", field="output")
    settings = settings_from(offline=offline)
    library = Library.open(settings)
    dossiers = Dossiers.open(library)
    model = library.local(reference, progress=progress())
    ask = hub(settings) if refresh and not settings.offline else None
    try:
        dossier = dossiers.of(model)
        if refresh or not dossier.kept:
            dossier = dossiers.keep(model, ask)
    except InvalidLock as error:
        notice(f"{error.message} It is made anew; what was decided before is not in it.")
        dossier = dossiers.keep(model, ask)
    for note in dossier.notes:
        notice(note)
    data = locking.encode(dossier.lock)
    if output is None:
        click.echo(data.decode())
        return
    private = signing.read_private_key(key) if key is not None else None
    write_atomically(output, data)
    notice(
        f"{output}: the lock of {dossier.lock.reference}, SHA-256 {locking.digest(dossier.lock)}"
    )
    if private is not None:
        signature = output.with_name(output.name + ".sig")
        write_atomically(signature, signing.encode_signature(signing.sign(dossier.lock, private)))
        notice(f"{signature}: its signature by {signing.public_text(private.public_key())}")
