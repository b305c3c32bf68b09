"""OpenSSF model signatures: made by the official library, verified by ours, and then attacked."""

from __future__ import annotations

import base64
import datetime
import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from model_signing import hashing, signing, verifying

from freehold.domain.errors import (
    DigestMismatch,
    InvalidSetting,
    RefusedFile,
    UntrustedSignature,
)
from freehold.trust.model_signature import (
    SignedModel,
    read_certificates,
    read_key,
    read_signature,
    require_covered,
    verify_with_certificates,
    verify_with_key,
)
from freehold.trust.signature_bundle import MAX_BUNDLE_BYTES
from freehold.weights.files import hash_file
from freehold.weights.registry import ModelFile

FILES = {
    "model-00001-of-00002.gguf": b"first part" * 100,
    "model-00002-of-00002.gguf": b"second part" * 100,
    "tokenizer_config.json": b"{}",
    "folder/README.md": b"# A model",
}
KEY = ec.generate_private_key(ec.SECP256R1())
PUBLIC = KEY.public_key()
NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)


def private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def public_pem(key: ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey) -> bytes:
    return key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def files_in(folder: Path) -> list[ModelFile]:
    """What a loader would open: every file, with the digest it has now."""
    return [
        ModelFile(path.relative_to(folder).as_posix(), path.stat().st_size, hash_file(path))
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    ]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def digesting() -> hashing.Config:
    return hashing.Config()  # type: ignore[no-untyped-call]


def signing_() -> signing.Config:
    return signing.Config()  # type: ignore[no-untyped-call]


def verifying_() -> verifying.Config:
    return verifying.Config()  # type: ignore[no-untyped-call]


def sign(
    model: Path,
    key: ec.EllipticCurvePrivateKey = KEY,
    how: hashing.Config | None = None,
) -> bytes:
    """The official library's signature over a folder or file."""
    pem = model.parent / "key.pem"
    pem.write_bytes(private_pem(key))
    signature = model.parent / "model.sig"
    signing_().set_hashing_config(how or digesting()).use_elliptic_key_signer(private_key=pem).sign(
        model, signature
    )
    return read_signature(signature)


# Signed by key


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()])
def test_the_official_signature_is_verified(model: Path, curve: ec.EllipticCurve) -> None:
    key = ec.generate_private_key(curve)
    signed = verify_with_key(sign(model, key), key.public_key())
    assert signed.files == {
        name: hashlib.sha256(content).hexdigest() for name, content in FILES.items()
    }
    assert signed.listing.model == "model"
    assert signed.signer.fingerprint == hashlib.sha256(public_pem(key.public_key())).hexdigest()
    require_covered(signed, files_in(model))


def test_a_single_file_is_covered_under_its_name(model: Path) -> None:
    path = model / "model-00001-of-00002.gguf"
    signed = verify_with_key(sign(path), PUBLIC)
    file = ModelFile(path.name, path.stat().st_size, hash_file(path))
    require_covered(signed, [file])
    assert list(signed.files) == [path.name]


