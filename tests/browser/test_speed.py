"""How much is loaded before the first answer, how soon, and whether it stays smooth."""

from __future__ import annotations

import gzip
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Response, expect

from freehold.api.web.page import FOLDER
from freehold.engines.scripted import Script
from freehold.runtime.kept import KeptMessage, Wishes
from tests.support.browsing import Watched, send
from tests.support.frames import ATTEMPTS, MOST, Frames, require_smooth, traced
from tests.support.gateway import Gateway, Scripts, gateway

pytestmark = pytest.mark.native

SEND = """() => {
    const form = document.querySelector("form.composer");
    const area = form.querySelector("textarea");
    area.value = "Go on";
    area.dispatchEvent(new Event("input", { bubbles: true }));
    form.requestSubmit();
}"""


@pytest.fixture(scope="module")
def shared(
    tmp_path_factory: pytest.TempPathFactory, tiny: Path, scripts: Scripts
) -> Iterator[Gateway]:
    home = tmp_path_factory.mktemp("home")
    with gateway(home, (tiny,), script=scripts, context=1_000_000) as running:
        yield running


def test_it_is_small(watched: Watched, server: Gateway) -> None:
    sizes: dict[str, int] = {}

    def note(response: Response) -> None:
        sizes[response.url] = int(response.headers.get("content-length", 0))

    watched.page.on("response", note)
    watched.page.goto(server.url)
    send(watched.page, "Hello")
    watched.page.get_by_text("All is well.").wait_for()
    assert 0 < sum(sizes.values()) < 250_000
    # With what is loaded later, for formulas and other sections, it still is.
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    assert sum(len(gzip.compress(path.read_bytes())) for path in files) < 250_000


def test_it_is_usable_within_a_second(browser: Browser, server: Gateway) -> None:
    """In the best of three first visits: what else the machine does is not the page's."""

    def visit() -> float:
        with browser.new_context() as visitor:
            page = visitor.new_page()
            began = time.monotonic()
            page.goto(server.url)
            page.get_by_label("Message", exact=True).wait_for()
            return time.monotonic() - began

    took: list[float] = []
    while len(took) < ATTEMPTS and not (took and took[-1] < 1):
        took.append(visit())
    assert took[-1] < 1, took


def test_a_long_answer_stays_smooth(
    browser: Browser, page: Page, server: Gateway, scripts: Scripts
) -> None:
    paragraph = [*("Some *words* of an `answer` in a paragraph. " * 4).split(" "), "\n\n"]
    code = ["```python\n", *(f"x = {number}\n" for number in range(200)), "```\n\n"]
    tokens = [f"{each} " if "\n" not in each else each for each in (paragraph * 20 + code) * 30]
    scripts.now = Script(pieces=tuple(tokens[:20_000]), token_seconds=0.0004)

    def measure() -> Frames:
        page.goto("about:blank")
        page.goto(server.url)  # a conversation of its own
        with traced(browser, page) as frames:
            send(page, "Write a book")
            page.locator("article[aria-busy=true]").wait_for()
            page.locator("article[aria-busy=true]").wait_for(state="detached", timeout=120_000)
        expect(page.get_by_text("20,000 tokens · ")).to_be_visible()
        return frames

    require_smooth(measure)


def test_a_long_conversation_stays_smooth(
    browser: Browser, watched: Watched, server: Gateway, scripts: Scripts
) -> None:
    kept = server.runtime.conversations
    made = kept.add("local", "Long", "tiny", "", Wishes())
    parent = None
    for number in range(500):
        text = f"Message {number}.\n\n- a list\n- of `things`\n\n" + "And a sentence. " * 20
        message = KeptMessage(
            id=f"{number:032x}",
            parent=parent,
            role="assistant" if number % 2 else "user",
            content=text,
            created=float(number),
            model="tiny" if number % 2 else None,
        )
        kept.add_message("local", made.id, message)
        parent = message.id
    page = watched.page
    page.goto(f"{server.url}/#/chat/{made.id}")
    page.get_by_text("Message 499.").wait_for()
    scripts.now = Script(pieces=("word ",) * 200, token_seconds=0.01)

    def measure() -> Frames:
        with traced(browser, page) as frames:
            page.evaluate(SEND)  # looking for roles in so large a page takes longer than a frame
            page.locator("article[aria-busy=true]").wait_for()
            page.locator("article[aria-busy=true]").wait_for(state="detached", timeout=60_000)
        expect(page.locator("article").last).to_contain_text("word word")
        return frames

    require_smooth(measure)


def test_a_page_that_works_too_long_is_found_out(browser: Browser, page: Page) -> None:
    page.evaluate(
        """() => setInterval(() => {
            const end = performance.now() + 300;
            while (performance.now() < end);
        }, 600)"""
    )
    with traced(browser, page) as frames:
        page.wait_for_timeout(4000)
    assert frames.longest > MOST
    assert not frames.smooth
