"""Sentences that say which they are: as text they are text, and nothing is lost on the way."""

from __future__ import annotations

import copy
import json

from freehold.domain.sentences import Sentence, as_data, as_sentence, from_data, said


def test_it_is_its_text() -> None:
    told = said(
        "plan.context", "Trained for {has:,} tokens, not {wanted:,}.", has=2048, wanted=8192
    )
    assert told == "Trained for 2,048 tokens, not 8,192."
    assert json.dumps(told) == '"Trained for 2,048 tokens, not 8,192."'
    assert (told.code, told.values) == ("plan.context", {"has": 2048, "wanted": 8192})
    assert copy.deepcopy(told).code == "plan.context"


def test_what_it_quotes_keeps_its_code_across_processes() -> None:
    inner = said("evidence.file", "the licence file ({origin})", origin="LICENSE")
    notes = (said("a", "One."), said("b", "Two."))
    told = said("x", "{release}: {evidence}. {notes}", release="r", evidence=inner, notes=notes)
    assert told == "r: the licence file (LICENSE). One. Two."
    read = from_data(json.loads(json.dumps(as_data(told))))
    assert (read, as_data(read)) == (told, as_data(told))


def test_any_text_is_a_sentence_without_a_code() -> None:
    assert as_sentence("Plain.").code == ""
    told = Sentence("Plain.", "code")
    assert as_sentence(told) is told
