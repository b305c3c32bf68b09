"""What is inside an OpenSSF model signature, parsed within bounds and not yet believed.

    Sigstore bundle v0.3 → DSSE envelope → in-toto statement → names and SHA-256 of files

`model_signature` verifies; this module knows the form. Fields it does not know are passed
over, as the format asks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Final, TypeVar

import msgspec

from freehold.domain.errors import UntrustedSignature
from freehold.process.decoding import from_json
from freehold.weights.files import is_sha256

MAX_BUNDLE_BYTES: Final = 16 << 20
MAX_CHAIN: Final = 8

_BUNDLE: Final = "application/vnd.dev.sigstore.bundle.v0.3+json"
_PAYLOAD: Final = "application/vnd.in-toto+json"
_STATEMENT: Final = "https://in-toto.io/Statement/v1"
_PREDICATE: Final = "https://model_signing/signature/v1.0"
_BEFORE_V1: Final = "https://model_signing/Digests/v0.1"
_WHOLE_MODEL: Final = "."  # the only resource of a signature over a single file
_SIGN_AGAIN: Final = "Ask for a signature made with model-signing 1.0 or later, its defaults kept."

Short = Annotated[str, msgspec.Meta(max_length=1024)]
Parsed = TypeVar("Parsed")


@dataclass(frozen=True)
class Envelope:
    """A signed payload and who claims to have signed it.

    ``hint`` names a bare key (empty: it is not named), ``chain`` holds DER certificates, the
    signer's first. One of the two is None.
    """

    payload: bytes
    signature: bytes
    hint: str | None
    chain: tuple[bytes, ...] | None

    @property
    def signed_bytes(self) -> bytes:
        """What the signature is over."""
        return b"DSSEv1 %d %b %d %b" % (
            len(_PAYLOAD),
            _PAYLOAD.encode(),
            len(self.payload),
            self.payload,
        )


@dataclass(frozen=True)
class Listing:
    """The files a statement lists, and the paths its maker left out."""

    model: str
    files: Mapping[str, str]
    ignored: tuple[str, ...]


# The bundle


class _Key(msgspec.Struct):
    hint: Short | None = None


class _Certificate(msgspec.Struct, rename="camel"):
    raw_bytes: bytes


class _Chain(msgspec.Struct):
    certificates: Annotated[
        tuple[_Certificate, ...], msgspec.Meta(min_length=1, max_length=MAX_CHAIN)
    ]


class _Material(msgspec.Struct, rename="camel"):
    public_key: _Key | None = None
    x509_certificate_chain: _Chain | None = None
    certificate: _Certificate | None = None  # keyless only


class _Signature(msgspec.Struct):
    sig: bytes


class _Envelope(msgspec.Struct, rename="camel"):
    payload: bytes
    payload_type: Short
    signatures: Annotated[tuple[_Signature, ...], msgspec.Meta(max_length=16)]


class _Bundle(msgspec.Struct, rename="camel"):
    media_type: Short
    verification_material: _Material
    dsse_envelope: _Envelope


def open_bundle(data: bytes) -> Envelope:
    """The envelope of a bundle of a kind we verify. Raises `UntrustedSignature`."""
    if len(data) > MAX_BUNDLE_BYTES:
        raise UntrustedSignature(f"The signature is larger than {MAX_BUNDLE_BYTES:,} bytes.")
    bundle = _parse(data, _Bundle)
    if bundle.media_type != _BUNDLE:
        raise _unknown(f"its media type is {bundle.media_type!r}")
    material, envelope = bundle.verification_material, bundle.dsse_envelope
    if material.certificate is not None:
        raise UntrustedSignature(
            "The model was signed keyless, through a public certificate service; "
            "freehold verifies keys and certificates that are pinned.",
            hint="Verify it with the model-signing tool, which asks that service's trust root.",
        )
    if envelope.payload_type != _PAYLOAD:
        raise _unknown(f"its payload is of type {envelope.payload_type!r}")
    if len(envelope.signatures) != 1:
        raise _unknown(f"it holds {len(envelope.signatures)} signatures instead of one")
    key, chain = material.public_key, material.x509_certificate_chain
    if (key is None) == (chain is None):
        raise _unknown("it names neither a key nor certificates, or both")
    return Envelope(
        payload=envelope.payload,
        signature=envelope.signatures[0].sig,
        hint=None if key is None else key.hint or "",
        chain=None if chain is None else tuple(one.raw_bytes for one in chain.certificates),
    )


# The statement


class _Kind(msgspec.Struct, rename="camel"):
    type: Short = msgspec.field(name="_type")
    predicate_type: Short


class _Digest(msgspec.Struct):
    sha256: str


class _Subject(msgspec.Struct):
    name: Short
    digest: _Digest


class _Resource(msgspec.Struct):
    name: Short
    algorithm: Short
    digest: Short


class _Serialization(msgspec.Struct):
    method: Short
    ignore_paths: Annotated[tuple[Short, ...], msgspec.Meta(max_length=10_000)] = ()


class _Predicate(msgspec.Struct):
    serialization: _Serialization
    resources: Annotated[tuple[_Resource, ...], msgspec.Meta(min_length=1, max_length=100_000)]


class _Statement(msgspec.Struct):
    subject: Annotated[tuple[_Subject, ...], msgspec.Meta(min_length=1, max_length=1)]
    predicate: _Predicate


def read_statement(payload: bytes) -> Listing:
    """What the payload lists. Raises `UntrustedSignature` for another or older form."""
    kind = _parse(payload, _Kind)
    if kind.predicate_type == _BEFORE_V1:
        raise UntrustedSignature(
            "The model was signed in the form used before version 1.0, which does not say "
            "whether files are missing.",
            hint=_SIGN_AGAIN,
        )
    if kind.type != _STATEMENT or kind.predicate_type != _PREDICATE:
        raise _unknown(f"it states {kind.predicate_type!r}")
    statement = _parse(payload, _Statement)
    (subject,) = statement.subject
    predicate = statement.predicate
    if predicate.serialization.method != "files":
        raise UntrustedSignature(
            f"The model was signed by {predicate.serialization.method!r}, not file by file.",
            hint=_SIGN_AGAIN,
        )
    _require_root(subject, predicate.resources)
    return Listing(
        subject.name,
        MappingProxyType(_files(subject, predicate.resources)),
        predicate.serialization.ignore_paths,
    )


def _files(subject: _Subject, resources: tuple[_Resource, ...]) -> dict[str, str]:
    if [resource.name for resource in resources] == [_WHOLE_MODEL]:
        return {subject.name: resources[0].digest}
    files = {resource.name: resource.digest for resource in resources}
    if len(files) < len(resources):
        raise _unknown("it lists a file twice")
    return files


def _require_root(subject: _Subject, resources: tuple[_Resource, ...]) -> None:
    """The subject's digest is that of all digests together, in their order."""
    root = hashlib.sha256()
    for resource in resources:
        if resource.algorithm != "sha256":
            raise UntrustedSignature(
                f"The model was signed with {resource.algorithm} digests; freehold knows files "
                "by their SHA-256.",
                hint=_SIGN_AGAIN,
            )
        if not is_sha256(resource.digest):
            raise _unknown(f"{resource.digest!r} is not a SHA-256")
        root.update(bytes.fromhex(resource.digest))
    if root.hexdigest() != subject.digest.sha256:
        raise _unknown("its list of files does not have the digest it states")


def _parse(data: bytes, kind: type[Parsed]) -> Parsed:
    try:
        return from_json(data, kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _unknown(str(error)) from error


def _unknown(why: str) -> UntrustedSignature:
    return UntrustedSignature(f"This is not a model signature freehold can verify: {why}.")
