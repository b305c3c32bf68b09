"""What one does with hands: pasting, dropping, composing, scrolling away and back, waiting."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from freehold.engines.scripted import Script
from tests.support.browsing import answered, send, watch
from tests.support.gateway import Gateway, Scripts, wait_for

pytestmark = pytest.mark.native

# Nobody but a person has files on the clipboard or under the mouse: the events are made by hand.
GIVEN = """(element, {kind, name, text}) => {
  const data = new DataTransfer();
  data.items.add(new File([text], name, {type: "text/plain"}));
  const made = kind === "paste"
    ? new ClipboardEvent(kind, {clipboardData: data, bubbles: true, cancelable: true})
    : new DragEvent(kind, {dataTransfer: data, bubbles: true, cancelable: true});
  return !element.dispatchEvent(made);
}"""
LOADING = "The model is being loaded…"


def given(place: Locator, kind: str, name: str, text: str) -> bool:
    """Whether the page takes it: what it leaves alone, the browser would open."""
    taken: bool = place.evaluate(GIVEN, {"kind": kind, "name": name, "text": text})
    return taken


def composer(page: Page) -> Locator:
    return page.get_by_label("Message", exact=True)


def test_text_is_pasted_as_text(page: Page) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.evaluate("navigator.clipboard.writeText('two\\nlines')")
    composer(page).focus()
    page.keyboard.press("Control+V")
    expect(composer(page)).to_have_value("two\nlines")
    expect(page.get_by_role("article")).to_have_count(0)


def test_a_pasted_file_goes_with_the_message(page: Page, server: Gateway) -> None:
    assert given(composer(page), "paste", "pasted.txt", "A pasted note.")
    page.get_by_text("pasted.txt").wait_for()
    expect(composer(page)).to_have_value("")
    send(page, "Read it")
    answered(page, "All is well.")
    question = page.get_by_role("article", name="You")
    question.get_by_text("pasted.txt").click()
    expect(question.locator("pre")).to_have_text("A pasted note.")


@pytest.mark.parametrize("place", ["Message", "Untitled"])
def test_a_file_is_dropped_wherever_in_the_chat(page: Page, place: str) -> None:
    """Over the composer or the thread: elsewhere the browser would leave the page for the file."""
    target = page.get_by_label(place, exact=True)
    assert given(target, "dragover", "dropped.md", "")
    assert given(target, "drop", "dropped.md", "# A dropped note")
    expect(page.get_by_text("dropped.md")).to_be_visible()
    expect(page.get_by_text(" tokens")).to_be_visible()
    page.get_by_role("button", name="Remove dropped.md").click()
    expect(page.get_by_text("dropped.md")).to_have_count(0)


@contextmanager
def on_glass(browser: Browser, server: Gateway) -> Iterator[Page]:
    with browser.new_context(
        locale="en-GB", viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True
    ) as context:
        context.set_default_timeout(10_000)
        watched = watch(context.new_page(), server.url)
        watched.page.goto(server.url)
        yield watched.page
        watched.check()


def test_enter_sends_and_with_shift_begins_a_line(page: Page) -> None:
    composer(page).press_sequentially("one")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two")
    expect(composer(page)).to_have_value("one\ntwo")
    page.keyboard.press("Enter")
    answered(page, "All is well.")
    expect(page.get_by_role("article", name="You")).to_contain_text("one\ntwo")


def test_enter_on_glass_begins_a_line(browser: Browser, server: Gateway) -> None:
    """There is no Shift there: a button sends."""
    with on_glass(browser, server) as page:
        composer(page).tap()
        page.keyboard.type("one")
        page.keyboard.press("Enter")
        page.keyboard.type("two")
        expect(composer(page)).to_have_value("one\ntwo")
        expect(page.get_by_role("article")).to_have_count(0)
        page.get_by_role("button", name="Send").tap()
        answered(page, "All is well.")


def test_enter_while_composing_chooses_the_word(page: Page) -> None:
    """As an input method does it: what it proposes is no text of the field yet."""
    keyboard = page.context.new_cdp_session(page)
    composer(page).focus()
    proposed = {"text": "にほん", "selectionStart": 3, "selectionEnd": 3}
    keyboard.send("Input.imeSetComposition", proposed)
    expect(composer(page)).to_have_value("にほん")
    enter = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13}
    keyboard.send("Input.dispatchKeyEvent", {"type": "rawKeyDown", **enter})
    keyboard.send("Input.dispatchKeyEvent", {"type": "keyUp", **enter})
    keyboard.send("Input.insertText", {"text": "日本"})
    expect(composer(page)).to_have_value("日本")
    expect(page.get_by_role("article")).to_have_count(0)
    page.keyboard.press("Enter")
    answered(page, "All is well.")
    expect(page.get_by_role("article", name="You")).to_contain_text("日本")


def test_escape_gives_an_edit_up(page: Page, server: Gateway) -> None:
    send(page, "First")
    answered(page, "All is well.")
    question = page.get_by_role("article", name="You")
    question.get_by_role("button", name="Edit").click()
    editing = page.get_by_role("textbox", name="Edit")
    editing.fill("Second")
    editing.press("Escape")
    expect(editing).to_have_count(0)
    expect(question).to_contain_text("First")
    expect(page.get_by_text("1 of")).to_have_count(0)  # no branch has begun
    # Whoever uses the keyboard is where they were.
    expect(question.get_by_role("button", name="Edit")).to_be_focused()
    (heading,) = server.client.get("/freehold/v1/conversations").json()["data"]
    kept = server.client.get(f"/freehold/v1/conversations/{heading['id']}").json()["messages"]
    assert [message["content"] for message in kept] == ["First", "All is well."]


def left(thread: Locator) -> float:
    """Pixels below what one sees."""
    below: float = thread.evaluate("(it) => it.scrollHeight - it.scrollTop - it.clientHeight")
    return below


def test_who_scrolls_up_stays_there_and_finds_back(page: Page, scripts: Scripts) -> None:
    scripts.now = Script(pieces=("A paragraph.\n\n",) * 4000, token_seconds=0.02)
    send(page, "At length")
    thread, back = page.get_by_role("log"), page.get_by_role("button", name="To the end")
    wait_for(lambda: thread.evaluate("(it) => it.scrollTop") > 400)
    expect(back).to_have_count(0)
    assert left(thread) < 100  # it follows
    thread.hover()
    page.mouse.wheel(0, -300)
    back.wait_for()
    there = thread.evaluate("(it) => it.scrollTop")
    whole = thread.evaluate("(it) => it.scrollHeight")
    wait_for(lambda: thread.evaluate("(it) => it.scrollHeight") > whole + 300)
    assert thread.evaluate("(it) => it.scrollTop") == there
    back.click()
    expect(back).to_have_count(0)
    whole = thread.evaluate("(it) => it.scrollHeight")
    wait_for(lambda: thread.evaluate("(it) => it.scrollHeight") > whole + 300)
    assert left(thread) < 100
    page.get_by_role("button", name="Stop").click()


def test_loading_is_told_from_thinking(page: Page, server: Gateway, scripts: Scripts) -> None:
    server.client.post("/freehold/v1/models/unload", json={"model": "other"})
    page.get_by_label("Model", exact=True).select_option("other")
    scripts.now = Script(load_seconds=2.5, first_token_seconds=2.5)
    send(page, "Hello")
    answer = page.get_by_role("article", name="other")
    expect(answer).to_contain_text(LOADING)
    # It is here, and has not said anything yet.
    expect(answer).not_to_contain_text(LOADING)
    expect(answer).to_have_attribute("aria-busy", "true")
    answered(page, "All is well.", "other")
    scripts.now = Script(first_token_seconds=1.5)
    send(page, "Once more")
    busy = page.locator("article[aria-busy=true]")
    busy.wait_for()
    page.evaluate(
        """(words) => {
          window.said = [];
          const look = () => window.said.push(document.body.innerText.includes(words));
          const all = {subtree: true, childList: true, characterData: true};
          new MutationObserver(look).observe(document.body, all);
        }""",
        LOADING,
    )
    busy.wait_for(state="detached")
    assert True not in page.evaluate("window.said")
