"""Keyboard, languages, themes, small windows, and what axe-core finds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from freehold.engines.scripted import Script
from tests.browser.conftest import picture
from tests.support.browsing import answered, send
from tests.support.gateway import Scripts

pytestmark = pytest.mark.native

AXE = Path(__file__).parents[2] / "web" / "node_modules" / "axe-core" / "axe.min.js"
SECTIONS = ("Chat", "Compare", "Models", "Activity", "Keys")


def complaints(page: Page) -> list[str]:
    """Everything axe-core finds that is serious or worse."""
    page.evaluate(AXE.read_text())
    found: Any = page.evaluate(
        "axe.run({runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'best-practice']})"
    )
    return [
        f"{violation['id']}: {node['html']} ({node['failureSummary']})"
        for violation in found["violations"]
        if violation["impact"] in ("serious", "critical")
        for node in violation["nodes"]
    ]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_nothing_serious_on_any_page(page: Page, scripts: Scripts, theme: str) -> None:
    text = "# Head\n\n| a |\n|---|\n| 1 |\n\n```\ncode\n```\n\n$x^2$ [link](https://example.org)"
    scripts.now = Script(pieces=(text,))
    page.get_by_label("Colours").select_option(theme)
    send(page, "Hello")
    answered(page, "Head")
    assert complaints(page) == []
    page.get_by_role("button", name="Settings of this conversation").click()
    assert complaints(page) == []
    page.keyboard.press("Escape")
    for section in SECTIONS[1:]:
        page.get_by_role("link", name=section, exact=True).click()
        page.get_by_role("heading", name=section, exact=True).wait_for()
        page.get_by_text("qwen2.5-coder:0.5b").first.wait_for() if section == "Models" else None
        assert complaints(page) == [], section
        picture(page, f"{section.lower()}-{theme}")


def test_both_languages_and_the_choice_is_remembered(page: Page, scripts: Scripts) -> None:
    scripts.now = Script(token_seconds=0.02)
    page.get_by_label("Language").select_option("ja")
    expect(page.get_by_role("heading", name="何をお調べしますか？")).to_be_visible()
    assert page.evaluate("document.documentElement.lang") == "ja"
    page.reload()
    page.get_by_label("メッセージ", exact=True).fill("こんにちは")
    page.get_by_role("button", name="送信").click()
    page.get_by_role("article", name="tiny").get_by_text("All is well.").wait_for()
    expect(page.get_by_text("トークン/秒")).to_be_visible()
    page.get_by_role("link", name="モデル", exact=True).click()
    expect(page.get_by_role("heading", name="取得できるもの")).to_be_visible()
    page.get_by_label("言語").select_option("en")
    expect(page.get_by_role("heading", name="To fetch")).to_be_visible()


def test_by_keyboard_alone(page: Page, scripts: Scripts) -> None:
    def tab_to(name: str) -> None:
        for _ in range(60):
            page.keyboard.press("Tab")
            if (
                page.evaluate(
                    "document.activeElement.ariaLabel ?? document.activeElement.innerText"
                )
                == name
            ):
                return
        raise AssertionError(f"{name} is not reached")

    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    tab_to("Message")
    page.keyboard.type("One line")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("and another")
    page.keyboard.press("Enter")
    answered(page, "All is well.")
    assert page.get_by_role("article", name="You").inner_text().startswith("One line\nand another")
    page.evaluate("document.querySelector('.thread').focus()")
    tab_to("Edit")
    page.keyboard.press("Enter")
    expect(page.get_by_role("textbox", name="Edit")).to_be_focused()
    page.keyboard.press("Control+End")
    page.keyboard.type("!")
    scripts.now = Script(pieces=("Again.",))
    tab_to("Send")
    page.keyboard.press("Enter")
    answered(page, "Again.")
    page.evaluate("document.querySelector('.thread').focus()")
    tab_to("The one before")
    page.keyboard.press("Enter")
    answered(page, "All is well.")
    tab_to("What the model saw")
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)


def test_on_a_phone(page: Page, scripts: Scripts) -> None:
    page.set_viewport_size({"width": 360, "height": 640})
    scripts.now = Script(
        pieces=(
            "word" * 200,
            "\n\n```\n",
            "code " * 100,
            "\n```\n\n",
            "|a|b|\n|-|-|\n",
            "|" + "x" * 200 + "|y|",
        )
    )
    send(page, "A" * 300)
    answered(page, "wordword")
    for section in SECTIONS:
        page.get_by_role("link", name=section, exact=True).click()
        if section != "Chat":
            page.get_by_role("heading", name=section, exact=True).wait_for()
        if section == "Models":
            page.get_by_text("qwen2.5-coder:0.5b").first.wait_for()
        page.wait_for_load_state("networkidle")
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, section
    page.get_by_role("link", name="Chat", exact=True).click()
    page.get_by_role("button", name="Conversations").click()
    page.get_by_role("link", name="AAAA").click()
    answered(page, "wordword")
    picture(page, "phone")
