"""Signing a lock with Ed25519, and verifying it with a key one was given beforehand.

What is signed is the canonical bytes of the lock and nothing else, so any Ed25519
implementation can verify them. The signature is a JSON document of its own that names its
key; a key is trusted because the caller names it, never because the signature does.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from pathlib import Path
from typing import Literal

import msgspec
import rfc8785
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)

from freehold.domain.errors import InvalidSetting, UntrustedSignature
from freehold.process.decoding import from_json
from freehold.trust.lock import Lock, encode
from freehold.weights.files import is_sha256

MAX_SIGNATURE_BYTES = 4096
_MAX_KEY_BYTES = 16384
_KEY_LENGTH = 32
_SIGNATURE_LENGTH = 64
_MAKE_ONE = "Make a key pair with: freehold lock --new-key FILE"
_PUBLIC_FORMS = "A public key is a PEM file, 64 hex digits, or 32 bytes in base64."


class Signature(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``key`` is the id of the public key (see `key_id`), ``signature`` its 64 bytes."""

    algorithm: Literal["ed25519"]
    key: str
    signature: bytes


# Keys


def generate_key(path: Path) -> Ed25519PrivateKey:
    """Make a key and write it as PEM, for its owner alone. Never replaces a file."""
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise InvalidSetting(
            f"{path} exists; a key is never overwritten.", hint="Name a new file."
        ) from None
    except OSError as error:
        raise InvalidSetting(f"{path} cannot be written: {error.strerror}.") from error
    with os.fdopen(descriptor, "wb") as file:
        file.write(pem)
        file.flush()
        os.fsync(file.fileno())
    return key


def read_private_key(path: Path) -> Ed25519PrivateKey:
    """The key in a PEM file. Raises `InvalidSetting`."""
    try:
        key = serialization.load_pem_private_key(_read(path), password=None)
    except TypeError as error:  # what cryptography raises for an encrypted one
        raise InvalidSetting(f"The key in {path} is encrypted; that is not supported.") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InvalidSetting(f"{path} holds no private key in PEM form.", hint=_MAKE_ONE) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise InvalidSetting(
            f"{path} holds a key of another kind; locks are signed with Ed25519.", hint=_MAKE_ONE
        )
    return key


def read_public_key(text: str) -> Ed25519PublicKey:
    """A pinned key: hex, base64, or the name of a PEM file. Raises `InvalidSetting`."""
    raw = _raw_key(text)
    if raw is not None:
        return Ed25519PublicKey.from_public_bytes(raw)
    path = Path(text)
    data = _read(path)
    try:
        key = serialization.load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        if b"PRIVATE KEY" in data:
            raise InvalidSetting(
                f"{path} holds a private key; a signature is verified with the public one.",
                hint=_PUBLIC_FORMS,
            ) from error
        raise InvalidSetting(f"{path} holds no public key.", hint=_PUBLIC_FORMS) from error
    if not isinstance(key, Ed25519PublicKey):
        raise InvalidSetting(
            f"{path} holds a key of another kind; locks are signed with Ed25519.",
            hint=_PUBLIC_FORMS,
        )
    return key


def public_text(key: Ed25519PublicKey) -> str:
    """The key as 64 hex digits, to be handed to those who verify."""
    return key.public_bytes_raw().hex()


def key_id(key: Ed25519PublicKey) -> str:
    """SHA-256 of the raw public key."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()


def _raw_key(text: str) -> bytes | None:
    for read in (bytes.fromhex, _from_base64):
        try:
            raw = read(text)
        except (ValueError, binascii.Error):
            continue
        if len(raw) == _KEY_LENGTH:
            return raw
    return None


def _from_base64(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_KEY_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "that is no name of a file"
        raise InvalidSetting(
            f"The key {str(path)!r} cannot be read: {reason}.", hint=_PUBLIC_FORMS
        ) from error
    if len(data) > _MAX_KEY_BYTES:
        raise InvalidSetting(f"{path} is too large to be a key.")
    return data


# Signatures


def sign(lock: Lock, key: Ed25519PrivateKey) -> Signature:
    return Signature("ed25519", key_id(key.public_key()), key.sign(encode(lock)))


def verify(lock: Lock, signature: Signature, key: Ed25519PublicKey) -> None:
    """Raise `UntrustedSignature` unless ``key`` signed just this lock."""
    if signature.key != key_id(key):
        raise UntrustedSignature(
            f"The lock of {lock.reference} was signed with the key {signature.key}, "
            f"not with {key_id(key)}.",
            hint="Verify with the key of the one who signed, if you trust that one.",
        )
    try:
        key.verify(signature.signature, encode(lock))
    except InvalidSignature:
        raise UntrustedSignature(
            f"The lock of {lock.reference} is not the one that was signed.",
            hint="It was changed since (a decision recorded later changes it too). "
            "Get the original, or have it signed again.",
        ) from None


def encode_signature(signature: Signature) -> bytes:
    return rfc8785.dumps(msgspec.to_builtins(signature))


def decode_signature(data: bytes, *, what: str = "The signature") -> Signature:
    """Read a detached signature. Raises `UntrustedSignature`."""
    if len(data) > MAX_SIGNATURE_BYTES:
        raise UntrustedSignature(f"{what} is too large to be a signature.")
    try:
        signature = from_json(data, Signature)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UntrustedSignature(f"{what} is not a signature of a lock: {error}.") from error
    if not is_sha256(signature.key) or len(signature.signature) != _SIGNATURE_LENGTH:
        raise UntrustedSignature(f"{what} is damaged: its key or its signature has a wrong length.")
    return signature
