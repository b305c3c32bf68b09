"""What goes on, as it goes on; and ending what nobody wants any more."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor

import pytest
from playwright.sync_api import Page, expect

from freehold.engines.scripted import Script
from tests.support.gateway import Gateway, Scripts, wait_for

pytestmark = pytest.mark.native

ENDLESS = Script(pieces=("word ",) * 100_000, token_seconds=0.01)


def test_a_request_is_seen_and_stopped(page: Page, server: Gateway, scripts: Scripts) -> None:
    scripts.now = ENDLESS
    page.get_by_role("link", name="Activity").click()
    expect(page.get_by_text("Nobody is asking anything")).to_be_visible()
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(server.chat, max_tokens=20_000)
        row = page.get_by_role("region", name="Requests under way").get_by_role("row").nth(1)
        expect(row).to_contain_text("is answered")
        expect(row).to_contain_text("OpenAI")
        row.get_by_role("button", name="Stop").click()
        assert asked.result().status_code == 403
    expect(page.get_by_text("Nobody is asking anything")).to_be_visible()


def test_the_plots_show_what_was_measured(page: Page, server: Gateway, scripts: Scripts) -> None:
    scripts.now = ENDLESS
    page.get_by_role("link", name="Activity").click()
    expect(page.get_by_text("Nobody is asking anything")).to_be_visible()  # it has looked once
    with ThreadPoolExecutor(2) as pool:
        asked = [
            pool.submit(server.chat, model=name, max_tokens=20_000) for name in ("tiny", "other")
        ]
        speeds = page.get_by_role("img", name="Tokens per second.")
        expect(speeds).to_have_accessible_name(re.compile(r"other: \d+.*; tiny: \d+"))
        expect(page.get_by_role("img", name="Time to the first token. ")).to_have_accessible_name(
            re.compile(r"tiny: \d\S* s")
        )
        expect(page.get_by_role("img", name="Prompts from the cache. ")).to_have_accessible_name(
            re.compile("tiny: 0 %")
        )
        models = page.get_by_role("region", name="Models at work")
        rate = models.get_by_role("row").filter(has_text="tiny").get_by_role("cell").first
        expect(rate).to_have_text(re.compile(r"[1-9]\d*\.\d"))
        # It goes on: lines grow with every look.
        line = speeds.locator("path.line").first
        drawn = line.get_attribute("d")
        expect(line).not_to_have_attribute("d", drawn or "")
        for stop in page.get_by_role("button", name="Stop").all():
            stop.click()
        wait_for(lambda: all(each.done() for each in asked))


def test_it_looks_only_while_somebody_watches(page: Page, server: Gateway) -> None:
    page.get_by_role("link", name="Activity").click()
    page.get_by_role("heading", name="Models at work").wait_for()
    page.get_by_role("link", name="Chat", exact=True).click()
    page.get_by_label("Message", exact=True).wait_for()
    looks: list[str] = []
    page.on("request", lambda asked: looks.append(asked.url))
    page.wait_for_timeout(2500)
    assert [each for each in looks if "activity" in each] == []
