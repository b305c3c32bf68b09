"""The list of conversations: its days, deleting from it. And notices, which stay on their page."""

from __future__ import annotations

import datetime
import re

import pytest
from playwright.sync_api import Page, expect

from tests.browser.test_access import complaints
from tests.support.browsing import answered, send
from tests.support.gateway import Gateway

pytestmark = pytest.mark.native


def two(page: Page) -> None:
    for text in ("About apples", "About pears"):
        page.get_by_role("link", name="New conversation").click()
        send(page, text)
        answered(page, "All is well.")


@pytest.mark.parametrize(
    ("language", "today", "yesterday", "week"),
    [("en", "Today", "Yesterday", "The last 7 days"), ("ja", "今日", "昨日", "過去7日間")],
)
def test_conversations_stand_under_their_days(
    page: Page, server: Gateway, language: str, today: str, yesterday: str, week: str
) -> None:
    page.get_by_label("Message", exact=True).wait_for()
    two(page)
    page.get_by_label("Language").select_option(language)
    listed = page.get_by_role("navigation").filter(has=page.get_by_role("searchbox"))
    headings = listed.get_by_role("heading")
    expect(headings).to_have_text([today])
    expect(listed.get_by_role("list", name=today).get_by_role("listitem")).to_have_count(2)
    now = datetime.datetime.now(datetime.UTC)
    for days, said in ((1, yesterday), (4, week)):
        page.clock.set_fixed_time(now + datetime.timedelta(days=days))
        page.reload()
        expect(headings).to_have_text([said])
    page.clock.set_fixed_time(now + datetime.timedelta(days=62))
    page.reload()
    month = {"en": r"[A-Z][a-z]+ \d{4}", "ja": r"\d{4}年\d+月"}[language]
    expect(headings).to_have_text([re.compile(f"^{month}$")])
    assert complaints(page) == []


def test_deleting_from_the_list_by_keyboard(page: Page, server: Gateway) -> None:
    two(page)
    delete = page.get_by_role("button", name="Delete: About apples")
    delete.focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog", name="Delete “About apples” with all its messages?")
    expect(dialog).to_be_visible()
    dialog.get_by_role("button", name="Cancel").press("Enter")
    expect(dialog).to_have_count(0)
    expect(delete).to_be_focused()
    page.keyboard.press("Enter")
    dialog.get_by_role("button", name="Delete").press("Enter")
    expect(page.get_by_role("link", name="About apples")).to_have_count(0)
    # Whoever came by keyboard goes on beside it; what is open stays open.
    expect(page.get_by_role("link", name="About pears")).to_be_focused()
    expect(page.get_by_role("article", name="You")).to_contain_text("About pears")
    assert server.client.get("/freehold/v1/conversations").json()["total"] == 1


def test_deleting_the_open_one_leads_to_a_new_one(page: Page, server: Gateway) -> None:
    two(page)
    page.get_by_role("link", name="About pears").hover()
    page.get_by_role("button", name="Delete: About pears").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(page.get_by_role("heading", name="What would you like to know?")).to_be_visible()
    expect(page.get_by_role("link", name="About apples")).to_be_visible()
    assert complaints(page) == []


def test_what_is_said_on_one_page_is_not_said_on_the_next(page: Page, server: Gateway) -> None:
    page.route("**/messages", lambda route: route.abort())
    send(page, "Into the void")
    expect(page.get_by_role("alert")).to_contain_text("The server does not answer.")
    page.get_by_role("link", name="Compare").click()
    expect(page.get_by_role("heading", name="Compare", exact=True)).to_be_visible()
    expect(page.get_by_role("alert")).to_be_empty()
