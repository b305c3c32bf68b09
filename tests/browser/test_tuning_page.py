"""Tuning on the page: begun, watched, stopped, gone on with, and its frontier shown."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from freehold.engines.scripted import Script
from tests.browser.conftest import picture
from tests.browser.test_access import complaints
from tests.support.gateway import Gateway, gateway
from tests.support.tiny_model import write_tiny_llama

pytestmark = pytest.mark.native


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Gateway]:
    served = write_tiny_llama(tmp_path / "small.gguf", embedding=256, context_length=512)
    with gateway(tmp_path / "home", (served,), script=lambda _: Script(), threads=1) as running:
        yield running


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_from_beginning_to_the_frontier(page: Page, theme: str) -> None:
    page.get_by_label("Colours").select_option(theme)
    page.get_by_role("link", name="Models").click()
    row = page.get_by_role("region", name="On this machine").get_by_role("row").nth(1)
    row.get_by_role("button", name="Load").click()
    row.get_by_role("button", name="Tune").click()
    sheet = page.get_by_role("dialog")
    expect(sheet).to_contain_text("It has not been tuned here yet.")
    form = sheet.get_by_role("form")
    form.get_by_label("Minutes").fill("0.1")
    for format_ in ("Q6_K", "Q4_K_M"):
        form.get_by_label(format_).uncheck()
    form.get_by_role("button", name="Begin").click()

    search = page.get_by_role("region", name="Tuning small")
    expect(search).to_contain_text("small was unloaded for it")
    search.get_by_role("progressbar").wait_for()
    expect(search).to_contain_text(re.compile(r"\d+ of \d+"))
    assert complaints(page) == []
    search.get_by_role("button", name="Stop").click()
    expect(search.get_by_role("status")).to_contain_text("What was measured is kept.")
    search.get_by_role("button", name="Go on").click()
    expect(search.get_by_role("status")).to_contain_text("Done", timeout=120_000)

    row.get_by_role("button", name="Tune").click()
    expect(sheet.get_by_role("img", name="Speed against loss")).to_be_visible()
    table = sheet.get_by_role("region", name="Every finalist")
    expect(table.get_by_role("row").nth(1)).to_contain_text("the file as it is")
    expect(table.get_by_role("row").filter(has_text="chosen")).to_have_count(1)
    assert complaints(page) == []
    picture(page, f"tuning-{theme}")
    page.set_viewport_size({"width": 360, "height": 640})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    # Measured on this machine, with a day: in the column of what is measured.
    page.keyboard.press("Escape")
    wishes = page.get_by_role("form", name="What to plan for")
    wishes.get_by_label("Tokens of a prompt").fill("100")
    wishes.get_by_role("button", name="Plan").click()
    expect(row).to_contain_text(re.compile(r"on \d{4}-\d\d-\d\d; prompts at"))


def test_what_cannot_be_done_is_said(page: Page) -> None:
    page.get_by_role("link", name="Models").click()
    row = page.get_by_role("region", name="On this machine").get_by_role("row").nth(1)
    row.get_by_role("button", name="Tune").click()
    form = page.get_by_role("dialog").get_by_role("form")
    form.get_by_label("Minutes").fill("0")
    form.get_by_role("button", name="Begin").click()
    assert form.get_by_label("Minutes").evaluate("field => !field.validity.valid")