@pytest.mark.parametrize("name", FILES)
def test_a_byte_changed_in_any_file_is_found_out(model: Path, name: str) -> None:
    signed = verify_with_key(sign(model), PUBLIC)
    content = bytearray((model / name).read_bytes())
    content[len(content) // 2] ^= 1
    (model / name).write_bytes(content)
    with pytest.raises(DigestMismatch, match=f"{name}, signed by the key"):
        require_covered(signed, files_in(model))


def test_an_added_file_is_not_covered(model: Path) -> None:
    signed = verify_with_key(sign(model), PUBLIC)
    (model / "added.json").write_bytes(b"{}")
    with pytest.raises(UntrustedSignature, match=r"added\.json is not covered"):
        require_covered(signed, files_in(model))


def test_a_file_the_signature_says_to_ignore_is_not_covered(model: Path) -> None:
    ignoring = digesting().set_ignored_paths(paths=["tokenizer_config.json"])
    bundle = sign(model, how=ignoring)
    (model / "tokenizer_config.json").write_bytes(b'{"chat_template": "evil"}')
    pem = model.parent / "key.pub"
    pem.write_bytes(public_pem(PUBLIC))
    # The official verifier is content with the changed file: that is the trap.
    official = verifying_().use_elliptic_key_verifier(public_key=pem)
    official.verify(model, model.parent / "model.sig")
    signed = verify_with_key(bundle, PUBLIC)
    with pytest.raises(UntrustedSignature, match="which tells verifiers to ignore it"):
        require_covered(signed, files_in(model))


def test_a_file_below_an_ignored_folder_is_not_covered(model: Path) -> None:
    ignoring = digesting().set_ignored_paths(paths=["folder"])
    signed = verify_with_key(sign(model, how=ignoring), PUBLIC)
    with pytest.raises(UntrustedSignature, match=r"folder/README\.md is not covered"):
        require_covered(signed, files_in(model))


def test_a_link_that_was_allowed_still_has_to_lead_to_the_signed_bytes(model: Path) -> None:
    outside = model.parent / "outside.gguf"
    outside.write_bytes(b"signed through a link")
    (model / "link.gguf").symlink_to(outside)
    bundle = sign(model, how=digesting().set_allow_symlinks(True))
    signed = verify_with_key(bundle, PUBLIC)
    require_covered(signed, files_in(model))
    outside.write_bytes(b"changed behind the link")
    with pytest.raises(DigestMismatch, match=r"link\.gguf"):
        require_covered(signed, files_in(model))


def test_two_signed_files_may_not_change_places(model: Path) -> None:
    signed = verify_with_key(sign(model), PUBLIC)
    first, second = model / "model-00001-of-00002.gguf", model / "model-00002-of-00002.gguf"
    one, two = first.read_bytes(), second.read_bytes()
    first.write_bytes(two)
    second.write_bytes(one)
    with pytest.raises(DigestMismatch):
        require_covered(signed, files_in(model))


def test_another_key_is_refused(model: Path) -> None:
    other = ec.generate_private_key(ec.SECP256R1()).public_key()
    with pytest.raises(UntrustedSignature, match="was signed with the key"):
        verify_with_key(sign(model), other)


@pytest.mark.parametrize("how", ["shards", "blake2", "blake3"])
def test_digests_we_cannot_compare_are_refused_in_words(model: Path, how: str) -> None:
    if how == "shards":
        config = digesting().use_shard_serialization()
    elif how == "blake2":
        config = digesting().use_file_serialization(hashing_algorithm="blake2")
    else:
        config = digesting().use_file_serialization(hashing_algorithm="blake3")
    with pytest.raises(UntrustedSignature, match=how) as caught:
        verify_with_key(sign(model, how=config), PUBLIC)
    assert "model-signing 1.0" in str(caught.value.hint)


def test_verifying_opens_no_socket(model: Path) -> None:
    bundle = sign(model)
    assert verify_with_key(bundle, PUBLIC)
    (model.parent / "key.pub").write_bytes(public_pem(PUBLIC))
    code = """
import sys
def watch(event, _):
    if event.startswith("socket."):
        raise SystemExit(f"{event} happened")
sys.addaudithook(watch)
from pathlib import Path
from freehold.trust.model_signature import read_key, read_signature, verify_with_key
folder = Path(sys.argv[1])
bundle, key = read_signature(folder / "model.sig"), read_key(folder / "key.pub")
print(len(verify_with_key(bundle, key).files))
"""
    result = subprocess.run(
        [sys.executable, "-P", "-c", code, str(model.parent)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout == "4\n"


# Bundles nobody's library would write


def statement(**changes: object) -> dict[str, object]:
    digest = hashlib.sha256(b"weights").hexdigest()
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [
            {
                "name": "model",
                "digest": {"sha256": hashlib.sha256(bytes.fromhex(digest)).hexdigest()},
            }
        ],
        "predicateType": "https://model_signing/signature/v1.0",
        "predicate": {
            "serialization": {"method": "files", "hash_type": "sha256", "allow_symlinks": False},
            "resources": [{"name": "model.gguf", "algorithm": "sha256", "digest": digest}],
        },
        **changes,
    }


def seal(
    payload: bytes, *, material: dict[str, object] | None = None, **changes: object
) -> dict[str, object]:
    """A bundle with a right signature over ``payload``."""
    kind = "application/vnd.in-toto+json"
    signed = f"DSSEv1 {len(kind)} {kind} {len(payload)} ".encode() + payload
    signature = KEY.sign(signed, ec.ECDSA(hashes.SHA256()))
    return {
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        "verificationMaterial": material or {"publicKey": {"hint": ""}, "tlogEntries": []},
        "dsseEnvelope": {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": kind,
            "signatures": [{"sig": base64.b64encode(signature).decode(), "keyid": ""}],
        },
        **changes,
    }


def verified(bundle: dict[str, object]) -> SignedModel:
    return verify_with_key(json.dumps(bundle).encode(), PUBLIC)


def verified_statement(**changes: object) -> SignedModel:
    return verified(seal(json.dumps(statement(**changes)).encode()))


def test_the_bundle_of_these_tests_is_a_sound_one() -> None:
    assert list(verified_statement().files) == ["model.gguf"]


def predicate(**changes: object) -> dict[str, object]:
    whole = statement()["predicate"]
    assert isinstance(whole, dict)
    return {"predicate": {**whole, **changes}}


def resource(name: str, digest: str, algorithm: str = "sha256") -> dict[str, str]:
    return {"name": name, "algorithm": algorithm, "digest": digest}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"_type": "https://in-toto.io/Statement/v0.1"}, "it states"),
        ({"predicateType": "https://slsa.dev/provenance/v1"}, "slsa"),
        ({"predicateType": "https://model_signing/Digests/v0.1"}, "before version 1.0"),
        ({"subject": []}, "subject"),
        ({"subject": statement()["subject"] * 2}, "subject"),  # type: ignore[operator]
        ({"subject": [{"name": "model", "digest": {"sha256": "0" * 64}}]}, "digest it states"),
        ({"subject": [{"name": "model", "digest": {"sha512": "0" * 64}}]}, "sha256"),
        (predicate(resources=[]), "resources"),
        (predicate(resources=[resource("a", "0" * 64)]), "digest it states"),
        (predicate(resources=[resource("a", "xyz")]), "not a SHA-256"),
        (predicate(resources=[resource("a", "0" * 64, "sha1")]), "sha1"),
        (predicate(resources=[resource("a" * 5000, "0" * 64)]), "name"),
        (predicate(serialization={"method": "guess"}), "guess"),
        (predicate(serialization={}), "method"),
        ({"predicate": None}, "predicate"),
    ],
)
def test_a_signed_statement_of_another_form_is_refused(
    changes: dict[str, object], words: str
) -> None:
    with pytest.raises(UntrustedSignature, match=words):
        verified_statement(**changes)


