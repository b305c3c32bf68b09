"""Where keys are needed: the link once, or a key; no script ever holds it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from freehold.engines.scripted import Script
from tests.support.browsing import answered, send, watch
from tests.support.gateway import Gateway, gateway

pytestmark = pytest.mark.native


@pytest.fixture
def server(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Gateway]:
    """After ``capsys``, which has what it prints."""
    assert capsys
    with gateway(tmp_path, (tiny,), script=lambda _: Script(), api_key="a-secret") as running:
        yield running


def test_by_a_key(page: Page) -> None:
    expect(page.get_by_role("heading", name="This server asks for a key.")).to_be_visible()
    page.get_by_label("Key", exact=True).fill("wrong")
    page.get_by_role("button", name="Enter").click()
    expect(page.get_by_role("status")).to_have_text("This key is not valid here.")
    page.get_by_label("Key", exact=True).fill("a-secret")
    page.get_by_role("button", name="Enter").click()
    send(page, "Hello")
    answered(page, "All is well.")
    held = page.evaluate("document.cookie + JSON.stringify({...localStorage, ...sessionStorage})")
    assert "secret" not in held
    assert "freehold_session" not in held


def test_by_the_link(page: Page, server: Gateway, capsys: pytest.CaptureFixture[str]) -> None:
    printed = re.search(r"http\S+/enter\?code=\S+", capsys.readouterr().out)
    assert printed is not None
    page.goto(printed[0])
    expect(page).to_have_url(f"{server.url}/")
    send(page, "Hello")
    answered(page, "All is well.")
    browser = page.context.browser
    assert browser is not None
    with browser.new_context() as other:
        second = watch(other.new_page(), server.url)
        second.page.goto(printed[0])
        expect(second.page.get_by_text("This link has been used")).to_be_visible()
