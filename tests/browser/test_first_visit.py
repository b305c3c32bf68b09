"""With the real 0.5B model: from an empty store to an answered question, and how it is watched."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
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


def test_watching_it_at_work(browser: Browser, weights: Path, tmp_path: Path) -> None:
    served = tmp_path / "coder.gguf"
    served.hardlink_to(weights)
    with (
        gateway(tmp_path / "home", (served,), context=2048) as server,
        browser.new_context(locale="en-GB", viewport={"width": 1200, "height": 860}) as context,
    ):
        watched = watch(context.new_page(), server.url)
        page = watched.page
        page.goto(f"{server.url}/#/activity")
        expect(page.get_by_text("Nobody is asking anything")).to_be_visible()
        row = page.get_by_role("region", name="Models at work").get_by_role("row").nth(1)
        *_, cached, memory, held = (row.get_by_role("cell").nth(number) for number in range(7))

        def ask(tokens: int) -> httpx2.Response:
            question = [{"role": "user", "content": "Count from 1 to 200, in words."}]
            body = {"model": "coder", "messages": question, "max_tokens": tokens}
            return server.client.post("/v1/chat/completions", json=body, timeout=300)

        assert ask(8).status_code == 200
        expect(cached).to_have_text("0 %")
        with ThreadPoolExecutor(1) as pool:
            asking = pool.submit(ask, 1500)
            requests = page.get_by_role("region", name="Requests under way")
            expect(requests).to_contain_text("is answered", timeout=30_000)
            # The second question is the first one again: it need not be read.
            expect(cached).to_have_text(re.compile("^[1-9][0-9] %$"), timeout=60_000)
            expect(memory).to_have_text(re.compile("^[0-9.]+ [MG]B$"))
            expect(held).to_have_text(re.compile("^[1-9]"))
            picture(page, "activity")
            requests.get_by_role("button", name="Stop").click()
            assert asking.result().status_code == 403
        expect(page.get_by_text("Nobody is asking anything")).to_be_visible()
        watched.check()
