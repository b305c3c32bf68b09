"""Models side by side."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from freehold.engines.scripted import Script
from tests.support.gateway import Scripts

pytestmark = pytest.mark.native


def test_blind_with_a_vote_and_its_tally(page: Page, scripts: Scripts) -> None:
    scripts.now = Script(pieces=("An ", "answer."), token_seconds=0.05)
    page.get_by_role("link", name="Compare").click()
    page.get_by_role("textbox", name="Prompt").fill("Which is better?")
    page.get_by_label("Blind").check()
    page.get_by_role("button", name="Run").click()
    expect(page.get_by_role("article").get_by_text("An answer.")).to_have_count(2)
    expect(page.get_by_role("heading", name="hidden until you vote")).to_have_count(2)
    expect(page.get_by_text("tokens/s")).to_have_count(0)
    page.get_by_role("button", name="A is best").click()
    expect(page.get_by_text("Your vote:")).to_be_visible()
    expect(page.get_by_role("article", name="Answer A")).to_contain_text("tokens/s")
    expect(page.get_by_role("row").filter(has_text="100 % (21 % – 100 %)")).to_have_count(1)
    page.reload()
    expect(page.get_by_role("row").filter(has_text="0 % (0 % – 79 %)")).to_have_count(1)
    page.get_by_role("button", name="Forget the votes").click()
    expect(page.get_by_role("heading", name="Your votes")).to_have_count(0)


def test_a_list_of_prompts_is_run_and_exported(page: Page, scripts: Scripts) -> None:
    page.get_by_role("link", name="Compare").click()
    page.get_by_role("button", name="Add another").click()
    page.get_by_label("Temperature 3").fill("0")
    page.get_by_role("textbox", name="Prompt").fill("One\n\nTwo")
    page.get_by_label("Each line").check()
    page.get_by_role("button", name="Run").click()
    expect(page.get_by_role("article").get_by_text("All is well.")).to_have_count(6)
    expect(page.get_by_role("button", name="Run")).to_be_visible()
    with page.expect_download() as saved:
        page.get_by_role("button", name="Export the answers").click()
    rounds = json.loads(Path(saved.value.path()).read_text())
    assert [round_["prompt"] for round_ in rounds] == ["One", "Two"]
    assert [answer["temperature"] for answer in rounds[0]["answers"]] == [None, None, 0]
    assert {answer["content"] for round_ in rounds for answer in round_["answers"]} == {
        "All is well."
    }


def test_one_that_fails_does_not_take_the_other_with_it(page: Page, scripts: Scripts) -> None:
    scripts.per_attempt = [Script(pieces=("Half",), crash_after=1)]
    page.get_by_role("link", name="Compare").click()
    page.get_by_role("textbox", name="Prompt").fill("Go")
    page.get_by_role("button", name="Run").click()
    expect(page.get_by_text("This failed:")).to_have_count(1)
    expect(page.get_by_role("article").get_by_text("All is well.")).to_have_count(1)
