"""From an empty store to an answered question, with the real 0.5B model."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.conftest import picture
from tests.end_to_end.conftest import home, weights
from tests.support.browsing import send, watch
from tests.support.gateway import gateway

__all__ = ["home", "weights"]
pytestmark = pytest.mark.weights


def test_a_first_visit(browser: Browser, weights: Path, tmp_path: Path) -> None:
    served = tmp_path / "coder.gguf"
    served.hardlink_to(weights)
    with (
        gateway(tmp_path / "home", (served,), context=2048) as server,
        browser.new_context(locale="en-GB") as context,
    ):
        watched = watch(context.new_page(), server.url)
        page = watched.page
        page.goto(server.url)
        send(page, "Write a Python function that adds two numbers. Only the code.")
        answer = page.get_by_role("article", name="coder")
        expect(answer.locator("pre code")).to_contain_text("def ", timeout=60_000)
        page.locator("article[aria-busy=true]").wait_for(state="detached", timeout=60_000)
        expect(answer).to_contain_text("tokens/s")
        picture(page, "first-visit")
        watched.check()
