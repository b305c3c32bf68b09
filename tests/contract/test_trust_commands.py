"""The commands about trust, as somebody types them: files of a few kilobytes, real processes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from tests.support.command import Result, freehold
from tests.support.fake_hub import FakeFile, FakeHub, FakeRepository
from tests.support.models import model_bytes, write_model

NOWHERE = {"HF_ENDPOINT": "http://127.0.0.1:9"}
WEIGHTS = FakeFile(model_bytes("small"))
REFERENCE = "hf:maker/Free-GGUF:free.gguf"


def text(said: str) -> FakeFile:
    return FakeFile(said.encode(), lfs=False)


@pytest.fixture(scope="module")
def hub() -> Iterator[FakeHub]:
    made = [
        FakeRepository(
            "maker/Free-GGUF",
            {
                "free.gguf": WEIGHTS,
                "README.md": text("---\nlicense: mit\nbase_model: maker/Free\n---\n"),
                "LICENSE": text("Ask me first.\n"),
            },
        ),
        FakeRepository("maker/Free", {"README.md": text("---\nlicense: mit\n---\n")}),
        FakeRepository(
            "maker/Other-GGUF",
            {
                "other.gguf": FakeFile(model_bytes("other")),
                "README.md": text("---\nlicense: apache-2.0\n---\n"),
            },
        ),
    ]
    with FakeHub(made) as hub:
        yield hub


@pytest.fixture(scope="module")
def home(hub: FakeHub, tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    for reference in (REFERENCE, "hf:maker/Other-GGUF:other.gguf"):
        pulled = freehold(home, "pull", reference, extra={"HF_ENDPOINT": hub.endpoint})
        assert pulled.status == 0, pulled
    return home


def ok(result: Result) -> Result:
    assert result.status == 0, result
    return result


def refused(result: Result, status: int) -> str:
    """One sentence and at most one hint, after whatever progress there was."""
    assert result.status == status, result
    lines = result.err.strip().splitlines()
    while lines[0].startswith("verifying "):
        lines = lines[1:]
    assert len(lines) <= 2, result.err
    assert lines[0].startswith("freehold: ")
    return result.err


def test_a_model_that_is_not_here_is_judged_before_it_is_fetched(
    hub: FakeHub, tmp_path: Path
) -> None:
    asked = ok(
        freehold(
            tmp_path,
            *("licence", "hf:maker/Other-GGUF:other.gguf", "--json"),
            extra={"HF_ENDPOINT": hub.endpoint},
        )
    ).json
    assert (asked["run"], asked["serve"]) == ("OK", "OK")
    assert [each["licence"] for each in asked["evidence"]] == ["apache-2.0"]
    assert not (tmp_path / "blobs").is_dir() or not list((tmp_path / "blobs").iterdir())


def test_a_licence_file_nobody_recognises_is_named(home: Path) -> None:
    said = ok(freehold(home, "licence", REFERENCE, "--json", extra=NOWHERE)).json
    assert said["run"] == "UNKNOWN"
    ranks = {
        each["rank"]: each["licence"] for each in said["evidence"] if "Free-GGUF" in each["origin"]
    }
    assert ranks == {"licence file": None, "card": "mit"}
    assert "not legal advice" in ok(freehold(home, "licence", REFERENCE, extra=NOWHERE)).out


def test_list_and_show_tell_the_verdict(home: Path) -> None:
    listed = ok(freehold(home, "list", "--json")).json
    verdicts = {
        each["reference"]: (each["licence"]["run"], each["licence"]["serve"]) for each in listed
    }
    assert verdicts["hf:maker/Other-GGUF:other.gguf"] == ("OK", "OK")
    shown = ok(freehold(home, "show", "hf:maker/Other-GGUF:other.gguf", "--json")).json
    assert shown["licence"]["run"] == "OK"


def test_a_changed_file_is_refused_before_anything_reads_it(hub: FakeHub, tmp_path: Path) -> None:
    reference = "hf:maker/Other-GGUF:other.gguf"
    ok(freehold(tmp_path, "pull", reference, extra={"HF_ENDPOINT": hub.endpoint}))
    ok(freehold(tmp_path, "verify-files", reference))
    (blob,) = (tmp_path / "blobs").iterdir()
    blob.chmod(0o644)
    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    blob.write_bytes(data)
    assert "SHA-256" in refused(freehold(tmp_path, "verify-files", reference), 4)
    assert "SHA-256" in refused(freehold(tmp_path, "run", reference, "hello"), 4)


def test_verify_files_does_not_trust_times(hub: FakeHub, tmp_path: Path) -> None:
    """Every time a file shows can be set back; its bytes cannot."""
    reference = "hf:maker/Other-GGUF:other.gguf"
    ok(freehold(tmp_path, "pull", reference, extra={"HF_ENDPOINT": hub.endpoint}))
    (blob,) = (tmp_path / "blobs").iterdir()
    (record,) = (tmp_path / "records").glob("*.json")
    blob.chmod(0o644)
    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    blob.write_bytes(data)
    known, status = json.loads(record.read_bytes()), blob.stat()
    known |= {
        "size": status.st_size,
        "inode": status.st_ino,
        "mtime_ns": status.st_mtime_ns,
        "ctime_ns": status.st_ctime_ns,
    }
    record.chmod(0o644)
    record.write_text(json.dumps(known))
    ok(freehold(tmp_path, "show", reference))
    assert "SHA-256" in refused(freehold(tmp_path, "verify-files", reference), 4)


def test_a_lock_travels_signed(home: Path, tmp_path: Path) -> None:
    reference = "hf:maker/Other-GGUF:other.gguf"
    key, lock = tmp_path / "team.key", tmp_path / "coder.lock"
    public = ok(freehold(home, "lock", "--new-key", str(key))).out.strip()
    assert key.stat().st_mode & 0o777 == 0o600
    ok(freehold(home, "lock", reference, "--output", str(lock), "--sign", str(key)))
    assert json.loads(lock.read_bytes())["reference"] == reference
    ok(freehold(home, "verify-files", reference, "--lock", str(lock), "--key", public))
    other = ok(freehold(home, "lock", "--new-key", str(tmp_path / "other.key"))).out.strip()
    wrong = freehold(home, "verify-files", reference, "--lock", str(lock), "--key", other)
    assert "signed with the key" in refused(wrong, 4)
    lock.write_bytes(lock.read_bytes().replace(b"maker/Other-GGUF", b"maker/0ther-GGUF"))
    changed = freehold(home, "verify-files", reference, "--lock", str(lock), "--key", public)
    refused(changed, 4)


def test_a_locked_server_serves_what_is_locked_and_nothing_else(home: Path, tmp_path: Path) -> None:
    lock = tmp_path / "other.lock"
    ok(freehold(home, "lock", "hf:maker/Other-GGUF:other.gguf", "--output", str(lock)))
    served = freehold(home, "serve", REFERENCE, "--port", "0", "--locked", str(lock))
    assert "none of the locks" in served.err
    assert served.status == 4


def test_a_bill_of_materials_is_valid(home: Path) -> None:
    printed = ok(freehold(home, "sbom", REFERENCE)).out
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(printed) is None
    assert printed == ok(freehold(home, "sbom", REFERENCE)).out


def test_what_must_travel_is_written_into_a_folder(home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "with weights"
    written = ok(freehold(home, "notice", REFERENCE, str(folder)))
    assert (folder / "NOTICE").is_file()
    texts = [path.read_text() for path in (folder / "LICENSES").iterdir()]
    assert "Ask me first.\n" in texts
    assert "Missing:" in written.err
    (folder / "NOTICE").write_text("mine")
    refused(freehold(home, "notice", REFERENCE, str(folder)), 2)
    assert (folder / "NOTICE").read_text() == "mine"


def test_somebody_answers_for_it(home: Path) -> None:
    alone = freehold(home, "licence", REFERENCE, "--accept", "serve")
    assert "--why" in refused(alone, 2)
    said = ok(
        freehold(home, "licence", REFERENCE, "--accept", "serve", "--why", "he told me", "--json")
    ).json
    assert [each["why"] for each in said["decisions"]] == ["he told me"]
    assert "he told me" in ok(freehold(home, "licence", REFERENCE)).out


def test_others_are_not_served_what_is_unknown(tmp_path: Path) -> None:
    path = write_model(tmp_path / "stray.gguf")
    serve = ("serve", str(path), "--host", "0.0.0.0", "--port", "0")
    key = {"FREEHOLD_API_KEY": "a long random text"}
    served = freehold(tmp_path / "home", *serve, extra=key)
    assert served.status == 4
    assert "UNKNOWN" in served.err
    assert "--accept serve" in served.err


def test_a_policy_is_asked_before_anything_is_fetched(hub: FakeHub, tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text('[run.licence]\n"apache-2.0" = "refuse"\n')
    extra = {"HF_ENDPOINT": hub.endpoint, "FREEHOLD_POLICY": str(policy)}
    pulled = freehold(tmp_path / "home", "pull", "hf:maker/Other-GGUF:other.gguf", extra=extra)
    assert "licence apache-2.0" in refused(pulled, 4)
    policy.write_text('[run.licence]\n"apche-2.0" = "refuse"\n')
    pulled = freehold(tmp_path / "home", "pull", "hf:maker/Other-GGUF:other.gguf", extra=extra)
    assert "apche-2.0" in refused(pulled, 2)
