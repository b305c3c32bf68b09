"""`freehold verify-files`: are the files still what was fetched, locked or signed."""

from __future__ import annotations

import datetime
from pathlib import Path

import click

from freehold.cli.common import JSON_OPTION, notice, print_json, progress, settings_from
from freehold.cli.completing import LOCAL_MODEL
from freehold.domain.errors import InvalidRequest
from freehold.trust import lock as locking
from freehold.trust import model_signature, signing
from freehold.trust.comparing import require_locked
from freehold.trust.dossier import Dossiers
from freehold.trust.lock import Lock, template_digest
from freehold.weights.files import hash_file
from freehold.weights.library import Library, LocalModel
from freehold.weights.progress import Progress
from freehold.weights.registry import ModelFile

_FILE = click.Path(path_type=Path, dir_okay=False, exists=True)


@click.command("verify-files")
@click.argument("reference", shell_complete=LOCAL_MODEL)
@click.option("--lock", "lock_file", type=_FILE, help="Against this lock instead of our own.")
@click.option("--key", help="The lock must be signed with this public key (hex, base64 or PEM).")
@click.option("--signature", type=_FILE, help="Where the lock's signature is (LOCK.sig).")
@click.option(
    "--model-signature", "bundle", type=_FILE, help="An OpenSSF signature that must cover them."
)
@click.option("--signer-key", type=_FILE, help="The EC public key of that signature.")
@click.option(
    "--signer-chain", type=_FILE, multiple=True, help="Or its certificate authorities, one by one."
)
@JSON_OPTION
def command(
    reference: str,
    lock_file: Path | None,
    key: str | None,
    signature: Path | None,
    bundle: Path | None,
    signer_key: Path | None,
    signer_chain: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Hash every file of REFERENCE in full and compare. Nothing is asked of any network."""
    if key is not None and lock_file is None:
        raise InvalidRequest("--key is about a lock: add --lock.", field="key")
    library = Library.open(settings_from())
    model = library.local(reference, progress=progress())
    lock = locking.read(lock_file) if lock_file else Dossiers.open(library).of(model).lock
    if lock_file is not None and key is not None:
        beside = signature or lock_file.with_name(lock_file.name + ".sig")
        data = locking.read_bounded(beside, signing.MAX_SIGNATURE_BYTES)
        signed = signing.decode_signature(data, what=str(beside))
        signing.verify(lock, signed, signing.read_public_key(key))
        notice("The lock's signature is right.")
    files = _hashed(model, lock, progress())
    require_locked(lock, files, template_digest(model.header.chat_template))
    signer = _vouched(bundle, signer_key, signer_chain, files)
    if as_json:
        print_json(
            {
                "reference": lock.reference,
                "files": [{"name": f.name, "size": f.size, "sha256": f.sha256} for f in files],
                "signed_by": signer,
            }
        )
        return
    for file in files:
        click.echo(f"{file.sha256}  {file.name}")
    if signer is not None:
        notice(f"Signed by {signer}.")


def _hashed(model: LocalModel, lock: Lock, watcher: Progress) -> tuple[ModelFile, ...]:
    """Every file, read from its first byte to its last whatever its times say."""
    names = [file.path for file in lock.files]
    found = []
    for number, path in enumerate(model.whole):
        name = names[number] if number < len(names) else path.name
        size = path.stat().st_size
        watcher.begin(f"verifying {name}", size, 0)
        try:
            found.append(ModelFile(name, size, hash_file(path, advance=watcher.advance)))
        finally:
            watcher.end()
    return tuple(found)


def _vouched(
    signature: Path | None,
    key: Path | None,
    chain: tuple[Path, ...],
    files: tuple[ModelFile, ...],
) -> str | None:
    """Who signed the model; None when no signature was named."""
    if signature is None:
        return None
    bundle = model_signature.read_signature(signature)
    if key is not None and not chain:
        signed = model_signature.verify_with_key(bundle, model_signature.read_key(key))
    elif chain and key is None:
        authorities = model_signature.read_certificates(chain)
        signed = model_signature.verify_with_certificates(
            bundle, authorities, now=datetime.datetime.now(datetime.UTC)
        )
    else:
        raise InvalidRequest(
            "Say whom to trust: --signer-key, or --signer-chain.", field="signer_key"
        )
    model_signature.require_covered(signed, files)
    return f"{signed.signer.name} (SHA-256 {signed.signer.fingerprint})"
