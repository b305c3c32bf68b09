"""The licence table: sourced rows, and every spelling finds its licence."""

from __future__ import annotations

import datetime
import hashlib
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from freehold.trust import licence_text, licences, overrides
from freehold.trust.licences import Licence, Licences, TextRow, parse
from freehold.trust.verdict import Outcome, Use

TABLE = licences.bundled()
TEXTS = Path(licences.__file__).parent / "texts"
each_row = pytest.mark.parametrize("row", TABLE.rows, ids=lambda row: row.id)
SHIPPED = [(row, text) for row in TABLE.rows for text in row.text if text.file is not None]

# Every identifier that the hub's documentation lists.
HUB = (Path(__file__).parent.parent / "data/cards/hub-identifiers.txt").read_text().split()

ROW = """
[[licence]]
id = "x"
title = "X"
run = "OK"
serve = "OK"
read = true
confidence = "primary"
source = ["https://example.org"]
checked = 2026-01-02

[[licence.text]]
normalised = "00"
source = "https://example.org"
seen = 2026-01-02
"""


# What ships


@each_row
def test_a_row_is_sourced_and_says_what_it_rests_on(row: Licence) -> None:
    assert row.source
    assert datetime.date(2026, 1, 1) <= row.checked
    assert row.read == bool(row.text)
    assert row.read or Outcome.OK not in (row.run, row.serve)


@each_row
def test_a_row_with_duties_lists_them_and_gives_reasons(row: Licence) -> None:
    for use in Use:
        if row.outcome(use) is Outcome.DUTIES:
            assert row.duty
        if row.outcome(use) is not Outcome.OK:
            assert row.reasons(use)
    duties = tuple(duty.sentence for duty in row.duty)
    sentences = (*row.reasons(Use.RUN), *row.reasons(Use.SERVE), *duties)
    assert all(sentence.endswith((".", '"')) for sentence in sentences)
    assert all(sentence.code for sentence in sentences)


@each_row
def test_ids_that_a_row_points_to_exist(row: Licence) -> None:
    assert [one for one in (*row.covers, *row.carried_by) if TABLE.get(one) is None] == []


@pytest.mark.parametrize(("row", "text"), SHIPPED, ids=[text.file for _, text in SHIPPED])
def test_a_shipped_text_is_the_one_the_table_lists(row: Licence, text: TextRow) -> None:
    assert text.file is not None
    data = (TEXTS / text.file).read_bytes()
    assert hashlib.sha256(data).hexdigest() == text.sha256
    assert licence_text.read(data).normalised_sha256 == text.normalised
    assert text.read() == data.decode()
    assert TABLE.worded(text.normalised) == row


def test_no_text_ships_that_no_row_lists() -> None:
    assert {path.name for path in TEXTS.iterdir()} == {text.file for _, text in SHIPPED}


def test_texts_that_users_are_owed_ship() -> None:
    wanted = "mit apache-2.0 bsd-3-clause isc cc0-1.0 cc-by-4.0 deepseek llama2 llama3 llama3.1"
    wanted += " llama3.2 llama3.3 llama4 gemma qwen tongyi-qianwen bigscience-openrail-m mrl"
    wanted += " bigcode-openrail-m nvidia-open-model-license stabilityai-ai-community falcon-2"
    assert set(wanted.split()) <= {row.id for row, _ in SHIPPED}


def test_overrides_name_licences_of_the_table() -> None:
    rows = overrides.bundled()
    named = {row.licence for row in rows.override}
    named |= {name for row in rows.change for name in (row.was, row.now)}
    assert [name for name in named if TABLE.get(name) is None] == []


# Finding


@pytest.mark.parametrize("name", HUB)
def test_every_identifier_of_the_hub_is_recognised(name: str) -> None:
    terms = TABLE.named(name)
    assert terms is not None
    assert terms.ids == {name}


