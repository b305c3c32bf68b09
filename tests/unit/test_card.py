"""What a card states, and what a stranger's card cannot do."""

from __future__ import annotations

import time
import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from freehold.trust.card import LONGEST_CARD, Card, read
from freehold.trust.facts import Rank, Relation

FOLDER = Path(__file__).parent.parent / "data" / "cards"
REAL = [
    (path.stem, row["card"])
    for path in sorted(FOLDER.glob("*.toml"))
    for row in tomllib.loads(path.read_text("utf-8"))["release"]
    if "card" in row
]


def card(matter: str) -> Card:
    return read(f"---\n{matter}\n---\n\n# Title\n".encode())


@pytest.mark.parametrize("text", [text for _, text in REAL], ids=[name for name, _ in REAL])
def test_real_cards_are_read_without_a_remark(text: str) -> None:
    found = read(text.encode())
    assert found.notes == ()
    assert found.licence or found.base_models


def test_everything_that_counts_is_taken() -> None:
    found = card(
        "license: other\n"
        "license_name: qwen-research\n"
        "license_link: https://huggingface.co/Qwen/Qwen2.5-3B/blob/main/LICENSE\n"
        "base_model:\n- Qwen/Qwen2.5-3B\n- https://huggingface.co/a/b\n"
        "base_model_relation: Merge\n"
        "quantized_by: someone\n"
        "tags: [a, b]\n"
        "widget:\n- text: {deep: [1, 2, {x: y}]}\n"
    )
    assert found == Card(
        licence="other",
        licence_name="qwen-research",
        licence_link="https://huggingface.co/Qwen/Qwen2.5-3B/blob/main/LICENSE",
        base_models=("Qwen/Qwen2.5-3B", "a/b"),
        relation=Relation.MERGE,
        quantized_by="someone",
    )
    evidence = found.evidence("hf:x/y:README.md")
    assert (evidence.rank, evidence.stated, evidence.name) == (Rank.CARD, "other", "qwen-research")


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_line_ends_and_a_byte_order_mark_do_not_matter(ends: str) -> None:
    text = ends.join(["---", "license: mit", "---", ""])
    assert read(b"\xef\xbb\xbf" + text.encode()).licence == "mit"


def test_a_list_of_licences_is_stated_as_one() -> None:
    assert card("license: [mit, apache-2.0]").licence == "mit, apache-2.0"
    assert card("license:\n- mit").licence == "mit"


@pytest.mark.parametrize(
    "matter",
    [
        "license: 3",
        "license: true",
        "license: {name: mit}",
        "license: [[mit]]",
        "license: !!python/object/apply:os.system [id]",
        "license: !!python/name:os.system x",
        "license: 2024-01-02",
        "license: " + "x" * 400,
        'license: "mit\\u001b[2J"',
        "license: mit\nlicense: apache-2.0",
    ],
)
def test_what_is_not_text_is_not_stated_and_remarked_on(matter: str) -> None:
    found = card(matter)
    assert found.licence is None
    assert found.notes


@pytest.mark.parametrize(
    "matter", ["license:", "license: ~", "license: null", 'license: ""', "x: 1"]
)
def test_what_is_empty_is_not_stated(matter: str) -> None:
    assert card(matter) == Card()


def test_a_relation_of_ones_own_making_is_remarked_on() -> None:
    found = card("base_model: a/b\nbase_model_relation: cousin")
    assert found.relation is None
    assert "cousin" in found.notes[0]


@pytest.mark.parametrize(
    "data",
    [b"", b"# Title", b"---\nlicense: mit\n", b" ---\nlicense: mit\n---\n", b"license: mit\n---\n"],
)
def test_without_front_matter_nothing_is_stated(data: bytes) -> None:
    found = read(data)
    assert found.licence is None
    assert found.notes


BOMB = "a: &a [x, x]\n" + "\n".join(
    f"{b}: &{b} [*{a}, *{a}, *{a}]" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    "matter",
    [
        BOMB,
        "x: &x\n  <<: *x\nlicense: mit",
        "license: mit\ntags: " + "[" * 5000 + "]" * 5000,
        "{" * 2000,
        "license: mit\n" + "- [\n" * 100,
        "license: 'mit",
        "? [license]\n: mit\n\t- x",
        "- license: mit",
        "mit",
        'license: "\\UFFFFFFFF"',
        'license: "\\uD800"',
        "%YAML 1." + "9" * 6000 + "\n---\nlicense: mit",
        "license: mit\x00",
    ],
)
def test_hostile_front_matter_states_nothing_and_costs_little(matter: str) -> None:
    began = time.monotonic()
    found = card(matter)
    assert time.monotonic() - began < 5
    assert found.licence is None
    assert found.notes


def test_size_is_bounded() -> None:
    assert read(b"---\nlicense: mit\n" + b"# x\n" * LONGEST_CARD + b"---\n").licence is None
    assert read(b"---\nlicense: mit\n---\n" + b"x" * LONGEST_CARD * 2).licence == "mit"


def test_many_parents_are_cut_and_remarked_on() -> None:
    found = card("base_model:\n" + "\n".join(f"- a/m{n}" for n in range(100)))
    assert len(found.base_models) < 100
    assert found.notes


@settings(deadline=None)
@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode()))
def test_any_bytes_are_answered(data: bytes) -> None:
    read(data)
    read(b"---\n" + data + b"\n---\n")
    read(b"---\nlicense: " + data + b"\n---\n")