def test_a_file_listed_twice_is_refused() -> None:
    digests = ["0" * 64, "1" * 64]
    root = hashlib.sha256(bytes.fromhex("".join(digests))).hexdigest()
    with pytest.raises(UntrustedSignature, match="twice"):
        verified_statement(
            subject=[{"name": "m", "digest": {"sha256": root}}],
            **predicate(resources=[resource("a", digest) for digest in digests]),
        )


def test_fields_nobody_knows_are_passed_over() -> None:
    assert verified_statement(extra=1, **predicate(extra={"deep": []})).files


CHAIN = {"certificates": [{"rawBytes": ""}]}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"mediaType": "application/vnd.dev.sigstore.bundle+json;version=0.2"}, "media type"),
        ({"dsseEnvelope": None}, "dsseEnvelope"),
        ({"messageSignature": {}, "dsseEnvelope": None}, "dsseEnvelope"),
        ({"verificationMaterial": {"tlogEntries": []}}, "neither a key nor certificates"),
        (
            {"verificationMaterial": {"certificate": {"rawBytes": ""}, "tlogEntries": [{}]}},
            "signed keyless",
        ),
        (
            {
                "verificationMaterial": {
                    "x509CertificateChain": {"certificates": [{"rawBytes": ""}]}
                }
            },
            "with a certificate, not with a bare key",
        ),
        (
            {"verificationMaterial": {"publicKey": {"hint": "0" * 64}}},
            "signed with the key 0000",
        ),
    ],
)
def test_a_bundle_of_another_form_is_refused(change: dict[str, object], words: str) -> None:
    bundle = {**seal(json.dumps(statement()).encode()), **change}
    with pytest.raises(UntrustedSignature, match=words) as caught:
        verified(bundle)
    assert caught.value.code == "untrusted_signature"


def envelope(**changes: object) -> dict[str, object]:
    bundle = seal(json.dumps(statement()).encode())
    whole = bundle["dsseEnvelope"]
    assert isinstance(whole, dict)
    return {**bundle, "dsseEnvelope": {**whole, **changes}}


@pytest.mark.parametrize(
    ("bundle", "words"),
    [
        (envelope(signatures=[]), "0 signatures"),
        (envelope(signatures=[{"sig": ""}, {"sig": ""}]), "2 signatures"),
        (envelope(signatures=[{"sig": ""}]), "does not fit"),
        (envelope(signatures=[{"sig": "AAAA"}]), "does not fit"),
        (envelope(signatures=[{"sig": "!"}]), "base64"),
        (envelope(payload=base64.b64encode(b"{}").decode()), "does not fit"),
        (envelope(payloadType="text/plain"), "text/plain"),
    ],
)
def test_a_signature_that_does_not_fit_its_payload_is_refused(
    bundle: dict[str, object], words: str
) -> None:
    with pytest.raises(UntrustedSignature, match=words):
        verified(bundle)


