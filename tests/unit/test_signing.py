"""Signed locks: the right key, and everything that is not."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa, x25519
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from freehold.domain.errors import InvalidSetting, UntrustedSignature
from freehold.trust.lock import encode, with_decision
from freehold.trust.locks import Locks
from freehold.trust.signing import (
    decode_signature,
    encode_signature,
    generate_key,
    key_id,
    public_text,
    read_private_key,
    read_public_key,
    sign,
    verify,
)
from tests.support.locked import DECISION, LOCK, with_

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = KEY.public_key()
SIGNATURE = sign(LOCK, KEY)

PrivateKey = (
    ed25519.Ed25519PrivateKey
    | ec.EllipticCurvePrivateKey
    | rsa.RSAPrivateKey
    | x25519.X25519PrivateKey
)


def private_pem(key: PrivateKey, password: bytes | None = None) -> bytes:
    how: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if password is not None:
        how = serialization.BestAvailableEncryption(password)
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, how)


def public_pem(key: PrivateKey) -> bytes:
    return key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def others() -> list[PrivateKey]:
    return [
        ec.generate_private_key(ec.SECP256R1()),
        rsa.generate_private_key(65537, 2048),
        x25519.X25519PrivateKey.generate(),
    ]


# Keys


def test_a_new_key_is_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    key = generate_key(path)
    assert path.stat().st_mode & 0o777 == 0o600
    again = read_private_key(path)
    assert again.private_bytes_raw() == key.private_bytes_raw()


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    path.write_text("mine")
    with pytest.raises(InvalidSetting, match="never overwritten"):
        generate_key(path)
    assert path.read_text() == "mine"
    with pytest.raises(InvalidSetting, match="No such file"):
        generate_key(tmp_path / "nowhere" / "key.pem")


def test_a_public_key_is_read_in_three_forms(tmp_path: Path) -> None:
    path = tmp_path / "key.pub"
    path.write_bytes(public_pem(KEY))
    raw = PUBLIC.public_bytes_raw()
    for text in (str(path), raw.hex(), raw.hex().upper(), base64.b64encode(raw).decode()):
        assert read_public_key(text).public_bytes_raw() == raw
    assert read_public_key(public_text(PUBLIC)).public_bytes_raw() == raw


def test_a_private_key_is_not_pinned(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    generate_key(path)
    with pytest.raises(InvalidSetting, match="private key; a signature is verified"):
        read_public_key(str(path))


def test_keys_of_another_kind_are_named_as_such(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    for key in others():
        path.write_bytes(private_pem(key))
        with pytest.raises(InvalidSetting, match="another kind; locks are signed with Ed25519"):
            read_private_key(path)
        path.write_bytes(public_pem(key))
        with pytest.raises(InvalidSetting, match="another kind; locks are signed with Ed25519"):
            read_public_key(str(path))


def test_an_encrypted_key_is_named_as_such(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(private_pem(KEY, b"secret"))
    with pytest.raises(InvalidSetting, match="is encrypted"):
        read_private_key(path)


@pytest.mark.parametrize("content", [b"", b"text", b"\0" * 100, b"-----BEGIN PUBLIC KEY-----\n"])
def test_what_is_no_key_is_said_to_be_none(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(content)
    with pytest.raises(InvalidSetting, match="no private key"):
        read_private_key(path)
    with pytest.raises(InvalidSetting, match="no public key"):
        read_public_key(str(path))


@pytest.mark.parametrize("text", ["ab" * 31, "nobody.pem", "", "\0", "x" * 5000])
def test_a_key_that_is_neither_text_nor_file_is_refused(text: str) -> None:
    with pytest.raises(InvalidSetting, match="cannot be read") as caught:
        read_public_key(text)
    assert "64 hex digits" in str(caught.value.hint)


def test_an_endless_key_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(b"x" * 20_000)
    with pytest.raises(InvalidSetting, match="too large"):
        read_public_key(str(path))


# Signatures


def test_a_signed_lock_is_verified() -> None:
    verify(LOCK, SIGNATURE, PUBLIC)
    verify(LOCK, decode_signature(encode_signature(SIGNATURE)), PUBLIC)
    assert json.loads(encode_signature(SIGNATURE)).keys() == {"algorithm", "key", "signature"}


def test_the_signature_is_over_the_bytes_of_the_lock() -> None:
    PUBLIC.verify(SIGNATURE.signature, encode(LOCK))


@pytest.mark.skipif(not shutil.which("openssl"), reason="there is no openssl here")
def test_openssl_verifies_it_too(tmp_path: Path) -> None:
    (tmp_path / "lock.json").write_bytes(encode(LOCK))
    (tmp_path / "signature").write_bytes(SIGNATURE.signature)
    (tmp_path / "key.pub").write_bytes(public_pem(KEY))
    subprocess.run(
        [
            *("openssl", "pkeyutl", "-verify", "-pubin", "-inkey", "key.pub"),
            *("-rawin", "-in", "lock.json", "-sigfile", "signature"),
        ],
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )


def test_another_key_is_named() -> None:
    other = Ed25519PrivateKey.generate().public_key()
    with pytest.raises(UntrustedSignature, match=key_id(PUBLIC)) as caught:
        verify(LOCK, SIGNATURE, other)
    assert key_id(other) in caught.value.message
    assert caught.value.code == "untrusted_signature"


def test_a_signature_that_names_the_pinned_key_proves_nothing_by_that() -> None:
    forged = sign(LOCK, Ed25519PrivateKey.generate())
    claimed = type(forged)("ed25519", key_id(PUBLIC), forged.signature)
    with pytest.raises(UntrustedSignature, match="not the one that was signed"):
        verify(LOCK, claimed, PUBLIC)


def test_a_changed_lock_is_found_out() -> None:
    (file,) = LOCK.files
    changed = [
        with_(LOCK, source="https://huggingface.co/somebody/else"),
        with_(LOCK, files=(type(file)(file.path, file.size, "f" * 64),)),
        with_(LOCK, template_sha256=None),
        with_(LOCK, releases=LOCK.releases[:1]),
        with_decision(LOCK, DECISION),
    ]
    for lock in changed:
        with pytest.raises(UntrustedSignature, match="not the one that was signed"):
            verify(lock, SIGNATURE, PUBLIC)


def test_a_signature_with_any_bit_turned_is_found_out() -> None:
    for index in range(len(SIGNATURE.signature)):
        turned = bytearray(SIGNATURE.signature)
        turned[index] ^= 1 << index % 8
        with pytest.raises(UntrustedSignature):
            verify(LOCK, type(SIGNATURE)("ed25519", SIGNATURE.key, bytes(turned)), PUBLIC)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("algorithm", "none"),
        ("algorithm", None),
        ("key", "abc"),
        ("signature", ""),
        ("signature", "not base64!"),
        ("signature", base64.b64encode(b"short").decode()),
        ("signature", [1, 2, 3]),
        ("public_key", "ab" * 32),
    ],
)
def test_a_damaged_signature_is_refused(key: str, value: object) -> None:
    document = {**json.loads(encode_signature(SIGNATURE)), key: value}
    with pytest.raises(UntrustedSignature, match=r"^theirs\.json is"):
        decode_signature(json.dumps(document).encode(), what="theirs.json")


@pytest.mark.parametrize("data", [b"", b"[]", b"\xff", b"[" * 4096, b" " * 5000])
def test_what_is_no_signature_is_refused(data: bytes) -> None:
    with pytest.raises(UntrustedSignature):
        decode_signature(data)


# In the store


def test_a_signature_lies_beside_its_lock(tmp_path: Path) -> None:
    locks = Locks(tmp_path)
    locks.put(LOCK)
    assert locks.signature(LOCK.reference) is None
    locks.put_signature(LOCK.reference, encode_signature(SIGNATURE))
    assert locks.signature(LOCK.reference) == SIGNATURE
    assert locks.all() == (LOCK,)
    locks.remove(LOCK.reference)
    assert locks.signature(LOCK.reference) is None
