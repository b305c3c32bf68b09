"""Locks and verdicts as a fetched model has them, built by hand."""

from __future__ import annotations

import hashlib

import msgspec

from freehold.domain.sentences import Sentence, as_sentence
from freehold.trust.facts import Evidence, Rank, Relation, Release
from freehold.trust.lock import KeptText, Lock, LockedFile
from freehold.trust.policy import Decision
from freehold.trust.verdict import (
    Ancestor,
    Duty,
    Lineage,
    Outcome,
    Ruling,
    Use,
    Verdict,
    Weighed,
)

COMMIT = "0123456789abcdef0123456789abcdef01234567"
WEIGHTS = b"weights" * 1000
TEMPLATE = "{{ messages }}"
MIT = b"MIT License\n\nCopyright (c) 2023 DeepSeek\n\nPermission is hereby granted ...\n"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


LICENCE_FILE = Evidence(
    Rank.LICENCE_FILE,
    f"hf:deepseek-ai/DeepSeek-R1@{COMMIT}:LICENSE",
    text_sha256=sha256(MIT),
    normalised_sha256=sha256(b"permission is hereby granted"),
    copyright="Copyright (c) 2023 DeepSeek",
)
CARD = Evidence(Rank.CARD, f"hf:deepseek-ai/DeepSeek-R1@{COMMIT}:README.md", stated="mit")

LOCK = Lock(
    reference="deepseek-r1:1.5b",
    source="https://huggingface.co/deepseek-ai/DeepSeek-R1",
    commit=COMMIT,
    files=(LockedFile("model.gguf", len(WEIGHTS), sha256(WEIGHTS)),),
    template_sha256=sha256(TEMPLATE.encode()),
    texts=(KeptText(LICENCE_FILE.origin, sha256(MIT)),),
    releases=(
        Release(
            "deepseek-ai/DeepSeek-R1",
            (LICENCE_FILE, CARD),
            COMMIT,
            ("Qwen/Qwen2.5-Math-1.5B",),
            Relation.FINETUNE,
        ),
        Release("Qwen/Qwen2.5-Math-1.5B"),
    ),
    tool_version="0.1.0",
    fetched_at="2026-01-02T03:04:05+00:00",
)

DECISION = Decision(
    use=Use.SERVE,
    outcome=Outcome.UNKNOWN,
    concluded=None,
    who="Ada",
    when="2026-02-03T04:05:06Z",
    why="The publisher answered by letter.",
)


def with_(lock: Lock, **changes: object) -> Lock:
    return msgspec.structs.replace(lock, **changes)


def ancestor(
    name: str,
    licence: str | None = None,
    *,
    parents: tuple[Ancestor, ...] = (),
    relation: Relation | None = None,
    evidence: tuple[Weighed, ...] = (),
    known: bool = True,
) -> Ancestor:
    return Ancestor(name, COMMIT if known else None, licence, known, relation, parents, evidence)


def ruling(outcome: Outcome, *duties: Duty) -> Ruling:
    return Ruling(outcome, (Sentence(f"Because {outcome} it is."),), duties)


def verdict(
    root: Ancestor,
    *,
    declared: str | None,
    concluded: str | None,
    licences: tuple[str, ...],
    outcome: Outcome = Outcome.OK,
    duties: tuple[Duty, ...] = (),
    gaps: tuple[str, ...] = (),
    overrides: tuple[str, ...] = (),
) -> Verdict:
    return Verdict(
        model=root.name,
        run=ruling(outcome),
        serve=ruling(outcome, *duties),
        declared=declared,
        concluded=concluded,
        lineage=Lineage(root, tuple(map(as_sentence, gaps))),
        overrides=tuple(map(as_sentence, overrides)),
        licences=licences,
    )


QWEN = ancestor("Qwen/Qwen2.5-Math-1.5B", "apache-2.0")

CLEAN = verdict(
    ancestor(
        "deepseek-ai/DeepSeek-R1",
        "mit",
        parents=(QWEN,),
        relation=Relation.FINETUNE,
        evidence=(Weighed(LICENCE_FILE, "mit"), Weighed(CARD, "mit")),
    ),
    declared="mit",
    concluded="MIT AND Apache-2.0",
    licences=("mit", "apache-2.0"),
)

LLAMA_DUTY = Duty(Sentence("Show “Built with Llama”."), "llama3.1", "meta-llama/Llama-3.1-8B")
CONFLICT = verdict(
    ancestor(
        "deepseek-ai/DeepSeek-R1-Distill-Llama-8B",
        "mit",
        parents=(ancestor("meta-llama/Llama-3.1-8B", "llama3.1"),),
        relation=Relation.FINETUNE,
    ),
    declared="mit",
    concluded="MIT AND LicenseRef-scancode-llama-3.1-license-2024",
    licences=("mit", "llama3.1"),
    outcome=Outcome.CONFLICT,
    duties=(LLAMA_DUTY,),
)

UNKNOWN = verdict(
    ancestor("model.gguf", parents=(ancestor("somebody/lost", known=False),)),
    declared=None,
    concluded=None,
    licences=(),
    outcome=Outcome.UNKNOWN,
    gaps=("Nothing was read about somebody/lost.",),
)
