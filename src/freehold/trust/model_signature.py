"""Verifying OpenSSF model signatures: which files of a model somebody vouched for.

Only what the caller pins is trusted: an EC public key, or certificate authorities named one
by one. Never the network, never the certificates of the web, never the signature's own word
on what may be left out: a file is covered when it is listed with the SHA-256 it has, and
`require_covered` asks that of every file that will be opened.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import verification
from cryptography.x509.oid import ExtendedKeyUsageOID

from freehold.domain.errors import DigestMismatch, InvalidSetting, UntrustedSignature
from freehold.trust.lock import read_bounded
from freehold.trust.signature_bundle import (
    MAX_BUNDLE_BYTES,
    MAX_CHAIN,
    Envelope,
    Listing,
    open_bundle,
    read_statement,
)
from freehold.weights.registry import ModelFile

_MAX_PEM_BYTES: Final = 1 << 20
_HASHES: Final[Mapping[str, hashes.HashAlgorithm]] = MappingProxyType(
    {"secp256r1": hashes.SHA256(), "secp384r1": hashes.SHA384(), "secp521r1": hashes.SHA512()}
)


@dataclass(frozen=True)
class Signer:
    """Who vouched: ``name`` says it for people, ``fingerprint`` is the SHA-256 of the key.

    It is that of the public key in PEM form, as model signatures themselves write it.
    """

    name: str
    fingerprint: str


@dataclass(frozen=True)
class SignedModel:
    """What a verified signature says: ``files`` maps names to their SHA-256."""

    listing: Listing
    signer: Signer

    @property
    def files(self) -> Mapping[str, str]:
        return self.listing.files


# What the caller pins


def read_key(path: Path) -> ec.EllipticCurvePublicKey:
    """The EC public key in a PEM file. Raises `InvalidSetting`, `RefusedFile` if unreadable."""
    data = _read_pem(path)
    try:
        key = serialization.load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InvalidSetting(f"{path} holds no public key in PEM form.") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in _HASHES:
        raise InvalidSetting(
            f"{path} holds a key of another kind; model signatures use the curves "
            f"{', '.join(_HASHES)}."
        )
    return key


def read_certificates(paths: Iterable[Path]) -> tuple[x509.Certificate, ...]:
    """The certificates in PEM files, to be trusted as authorities.

    Raises `InvalidSetting`, and `RefusedFile` for a file that cannot be read.
    """
    found: list[x509.Certificate] = []
    for path in paths:
        try:
            found += x509.load_pem_x509_certificates(_read_pem(path))
        except ValueError as error:
            raise InvalidSetting(f"{path} holds no certificates in PEM form.") from error
    return tuple(found)


def _read_pem(path: Path) -> bytes:
    data = read_bounded(path, _MAX_PEM_BYTES)
    if len(data) > _MAX_PEM_BYTES:
        raise InvalidSetting(f"{path} is too large to hold keys or certificates.")
    return data


# Verifying


def read_signature(path: Path) -> bytes:
    """The bytes of a signature file. Raises `RefusedFile`."""
    return read_bounded(path, MAX_BUNDLE_BYTES)


def verify_with_key(bundle: bytes, key: ec.EllipticCurvePublicKey) -> SignedModel:
    """What ``key`` signed. Raises `UntrustedSignature`."""
    envelope = open_bundle(bundle)
    if envelope.hint is None:
        raise UntrustedSignature(
            "The model was signed with a certificate, not with a bare key.",
            hint="Verify with the certificates of its authority, if you trust that one.",
        )
    fingerprint = _fingerprint(key)
    if envelope.hint not in ("", fingerprint):
        raise UntrustedSignature(
            f"The model was signed with the key {envelope.hint}, not with {fingerprint}.",
            hint="Verify with the key of the one who signed, if you trust that one.",
        )
    _verify_envelope(envelope, key)
    return SignedModel(
        read_statement(envelope.payload), Signer(f"the key {fingerprint}", fingerprint)
    )


def verify_with_certificates(
    bundle: bytes, trusted: Sequence[x509.Certificate], *, now: datetime.datetime
) -> SignedModel:
    """What was signed under a certificate that ``trusted`` vouch for, valid at ``now``.

    Nothing is trusted by default: without ``trusted`` everything is refused. Nor is a
    certificate that has expired since it signed, for nobody witnessed when that was. Raises
    `UntrustedSignature`, and `InvalidSetting` without ``trusted``.
    """
    if not trusted:
        raise InvalidSetting(
            "Name the certificates to trust: without them any web server's certificate would do.",
            hint="Give the PEM file of the authority that signs for the model's publisher.",
        )
    envelope = open_bundle(bundle)
    if envelope.chain is None:
        raise UntrustedSignature(
            "The model was signed with a bare key, not with a certificate.",
            hint="Verify with its public key, if you have it from somebody you trust.",
        )
    leaf = _verified_leaf(envelope.chain, trusted, now)
    key = leaf.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in _HASHES:
        raise UntrustedSignature("The certificate's key is not of a kind that signs models.")
    _verify_envelope(envelope, key)
    subject = leaf.subject.rfc4514_string()
    return SignedModel(
        read_statement(envelope.payload), Signer(f"the certificate {subject}", _fingerprint(key))
    )


def require_covered(signed: SignedModel, files: Iterable[ModelFile]) -> None:
    """Raise unless every file is one the signature lists, with the SHA-256 it lists.

    Raises `DigestMismatch` for a listed file with other bytes, else `UntrustedSignature`.
    """
    for file in files:
        expected = signed.files.get(file.name)
        if expected is None:
            left_out = file.name in signed.listing.ignored
            raise UntrustedSignature(
                f"{file.name} is not covered by the signature of {signed.listing.model}"
                + (", which tells verifiers to ignore it." if left_out else "."),
                hint="Every file that is opened must be signed.",
            )
        if expected != file.sha256:
            raise DigestMismatch(
                f"{file.name}, signed by {signed.signer.name},",
                expected=expected,
                actual=file.sha256,
                hint="Fetch the file that was signed.",
            )


# Proving


def _verify_envelope(envelope: Envelope, key: ec.EllipticCurvePublicKey) -> None:
    algorithm = ec.ECDSA(_HASHES[key.curve.name])
    try:
        key.verify(envelope.signature, envelope.signed_bytes, algorithm)
    except InvalidSignature:
        raise UntrustedSignature(
            "The signature does not fit: it was changed, or made with another key.",
            hint="Get signature and key again, from those who publish them.",
        ) from None


def _fingerprint(key: ec.EllipticCurvePublicKey) -> str:
    pem = key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(pem).hexdigest()


# Certificates


def _verified_leaf(
    chain: tuple[bytes, ...], trusted: Sequence[x509.Certificate], now: datetime.datetime
) -> x509.Certificate:
    try:
        leaf, *others = map(x509.load_der_x509_certificate, chain)
        verifier = (
            verification.PolicyBuilder()
            .store(verification.Store(list(trusted)))
            .time(now)
            .max_chain_depth(MAX_CHAIN)
            .extension_policies(ca_policy=_authorities(), ee_policy=_signers())
            .build_client_verifier()
        )
        verifier.verify(leaf, others)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise UntrustedSignature(f"The signature's certificates are damaged: {error}.") from error
    except verification.VerificationError as error:
        raise UntrustedSignature(
            f"The certificate of the signature is not trusted: {error}.",
            hint="It must be valid today, made for signing, and issued under the certificates "
            "you named.",
        ) from error
    return leaf


_EITHER: Final = verification.Criticality.AGNOSTIC


def _authorities() -> verification.ExtensionPolicy:
    """The rules of the web for authorities, without what private ones tend to leave out."""
    return (
        verification.ExtensionPolicy.webpki_defaults_ca()
        .may_be_present(x509.AuthorityKeyIdentifier, _EITHER, None)
        .may_be_present(x509.SubjectKeyIdentifier, _EITHER, None)
        .may_be_present(x509.ExtendedKeyUsage, _EITHER, _require_code_signing)
    )


def _signers() -> verification.ExtensionPolicy:
    return (
        verification.ExtensionPolicy.webpki_defaults_ee()
        .may_be_present(x509.AuthorityKeyIdentifier, _EITHER, None)
        .may_be_present(x509.SubjectAlternativeName, _EITHER, None)
        .require_present(x509.KeyUsage, _EITHER, _require_signatures)
        .may_be_present(x509.ExtendedKeyUsage, _EITHER, _require_code_signing)
    )


def _require_signatures(
    _policy: verification.Policy, _certificate: x509.Certificate, usage: x509.KeyUsage
) -> None:
    if not usage.digital_signature:
        raise ValueError("its key is not for signatures")


def _require_code_signing(
    _policy: verification.Policy,
    _certificate: x509.Certificate,
    usage: x509.ExtendedKeyUsage | None,
) -> None:
    """Where a purpose is stated it must be this one, or every web server could sign."""
    if usage is not None and ExtendedKeyUsageOID.CODE_SIGNING not in usage:
        raise ValueError("it is for another purpose than signing code")