@pytest.mark.parametrize(
    ("stated", "ids"),
    [
        ("MIT", {"mit"}),
        ("Apache 2.0", {"apache-2.0"}),
        ("apache_2.0", {"apache-2.0"}),
        ("deepseek-v3-licence", {"deepseek"}),
        ("LicenseRef-scancode-gemma-tou-2025-03-24", {"gemma"}),
        ("OpenMDW-1.0", {"openmdw-1.0"}),
        ("BSL-1.0", {"bsl-1.0"}),
        ("mit,apache-2.0", {"mit", "apache-2.0"}),
        ("MIT AND Apache-2.0", {"mit", "apache-2.0"}),
        ("Apache-2.0 WITH LLVM-exception", {"apache-2.0"}),
        ("(MIT OR CC0-1.0) AND Apache-2.0", {"mit", "cc0-1.0", "apache-2.0"}),
        ("MIT OR Proprietary", {"mit"}),
    ],
)
def test_spellings_and_expressions(stated: str, ids: set[str]) -> None:
    terms = TABLE.named(stated)
    assert terms is not None
    assert terms.ids == ids


@pytest.mark.parametrize(
    "stated",
    ["", " ", "mit and", "MIT AND Proprietary", "()", "mit,foo", ",", "mit" * 200, "( mit", "\0"],
)
def test_what_is_not_known_is_not_guessed(stated: str) -> None:
    assert TABLE.named(stated) is None


def test_of_an_or_the_alternative_that_asks_least_is_taken() -> None:
    terms = TABLE.named("AGPL-3.0-only OR (MIT AND Gemma) OR Apache-2.0")
    assert terms is not None
    assert [row.id for row in terms.chosen] == ["apache-2.0"]


@pytest.mark.parametrize(
    "link",
    [
        "https://mistral.ai/licenses/MRL-0.1.md",
        "http://www.mistral.ai/licenses/MRL-0.1.md/",
    ],
)
def test_a_link_may_stand_for_a_name(link: str) -> None:
    terms = TABLE.linked(link)
    assert terms is not None
    assert terms.ids == {"mrl"}
    assert TABLE.linked("LICENSE") is None


@settings(deadline=None)
@given(
    st.text(max_size=40)
    | st.lists(st.sampled_from(["MIT", "gemma", "AND", "OR", "WITH", "(", ")", "x", "+", ","])).map(
        " ".join
    )
)
def test_any_statement_is_answered(stated: str) -> None:
    terms = TABLE.named(stated)
    assert terms is None or terms.chosen


# Bad tables


@pytest.mark.parametrize(
    ("broken", "complaint"),
    [
        (ROW.replace("read = true", "read = false"), "nobody read"),
        (ROW.replace('source = ["https://example.org"]', "source = []"), "no source"),
        (ROW.replace('serve = "OK"', 'serve = "RESTRICTED"'), "no reason"),
        (ROW.replace('run = "OK"', 'run = "CONFLICT"'), "itself"),
        (ROW.partition("[[licence.text]]")[0], "no text"),
        (ROW + ROW, "both claim"),
    ],
)
def test_a_row_that_does_not_hold_is_refused(broken: str, complaint: str) -> None:
    assert isinstance(parse(ROW), Licences)
    with pytest.raises(ValueError, match=complaint):
        parse(broken)


def test_an_unknown_key_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError):
        parse(ROW.replace("id =", 'colour = "red"\nid ='))


def test_an_override_needs_evidence() -> None:
    row = '[[override]]\nchild="a"\nparent="b"\nlicence="mit"\n'
    row += 'code="c"\nbecause="x"\nchecked=2026-01-02\n'
    assert overrides.parse(row + 'evidence=["https://example.org"]')
    with pytest.raises(ValueError, match="without evidence"):
        overrides.parse(row + "evidence=[]")


@pytest.mark.parametrize(
    ("child", "fits"),
    [
        ("deepseek-ai/DeepSeek-R1", True),
        ("DeepSeek-AI/deepseek-r1", True),
        ("deepseek-ai/DeepSeek-R1-Distill-Llama-8B", False),
        ("someone/DeepSeek-R1", False),
    ],
)
def test_an_override_is_for_its_pair_alone(child: str, fits: bool) -> None:
    row = overrides.bundled().between(child, "deepseek-ai/DeepSeek-V3-Base", "mit")
    assert (row is not None) is fits
