"""A model that another server answers as is marked wherever one can choose it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from freehold.engines.scripted import Script
from tests.browser.test_access import complaints
from tests.support.gateway import Gateway, gateway

pytestmark = pytest.mark.native

FAR = "far=https://models.example.org/v1 model=large context=256"
MARK = {
    "en": "leaves this machine: models.example.org",
    "ja": "このマシンの外に出ます：models.example.org",
}
SECTIONS = {"en": ("Chat", "Compare", "Models"), "ja": ("チャット", "比較", "モデル")}
MODEL = {"en": "Model", "ja": "モデル"}


@pytest.fixture
def server(tmp_path: Path, tiny: Path) -> Iterator[Gateway]:
    with gateway(
        tmp_path / "home",
        (tiny,),
        script=lambda _: Script(),
        upstreams=(FAR, "near=http://127.0.0.1:9/v1"),
        aliases=("gpt=far",),
    ) as running:
        yield running


@pytest.mark.parametrize("language", ["en", "ja"])
def test_it_says_that_it_leaves_and_for_where(page: Page, language: str) -> None:
    page.get_by_label("Language").select_option(language)
    mark, (_, compare, models) = MARK[language], SECTIONS[language]
    picker = page.get_by_role("combobox", name=MODEL[language], exact=True)
    for name in ("far", "gpt"):
        expect(picker.get_by_role("option", name=f"{name} · {mark}", exact=True)).to_be_attached()
    expect(picker).to_have_value("tiny")  # nothing leaves unless it is chosen
    for name in ("tiny", "near"):
        expect(picker.get_by_role("option", name=name, exact=True)).to_be_attached()
    picker.select_option("tiny")
    expect(page.get_by_role("main").get_by_text(mark)).to_have_count(2)  # options alone
    picker.select_option("far")
    expect(page.get_by_role("main").get_by_text(mark)).to_have_count(3)
    expect(page.get_by_role("main").locator(".empty")).to_contain_text("models.example.org")
    assert complaints(page) == []

    page.get_by_role("link", name=compare, exact=True).click()
    first = page.get_by_role("combobox", name=f"{MODEL[language]} 1", exact=True)
    expect(first.get_by_role("option", name=f"far · {mark}", exact=True)).to_be_attached()
    expect(page.get_by_role("group").get_by_text("↗")).to_have_count(0)
    first.select_option("far")
    expect(page.get_by_role("group").locator("span").filter(has_text=mark)).to_be_visible()

    page.get_by_role("link", name=models, exact=True).click()
    for name in ("far", "gpt"):
        expect(page.get_by_role("rowheader", name=f"{name} {mark}")).to_be_visible()
    for name, is_marked in (("tiny", False), ("far", True)):
        row = page.get_by_role("row").filter(has=page.get_by_role("rowheader", name=name))
        # What is another server's is neither loaded nor tuned from here.
        expect(row.get_by_role("button")).to_have_count(0 if is_marked else 3)
    assert complaints(page) == []
