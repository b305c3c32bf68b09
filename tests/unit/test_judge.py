"""Verdicts: real cards with the outcome they must have, and the rules that hold for any."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from freehold.trust import card as cards
from freehold.trust import licence_text, licences, overrides, wording
from freehold.trust.facts import Evidence, Rank, Relation, Release
from freehold.trust.judge import judge
from freehold.trust.licences import severity
from freehold.trust.overrides import NONE
from freehold.trust.verdict import Outcome, Verdict

TABLE = licences.bundled()
FOLDER = Path(__file__).parent.parent / "data" / "cards"
TEXTS = Path(licences.__file__).parent / "texts"


@dataclass(frozen=True)
class Case:
    name: str
    data: dict[str, Any]
    releases: dict[str, Release]

    @property
    def model(self) -> str:
        return str(self.data["model"])

    def verdict(self) -> Verdict:
        return judge(self.model, self.releases, TABLE, overrides.bundled())


def load(path: Path) -> Case:
    data = tomllib.loads(path.read_text("utf-8"))
    releases = {row["name"]: release(row) for row in data["release"]}
    return Case(path.stem, data, releases)


def release(row: dict[str, Any]) -> Release:
    name, commit = row["name"], row.get("commit")
    at = f"hf:{name}" + (f"@{commit}" if commit else "")
    evidence = [
        licence_text.read(file_bytes(file)).evidence(f"{at}:{file['path']}")
        for file in [*row.get("files", []), *([row["file"]] if "file" in row else [])]
    ]
    parents, relation = tuple(row.get("parents", ())), row.get("relation")
    if "card" in row:
        card = cards.read(row["card"].encode())
        assert not card.notes
        evidence.append(card.evidence(f"{at}:README.md"))
        parents, relation = (*parents, *card.base_models), relation or card.relation
    if "header" in row:
        header = row["header"]
        evidence.append(Evidence(Rank.HEADER, at, header.get("license"), header.get("name")))
    if "catalogue" in row:
        evidence.append(Evidence(Rank.CATALOGUE, row["source"], row["catalogue"]))
    return Release(name, tuple(evidence), commit, parents, Relation(relation) if relation else None)


def file_bytes(file: dict[str, str]) -> bytes:
    if "text" in file:
        return file["text"].encode()
    return file.get("head", "").encode() + (TEXTS / file["shipped"]).read_bytes()


CASES = [load(path) for path in sorted(FOLDER.glob("*.toml"))]
each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def under(
    licence: str | None,
    *parents: str,
    name: str = "acme/model",
    relation: Relation | None = None,
    rank: Rank = Rank.CARD,
) -> Release:
    evidence = (Evidence(rank, f"hf:{name}", licence),)
    return Release(name, evidence, parents=parents, relation=relation)


def verdict(model: str, *releases: Release) -> Verdict:
    return judge(model, {one.name: one for one in releases}, TABLE, overrides.bundled())


def outcomes(result: Verdict) -> tuple[str, str]:
    return result.run.outcome, result.serve.outcome


# Real cards


def test_there_are_enough_real_cards() -> None:
    assert len(CASES) >= 12 + 20


@each_case
def test_a_real_card_gets_its_verdict(case: Case) -> None:
    result = case.verdict()
    assert outcomes(result) == (case.data["run"], case.data["serve"]), wording.lines(result)
    if "concluded" in case.data:
        assert result.concluded == case.data["concluded"]
    reasons = " ".join(result.serve.reasons)
    duties = " ".join(duty.text for duty in result.serve.duties)
    assert [piece for piece in case.data.get("says", ()) if piece not in reasons] == []
    assert [piece for piece in case.data.get("duties", ()) if piece not in duties] == []


@each_case
def test_a_verdict_gives_reasons_and_never_more_duties_for_oneself(case: Case) -> None:
    result = case.verdict()
    assert result.run.reasons
    assert result.serve.reasons
    assert all(reason.endswith((".", ")")) for reason in result.serve.reasons)
    assert set(result.run.duties) <= set(result.serve.duties)
    assert severity(result.run.outcome) <= severity(result.serve.outcome)
    if result.run.outcome is Outcome.OK:
        assert result.run.duties == ()


@each_case
def test_a_verdict_does_not_hang_on_the_order_of_what_was_read(case: Case) -> None:
    turned = {
        name: Release(name, one.evidence[::-1], one.commit, one.parents[::-1], one.relation)
        for name, one in reversed(case.releases.items())
    }
    assert judge(case.model, turned, TABLE, overrides.bundled()) == case.verdict()


def test_the_override_is_shown_and_holds_for_its_own_licence_alone() -> None:
    case = next(case for case in CASES if case.name == "deepseek-r1")
    assert "licensor of both" in case.verdict().overrides[0]
    without = judge(case.model, case.releases, TABLE, NONE)
    assert without.serve.outcome is Outcome.CONFLICT
    assert without.overrides == ()

    relabelled = dict(case.releases)
    relabelled[case.model] = under(
        "apache-2.0", *case.releases[case.model].parents, name=case.model
    )
    assert judge(case.model, relabelled, TABLE, overrides.bundled()).serve.outcome is (
        Outcome.CONFLICT
    )


def test_a_quantisation_of_an_overridden_model_is_fine_too() -> None:
    case = next(case for case in CASES if case.name == "deepseek-r1")
    copy = under("mit", case.model, name="someone/DeepSeek-R1-GGUF")
    result = judge(copy.name, {**case.releases, copy.name: copy}, TABLE, overrides.bundled())
    assert outcomes(result) == ("OK", "OK")
    assert result.overrides


# Evidence


def test_levels_that_disagree_are_a_conflict_and_both_are_shown() -> None:
    mit = licence_text.read((TEXTS / "mit.txt").read_bytes()).evidence("hf:acme/model:LICENSE")
    card = Evidence(Rank.CARD, "hf:acme/model:README.md", "apache-2.0")
    result = verdict("acme/model", Release("acme/model", (card, mit)))
    assert outcomes(result) == ("CONFLICT", "CONFLICT")
    assert "hf:acme/model:LICENSE" in result.serve.reasons[0]
    assert "hf:acme/model:README.md" in result.serve.reasons[0]
    assert [one.licence for one in result.lineage.root.evidence] == ["mit", "apache-2.0"]


@pytest.mark.parametrize("rank", [Rank.HEADER, Rank.CATALOGUE])
def test_the_card_counts_before_the_header_and_the_catalogue(rank: Rank) -> None:
    card = Evidence(Rank.CARD, "card", "apache-2.0")
    other = Evidence(rank, "other", "gemma")
    result = verdict("acme/model", Release("acme/model", (other, card)))
    assert result.serve.outcome is Outcome.CONFLICT
    assert result.lineage.root.licence == "apache-2.0"


def test_a_text_with_one_sentence_more_is_not_the_licence_on_the_label() -> None:
    text = (TEXTS / "mit.txt").read_text() + "\nThe Software must not be used by banks.\n"
    file = licence_text.read(text.encode()).evidence("LICENSE")
    result = verdict("m", Release("m", (file, Evidence(Rank.CARD, "card", "mit"))))
    assert outcomes(result) == ("UNKNOWN", "UNKNOWN")
    assert "matches no licence text known here" in result.serve.reasons[0]


def test_a_family_name_is_ambiguous_until_a_file_says_which() -> None:
    card = Evidence(Rank.CARD, "card", "gpl")
    assert verdict("m", Release("m", (card,))).serve.outcome is Outcome.UNKNOWN
    mpl = licence_text.read((TEXTS / "mpl-2.0.txt").read_bytes()).evidence("LICENSE")
    assert verdict("m", Release("m", (card, mpl))).serve.outcome is Outcome.CONFLICT


@pytest.mark.parametrize("stated", ["other", "unknown", "gpl", "cc", "bsd", "openrail", "whatever"])
def test_what_names_no_licence_is_unknown(stated: str) -> None:
    assert outcomes(verdict("acme/model", under(stated))) == ("UNKNOWN", "UNKNOWN")


def test_either_of_two_licences_may_be_chosen_and_both_of_two_bind() -> None:
    assert outcomes(verdict("acme/model", under("GPL-3.0-only OR MIT"))) == ("OK", "OK")
    both = verdict("acme/model", under("mit, gemma"))
    assert outcomes(both) == ("RESTRICTED", "RESTRICTED")


def test_a_permissive_label_without_the_text_keeps_its_outcome_and_asks_for_the_text() -> None:
    result = verdict("acme/model", under("mit"))
    assert result.serve.outcome is Outcome.OK
    assert any(duty.text.startswith("Licence text missing: ") for duty in result.serve.duties)
    assert any(reason.startswith("Licence text missing: ") for reason in result.serve.reasons)
    assert result.run.duties == ()


def test_a_licence_text_without_a_holder_is_told_so() -> None:
    file = licence_text.read((TEXTS / "mit.txt").read_bytes()).evidence("LICENSE")
    result = verdict("m", Release("m", (file,)))
    assert any(duty.text.startswith("Copyright line missing: ") for duty in result.serve.duties)


def test_a_licence_nobody_read_says_so() -> None:
    result = verdict("acme/model", under("qwen-research"))
    assert any("was not read for the licence table" in one for one in result.run.reasons)


# Lineage


def test_a_parent_nobody_read_is_never_clean() -> None:
    result = verdict("acme/model", under("mit", "acme/base"))
    assert outcomes(result) == ("UNKNOWN", "UNKNOWN")
    assert not result.lineage.complete
    assert "acme/base" in result.serve.reasons[0]


def test_no_stated_parent_is_no_gap_and_is_said() -> None:
    result = verdict("acme/model", under("mit"))
    assert result.lineage.complete
    assert any("no base model stated" in line for line in wording.lines(result))


def test_a_circle_terminates_and_is_incomplete() -> None:
    result = verdict("a", under("mit", "b", name="a"), under("mit", "a", name="b"))
    assert outcomes(result) == ("UNKNOWN", "UNKNOWN")
    assert not result.lineage.complete


def test_fifty_generations_terminate_and_are_incomplete() -> None:
    chain = [under("mit", f"m{n + 1}", name=f"m{n}") for n in range(50)]
    result = verdict("m0", *chain, under("mit", name="m50"))
    assert result.serve.outcome is Outcome.UNKNOWN
    assert not result.lineage.complete


def test_a_merge_has_the_terms_of_all_its_parents() -> None:
    parents = (under("llama3.1", name="x/a"), under("cc-by-4.0", name="x/b"))
    merge = under("llama3.1", "x/a", "x/b", name="me/Llama-ab", relation=Relation.MERGE)
    result = verdict(merge.name, merge, *parents)
    assert outcomes(result) == ("OK with duties", "OK with duties")
    assert {duty.licence for duty in result.serve.duties} == {"llama3.1", "cc-by-4.0"}


@pytest.mark.parametrize(
    ("label", "expected"),
    [("mit", "CONFLICT"), ("cc-by-nc-4.0", "NON-COMMERCIAL"), ("mrl", "NON-COMMERCIAL")],
)
def test_a_non_commercial_parent_makes_it_non_commercial(label: str, expected: str) -> None:
    parents = (under("cc-by-nc-4.0", name="x/a"), under("apache-2.0", name="x/b"))
    merge = under(label, "x/a", "x/b", relation=Relation.MERGE)
    assert outcomes(verdict(merge.name, merge, *parents)) == (expected, expected)


def test_terms_come_through_a_parent_that_dropped_them() -> None:
    root = under("gemma", name="google/gemma")
    middle = under("apache-2.0", root.name, name="x/middle")
    leaf = under("apache-2.0", middle.name, name="y/leaf")
    result = verdict(leaf.name, root, middle, leaf)
    assert outcomes(result) == ("RESTRICTED", "CONFLICT")
    honest = under("gemma", middle.name, name="y/honest")
    assert outcomes(verdict(honest.name, root, middle, honest)) == ("RESTRICTED", "RESTRICTED")


def test_public_domain_binds_no_child() -> None:
    child = under("gemma", "x/free")
    result = verdict(child.name, child, under("cc0-1.0", name="x/free"))
    assert {duty.licence for duty in result.serve.duties} == {"gemma"}


def test_what_may_not_be_adapted_may_not_be_served_adapted() -> None:
    child = under("cc-by-nd-4.0", "x/nd")
    result = verdict(child.name, child, under("cc-by-nd-4.0", name="x/nd"))
    assert outcomes(result) == ("OK", "CONFLICT")


def test_a_name_that_begins_as_asked_has_one_duty_less() -> None:
    base = under("llama3.1", name="meta-llama/Llama-3.1-8B")
    for name, asked in (("me/Llama-mine", False), ("me/Mine-Llama", True)):
        result = verdict(name, base, under("llama3.1", base.name, name=name))
        assert any("Begin the name" in duty.text for duty in result.serve.duties) is asked
        assert result.serve.outcome is Outcome.DUTIES


# Any releases at all

NAMES = ("a", "b", "c", "d-gguf", "x/Llama-d")
LABELS = (
    *("mit", "apache-2.0", "cc0-1.0", "llama3.1", "deepseek", "gemma", "mrl", "qwen-research"),
    *("cc-by-nc-4.0", "cc-by-nd-4.0", "gpl", "other", "nonsense", "MIT OR GPL-3.0", None),
)
HASHES = (
    *(row.text[0].normalised for row in TABLE.rows if row.id in ("mit", "deepseek", "cc-by-4.0")),
    licence_text.digest(""),
    "0" * 64,
)


@st.composite
def evidence(draw: st.DrawFn) -> Evidence:
    rank = draw(st.sampled_from(Rank))
    if rank is Rank.LICENCE_FILE:
        return Evidence(rank, "LICENSE", normalised_sha256=draw(st.sampled_from(HASHES)))
    name = draw(st.sampled_from((None, "mit", "gemma", "made-up")))
    return Evidence(rank, rank.value, stated=draw(st.sampled_from(LABELS)), name=name)


@st.composite
def families(draw: st.DrawFn) -> dict[str, Release]:
    known = draw(st.lists(st.sampled_from(NAMES), unique=True))
    return {
        name: Release(
            name,
            tuple(draw(st.lists(evidence(), max_size=3))),
            parents=tuple(draw(st.lists(st.sampled_from(NAMES), max_size=3))),
            relation=draw(st.sampled_from((None, *Relation))),
        )
        for name in known
    }


@settings(deadline=None, max_examples=150)
@given(families(), st.sampled_from(NAMES), st.sampled_from(NAMES))
def test_another_parent_never_makes_it_better(
    releases: dict[str, Release], whose: str, parent: str
) -> None:
    one = releases.get(whose)
    if one is None or not one.parents:
        return  # with its first parent a quantisation learns what it is under
    more = Release(whose, one.evidence, one.commit, (*one.parents, parent), one.relation)
    before = judge("a", releases, TABLE, NONE)
    after = judge("a", {**releases, whose: more}, TABLE, NONE)
    assert severity(after.run.outcome) >= severity(before.run.outcome)
    assert severity(after.serve.outcome) >= severity(before.serve.outcome)


@settings(deadline=None, max_examples=100)
@given(families(), st.randoms())
def test_order_does_not_matter(releases: dict[str, Release], random: Any) -> None:
    def shuffled(items: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(random.sample(items, len(items)))

    turned: Mapping[str, Release] = {
        name: Release(name, shuffled(one.evidence), one.commit, shuffled(one.parents), one.relation)
        for name, one in releases.items()
    }
    assert judge("a", turned, TABLE, NONE) == judge("a", releases, TABLE, NONE)


anything = st.text(max_size=12)
maybe = st.none() | anything
strangers = st.builds(
    Release,
    anything,
    st.lists(
        st.builds(
            Evidence, st.sampled_from(Rank), anything, maybe, maybe, maybe, maybe, maybe, maybe
        )
    ).map(tuple),
    maybe,
    st.lists(anything, max_size=3).map(tuple),
    st.none() | st.sampled_from(Relation),
)


@settings(deadline=None, max_examples=100)
@given(st.dictionaries(anything, strangers, max_size=5), anything)
@example({}, "")
def test_it_never_raises_and_is_always_printable(releases: dict[str, Release], model: str) -> None:
    result = judge(model, releases, TABLE, overrides.bundled())
    assert set(wording.verdict_data(result)) >= {"run", "serve", "lineage", "evidence"}
    assert all(line.isprintable() for line in wording.lines(result))
    assert result.serve.outcome is not Outcome.OK or result.lineage.complete
