"""Reasoning before the answer: where it begins, where it ends, and that nothing is lost."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freehold.text.answer import ContentText, Piece, Plain, ReasoningText, held_back
from freehold.text.reasoning import (
    FAMILIES,
    Marks,
    Opening,
    ReasoningParser,
    closing_of,
    marks_of,
    opening_of,
)

THINK = Marks("<think>", "</think>")

crumbs = st.sampled_from(["<think>", "</think>", "<", "think>", "/", " ", "\n", "a", "b c", "é"])
texts = st.lists(crumbs, max_size=12).map("".join)


def read(text: str, cuts: list[int] | None = None, *, inside: bool = False) -> tuple[str, str]:
    """(reasoning, content) of a text that comes in pieces."""
    parser = ReasoningParser(THINK, Plain(), inside=inside)
    places = sorted({0, len(text), *(cut for cut in cuts or () if cut <= len(text))})
    pieces: list[Piece] = []
    for start, end in itertools.pairwise(places):
        pieces += parser.feed(text[start:end])
    pieces += parser.finish()
    reasoning = "".join(piece.text for piece in pieces if isinstance(piece, ReasoningText))
    content = "".join(piece.text for piece in pieces if isinstance(piece, ContentText))
    return reasoning, content


@pytest.mark.parametrize(
    ("text", "inside", "reasoning", "content"),
    [
        ("<think>\nHm.\n</think>\n\nYes.", False, "Hm.", "Yes."),
        ("Hm.\n</think>\n\nYes.", True, "Hm.", "Yes."),
        ("\n<think></think>Yes.", False, "", "Yes."),
        ("Yes.", False, "", "Yes."),
        ("  Yes.", False, "", "  Yes."),
        ("Yes, <think>not</think> this.", False, "", "Yes, <think>not</think> this."),
        ("Never closed", True, "Never closed", ""),
        ("<think>Never closed", False, "Never closed", ""),
        ("a </thin b</think> c </think> d", True, "a </thin b", "c </think> d"),
        ("<thin", False, "", "<thin"),
        ("", True, "", ""),
        ("x\n</think>", True, "x", ""),
    ],
)
def test_what_is_reasoning(text: str, inside: bool, reasoning: str, content: str) -> None:
    assert read(text, inside=inside) == (reasoning, content)
    assert read(text, list(range(len(text))), inside=inside) == (reasoning, content)


@given(texts, st.lists(st.integers(0, 60)), st.booleans())
def test_where_the_text_is_cut_makes_no_difference(
    text: str, cuts: list[int], inside: bool
) -> None:
    assert read(text, cuts, inside=inside) == read(text, inside=inside)


@given(texts, st.booleans())
def test_only_marks_and_whitespace_beside_them_are_left_out(text: str, inside: bool) -> None:
    reasoning, content = read(text, inside=inside)
    kept = "".join((reasoning + content).split())
    without = text
    if inside or text.lstrip().startswith(THINK.begin):
        without = text if inside else text.replace(THINK.begin, "", 1)
        without = without.replace(THINK.end, "", 1)
    assert kept == "".join(without.split())


def test_reasoning_comes_as_it_is_written() -> None:
    parser = ReasoningParser(THINK, Plain(), inside=True)
    assert parser.feed("One") == (ReasoningText("One"),)
    assert parser.feed(" two\n") == (ReasoningText(" two"),)
    assert parser.feed("three</th") == (ReasoningText("\nthree"),)
    assert parser.feed("ink>\n") == ()
    assert parser.feed("Four") == (ContentText("Four"),)


@pytest.mark.parametrize("marks", FAMILIES)
def test_a_family_is_known_by_its_template(marks: Marks) -> None:
    assert marks_of(f"{{% if '{marks.end}' in content %}}…{{% endif %}}") == marks


def test_a_template_without_marks_belongs_to_none() -> None:
    assert marks_of("{{ messages[0].content }}") is None


@pytest.mark.parametrize(
    ("prompt", "opening"),
    [
        ("<|assistant|><think>\n", Opening.INSIDE),
        ("<|assistant|><think>", Opening.INSIDE),
        ("<|assistant|>\n<think>\n\n</think>\n\n", Opening.DONE),
        ("<|assistant|>\n", Opening.UNSAID),
    ],
)
def test_how_an_answer_begins(prompt: str, opening: Opening) -> None:
    assert opening_of(prompt, THINK) is opening
    closed = prompt + closing_of(prompt, THINK)
    assert opening_of(closed, THINK) is Opening.DONE


@given(st.text("abc", max_size=8), st.text("abc", min_size=1, max_size=4))
def test_what_is_held_back_may_become_a_mark(text: str, mark: str) -> None:
    count = held_back(text, mark)
    assert count < len(mark)
    assert mark.startswith(text[len(text) - count :])