def test_nothing_is_read_from_a_payload_before_its_signature_was_right() -> None:
    forged = envelope(payload=base64.b64encode(b"[" * 100_000).decode())
    with pytest.raises(UntrustedSignature, match="does not fit"):
        verified(forged)


@pytest.mark.parametrize(
    "payload", [b"", b"null", b"\xff", b"[" * 1_000_000, b'{"_type":"' + b"x" * 2000 + b'"}']
)
def test_a_signed_payload_that_is_no_statement_is_refused(payload: bytes) -> None:
    with pytest.raises(UntrustedSignature):
        verified(seal(payload))


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"\xff", b"[" * 1_000_000])
def test_what_is_no_bundle_is_refused(data: bytes) -> None:
    with pytest.raises(UntrustedSignature, match="not a model signature"):
        verify_with_key(data, PUBLIC)


def test_an_endless_signature_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "model.sig"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(UntrustedSignature, match=f"larger than {MAX_BUNDLE_BYTES:,}"):
        verify_with_key(read_signature(path), PUBLIC)


def test_only_ec_keys_are_pinned(tmp_path: Path) -> None:
    path = tmp_path / "key.pub"
    path.write_bytes(public_pem(PUBLIC))
    assert read_key(path) == PUBLIC
    path.write_bytes(public_pem(ed25519.Ed25519PrivateKey.generate().public_key()))
    with pytest.raises(InvalidSetting, match="another kind"):
        read_key(path)
    path.write_bytes(public_pem(ec.generate_private_key(ec.SECP256K1()).public_key()))
    with pytest.raises(InvalidSetting, match="another kind"):
        read_key(path)
    path.write_bytes(b"text")
    with pytest.raises(InvalidSetting, match="no public key"):
        read_key(path)
    with pytest.raises(RefusedFile, match="No such file"):
        read_key(tmp_path / "nobody.pub")


# Signed under a certificate


