"""The bill of materials: valid CycloneDX 1.6 for every verdict, and saying what it should."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from freehold.trust import licences
from freehold.trust.facts import Relation
from freehold.trust.lock import KeptText, Lock, LockedFile
from freehold.trust.sbom import HeaderFacts, sbom
from freehold.trust.verdict import Outcome, Verdict
from freehold.weights.gguf import read_header
from tests.support.locked import (
    CLEAN,
    COMMIT,
    CONFLICT,
    LOCK,
    MIT,
    TEMPLATE,
    UNKNOWN,
    WEIGHTS,
    ancestor,
    sha256,
    verdict,
    with_,
)
from tests.support.models import write_model

VALIDATOR = JsonStrictValidator(SchemaVersion.V1_6)
FACTS = HeaderFacts("qwen2", "transformer", "text-generation", "Q4_K_M", 1_777_088_000, 131_072)
NO_FACTS = HeaderFacts(None, None, None, None, None, None)

MERGE = verdict(
    ancestor(
        "somebody/merged",
        "apache-2.0",
        parents=(
            ancestor("one/a", "openmdw-1.0"),
            ancestor("two/b", "gemma", parents=(ancestor("three/c", known=False),)),
            ancestor("one/a", "openmdw-1.0"),
        ),
        relation=Relation.MERGE,
    ),
    declared="other",
    concluded="(Apache-2.0 OR MIT) AND OpenMDW-1.0 AND LicenseRef-gemma",
    licences=("apache-2.0", "openmdw-1.0", "gemma"),
    outcome=Outcome.RESTRICTED,
    gaps=("Nothing was read about three/c.",),
    overrides=("two/b was licensed anew by its own licensor.",),
)
BARE = with_(
    LOCK, source="Ollama", commit=None, template_sha256=None, texts=(), releases=LOCK.releases[1:]
)
SPLIT = with_(
    LOCK,
    files=(*LOCK.files, LockedFile("b/model-2.gguf", 1, "f" * 64)),
    texts=(*LOCK.texts, KeptText("package index, 3 pieces", "e" * 64)),
)


def complaint(document: Mapping[str, object]) -> str | None:
    error = VALIDATOR.validate_str(json.dumps(document))
    return None if error is None else str(error)


def model_of(document: Mapping[str, Any]) -> dict[str, Any]:
    (model,) = [one for one in document["components"] if one["type"] == "machine-learning-model"]
    return dict(model)


def made(lock: Lock = LOCK, about: Verdict = CLEAN, facts: HeaderFacts = FACTS) -> dict[str, Any]:
    return dict(sbom(lock, about, facts))


@pytest.mark.parametrize("facts", [FACTS, NO_FACTS], ids=["facts", "no facts"])
@pytest.mark.parametrize("lock", [LOCK, BARE, SPLIT], ids=["lock", "bare", "split"])
@pytest.mark.parametrize(
    "about", [CLEAN, CONFLICT, UNKNOWN, MERGE], ids=["clean", "conflict", "unknown", "merge"]
)
def test_every_document_is_valid(about: Verdict, lock: Lock, facts: HeaderFacts) -> None:
    assert complaint(sbom(lock, about, facts)) is None


@pytest.mark.parametrize(
    "licence",
    [
        *("mit", "MIT", "apache-2.0", "bsl-1.0", "gpl-3.0", "cc-by-nc-4.0", "openmdw-1.0", "gemma"),
        *(
            "other",
            "unknown",
            "llama3.1",
            "my own, ask me",
            "GPL-2.0-only WITH Classpath-exception-2.0",
        ),
        *("MIT OR Apache-2.0", "LicenseRef-scancode-deepseek-la-1.0", "cc0-1.0,mit", "\x00\n"),
    ],
)
def test_any_licence_anybody_declares_is_valid(licence: str) -> None:
    about = verdict(
        ancestor("a/b", licence), declared=licence, concluded=licence, licences=(licence,)
    )
    assert complaint(sbom(LOCK, about, FACTS)) is None


def test_every_licence_of_the_table_is_valid() -> None:
    expressions = tuple(row.expression for row in licences.bundled().rows)
    about = verdict(
        ancestor("a/b"), declared=None, concluded=" AND ".join(expressions), licences=expressions
    )
    document = made(about=about)
    assert complaint(document) is None
    identified = {one["license"].get("id") for one in model_of(document)["licenses"]}
    assert {"MIT", "Apache-2.0", "OpenMDW-1.0", "CC-BY-NC-4.0"} <= identified


def test_the_validator_sees_what_is_wrong() -> None:
    document = made()
    model_of(document)["licenses"][0]["license"]["acknowledgement"] = "guessed"
    assert complaint(document)
    assert complaint({**made(), "bomFormat": "SPDX"})


def test_the_model_has_hashes_licences_and_a_card() -> None:
    model = model_of(made())
    assert model["name"] == "deepseek-r1:1.5b"
    assert model["version"] == COMMIT
    assert model["purl"] == f"pkg:huggingface/deepseek-ai/DeepSeek-R1@{COMMIT}"
    assert model["hashes"] == [{"alg": "SHA-256", "content": sha256(WEIGHTS)}]
    assert [one["license"] for one in model["licenses"]] == [
        {"id": "MIT", "acknowledgement": "declared"},
        {"id": "MIT", "acknowledgement": "concluded"},
        {"id": "Apache-2.0", "acknowledgement": "concluded"},
    ]
    assert model["copyright"] == "Copyright (c) 2023 DeepSeek"
    assert model["modelCard"]["modelParameters"] == {
        "task": "text-generation",
        "architectureFamily": "transformer",
        "modelArchitecture": "qwen2",
    }
    assert {one["name"]: one["value"] for one in model["modelCard"]["properties"]} == {
        "freehold:quantisation": "Q4_K_M",
        "freehold:parameters": "1777088000",
        "freehold:context-length": "131072",
    }
    assert model["externalReferences"] == [
        {
            "type": "distribution",
            "url": f"https://huggingface.co/deepseek-ai/DeepSeek-R1/tree/{COMMIT}",
        },
        {
            "type": "license",
            "url": f"https://huggingface.co/deepseek-ai/DeepSeek-R1/blob/{COMMIT}/LICENSE",
            "hashes": [{"alg": "SHA-256", "content": sha256(MIT)}],
        },
    ]


def test_a_licence_on_no_list_is_named() -> None:
    licences = [one["license"] for one in model_of(made(about=CONFLICT))["licenses"]]
    assert licences[-1] == {
        "name": "LicenseRef-scancode-llama-3.1-license-2024",
        "acknowledgement": "concluded",
    }


def test_an_expression_with_a_choice_stays_whole() -> None:
    model = model_of(made(about=MERGE))
    assert [one["license"]["name"] for one in model["licenses"]] == ["other", MERGE.concluded]


def test_what_is_unknown_is_left_out() -> None:
    model = model_of(made(BARE, UNKNOWN, NO_FACTS))
    assert not {"licenses", "copyright", "version", "purl", "externalReferences"} & model.keys()
    assert model["modelCard"] == {}
    assert {one["name"]: one["value"] for one in model["properties"]}[
        "freehold:verdict:serve"
    ] == "UNKNOWN"


def test_each_part_of_a_split_model_has_its_hash() -> None:
    model = model_of(made(SPLIT))
    assert "hashes" not in model
    assert [(one["name"], one["hashes"][0]["content"]) for one in model["components"]] == [
        ("model.gguf", sha256(WEIGHTS)),
        ("b/model-2.gguf", "f" * 64),
    ]


def test_the_template_is_a_component_the_model_depends_on() -> None:
    document = made()
    (template,) = [one for one in document["components"] if one["type"] == "data"]
    assert template["hashes"] == [{"alg": "SHA-256", "content": sha256(TEMPLATE.encode())}]
    assert document["dependencies"] == [{"ref": "model", "dependsOn": [template["bom-ref"]]}]
    assert [one["type"] for one in made(BARE)["components"]] == ["machine-learning-model"]


def test_the_lineage_is_the_pedigree() -> None:
    pedigree = model_of(made(about=MERGE))["pedigree"]
    assert [one["name"] for one in pedigree["ancestors"]] == ["one/a", "two/b", "one/a"]
    (grandparent,) = pedigree["ancestors"][1]["pedigree"]["ancestors"]
    assert grandparent["name"] == "three/c"
    assert grandparent["properties"][0]["name"] == "freehold:unread"
    assert "two/b was licensed anew" in pedigree["notes"]
    assert "Nothing was read about three/c." in pedigree["notes"]


def test_the_verdict_and_its_duties_are_in_it() -> None:
    properties = model_of(made(about=CONFLICT))["properties"]
    assert {"name": "freehold:verdict:serve", "value": "CONFLICT"} in properties
    assert {"name": "freehold:duty:serve", "value": "Show “Built with Llama”."} in properties


def test_the_same_lock_gives_the_same_document() -> None:
    assert json.dumps(made()) == json.dumps(made())
    assert made()["metadata"]["timestamp"] == LOCK.fetched_at


def test_another_content_has_another_serial_number() -> None:
    documents = [made(), made(BARE), made(about=CONFLICT), made(facts=NO_FACTS)]
    assert len({document["serialNumber"] for document in documents}) == len(documents)


# The header


def test_a_header_tells_the_card(tmp_path: Path) -> None:
    path = write_model(
        tmp_path / "model.gguf",
        metadata={"llama.attention.head_count": 8, "general.file_type": 15},
    )
    assert HeaderFacts.of(read_header(path)) == HeaderFacts(
        "llama", "transformer", "text-generation", "Q4_K_M", 512, 512
    )


def test_a_header_that_says_little_is_not_embellished(tmp_path: Path) -> None:
    path = write_model(tmp_path / "model.gguf", metadata={"llama.pooling_type": 1})
    facts = HeaderFacts.of(read_header(path))
    assert (facts.family, facts.quantisation, facts.task) == (None, None, "feature-extraction")


def test_a_hybrid_is_called_one(tmp_path: Path) -> None:
    path = write_model(
        tmp_path / "model.gguf",
        metadata={"llama.attention.head_count": 8, "llama.ssm.state_size": 16},
    )
    assert HeaderFacts.of(read_header(path)).family == "transformer and state space model"