@dataclass(frozen=True)
class Authority:
    """A private certificate authority."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @classmethod
    def new(cls, name: str = "Root", *, valid: tuple[int, int] = (-10, 10)) -> Authority:
        key = ec.generate_private_key(ec.SECP256R1())
        return cls(key, certificate(name, key, name, key, valid=valid, authority=True))

    def issue(
        self,
        name: str = "Publisher",
        *,
        key: ec.EllipticCurvePrivateKey = KEY,
        valid: tuple[int, int] = (-1, 1),
        authority: bool = False,
        signs: bool = True,
        purpose: x509.ObjectIdentifier | None = ExtendedKeyUsageOID.CODE_SIGNING,
    ) -> x509.Certificate:
        issuer = self.certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value
        return certificate(
            name,
            key,
            str(issuer),
            self.key,
            valid=valid,
            authority=authority,
            signs=signs,
            purpose=purpose,
        )


def certificate(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: str,
    issuer_key: ec.EllipticCurvePrivateKey,
    *,
    valid: tuple[int, int],
    authority: bool,
    signs: bool = True,
    purpose: x509.ObjectIdentifier | None = None,
) -> x509.Certificate:
    """``valid`` is in days from now."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW + valid[0] * DAY)
        .not_valid_after(NOW + valid[1] * DAY)
        .add_extension(x509.BasicConstraints(authority, None), critical=True)
        .add_extension(
            x509.KeyUsage(
                digital_signature=signs and not authority,
                content_commitment=False,
                key_encipherment=not signs,
                data_encipherment=False,
                key_agreement=False,
                key_cert_sign=authority,
                crl_sign=authority,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
    )
    if purpose is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


def chained(*certificates: x509.Certificate) -> bytes:
    """A bundle signed by ``KEY`` that carries this chain."""
    raw = [
        {"rawBytes": base64.b64encode(one.public_bytes(serialization.Encoding.DER)).decode()}
        for one in certificates
    ]
    material: dict[str, object] = {"x509CertificateChain": {"certificates": raw}}
    return json.dumps(seal(json.dumps(statement()).encode(), material=material)).encode()


@pytest.fixture(scope="module")
def root() -> Authority:
    return Authority.new()


def test_the_official_certificate_signature_is_verified(model: Path, root: Authority) -> None:
    folder = model.parent
    (folder / "key.pem").write_bytes(private_pem(KEY))
    (folder / "leaf.pem").write_bytes(root.issue().public_bytes(serialization.Encoding.PEM))
    (folder / "root.pem").write_bytes(root.certificate.public_bytes(serialization.Encoding.PEM))
    signing_().use_certificate_signer(
        private_key=folder / "key.pem",
        signing_certificate=folder / "leaf.pem",
        certificate_chain=[folder / "root.pem"],
    ).sign(model, folder / "model.sig")
    trusted = read_certificates([folder / "root.pem"])
    signed = verify_with_certificates(read_signature(folder / "model.sig"), trusted, now=NOW)
    require_covered(signed, files_in(model))
    assert signed.signer.name == "the certificate CN=Publisher"


def test_without_certificates_to_trust_nothing_is_verified(root: Authority) -> None:
    with pytest.raises(InvalidSetting, match="Name the certificates to trust"):
        verify_with_certificates(chained(root.issue(), root.certificate), (), now=NOW)


def test_an_intermediate_authority_may_come_with_the_signature(root: Authority) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    between = Authority(key, root.issue("Between", key=key, authority=True, purpose=None))
    bundle = chained(between.issue(), between.certificate)
    assert verify_with_certificates(bundle, [root.certificate], now=NOW).files
    with pytest.raises(UntrustedSignature, match="not trusted"):
        verify_with_certificates(chained(between.issue()), [root.certificate], now=NOW)


def by_a_stranger_of_the_same_name(_: Authority) -> tuple[x509.Certificate, ...]:
    stranger = Authority.new()
    return stranger.issue(), stranger.certificate


def by_one_that_is_no_authority(root: Authority) -> tuple[x509.Certificate, ...]:
    key = ec.generate_private_key(ec.SECP256R1())
    between = Authority(key, root.issue("Between", key=key))
    return between.issue(), between.certificate


@pytest.mark.parametrize(
    "chain",
    [
        by_a_stranger_of_the_same_name,
        by_one_that_is_no_authority,
        lambda root: (root.issue(valid=(-5, -1)),),
        lambda root: (root.issue(valid=(1, 5)),),
        lambda root: (root.issue(purpose=ExtendedKeyUsageOID.SERVER_AUTH),),
        lambda root: (root.issue(signs=False),),
        lambda root: (root.issue(authority=True),),
    ],
    ids=[
        *("stranger", "no authority", "expired", "not yet valid"),
        *("for web servers", "not for signatures", "an authority itself"),
    ],
)
def test_a_certificate_that_proves_nothing_is_refused(
    root: Authority, chain: Callable[[Authority], tuple[x509.Certificate, ...]]
) -> None:
    with pytest.raises(UntrustedSignature, match="not trusted"):
        verify_with_certificates(chained(*chain(root)), [root.certificate], now=NOW)


def test_an_authority_that_has_expired_vouches_for_nothing() -> None:
    old = Authority.new(valid=(-10, -1))
    with pytest.raises(UntrustedSignature, match="not trusted"):
        verify_with_certificates(chained(old.issue()), [old.certificate], now=NOW)


def test_a_certificate_of_another_key_does_not_fit(root: Authority) -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    with pytest.raises(UntrustedSignature, match="does not fit"):
        verify_with_certificates(chained(root.issue(key=other)), [root.certificate], now=NOW)


@pytest.mark.parametrize("raw", [b"", b"\x30\x80", b"\0" * 100])
def test_damaged_certificates_are_refused(root: Authority, raw: bytes) -> None:
    material: dict[str, object] = {
        "x509CertificateChain": {"certificates": [{"rawBytes": base64.b64encode(raw).decode()}]}
    }
    bundle = json.dumps(seal(b"{}", material=material)).encode()
    with pytest.raises(UntrustedSignature, match="certificates are damaged"):
        verify_with_certificates(bundle, [root.certificate], now=NOW)


def test_a_long_chain_is_not_followed(root: Authority) -> None:
    with pytest.raises(UntrustedSignature, match="certificates"):
        verify_with_certificates(chained(*[root.issue()] * 9), [root.certificate], now=NOW)


def test_a_bare_key_is_no_certificate(root: Authority) -> None:
    bundle = json.dumps(seal(json.dumps(statement()).encode())).encode()
    with pytest.raises(UntrustedSignature, match="bare key, not with a certificate"):
        verify_with_certificates(bundle, [root.certificate], now=NOW)


def test_a_file_without_certificates_is_named(tmp_path: Path) -> None:
    path = tmp_path / "root.pem"
    path.write_text("text")
    with pytest.raises(InvalidSetting, match="no certificates"):
        read_certificates([path])
