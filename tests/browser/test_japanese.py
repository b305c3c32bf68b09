"""On the Japanese page no sentence is English, save those it marks as such."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from playwright.sync_api import Locator, Page, expect

from freehold.engines.scripted import Script
from tests.support.fake_hub import FakeFile, FakeRepository
from tests.support.gateway import Gateway, Scripts, gateway
from tests.support.metered_hub import MeteredHub
from tests.support.models import model_bytes
from tests.support.tiny_model import write_tiny_llama

pytestmark = pytest.mark.native

LARGE = FakeFile(model_bytes("large", elements=1 << 20))
NAME = "hf:maker/Tiny-GGUF:large.gguf"
ENDLESS = Script(pieces=("語 ",) * 100_000, token_seconds=0.01)

# Text and names of what is shown, where a small word follows another; in a Japanese sentence, where
# there are more words on end than a licence's name has. What a model wrote, what somebody typed,
# code and quotations are theirs.
ENGLISH = r"""() => {
  const prose = /[A-Za-z][a-z]+[,;:.]? [a-z]{2,}/;
  const run = /(?:[A-Za-z'’-]+[,;:.]? ){7}/;
  const theirs = ".markdown, .question, code, pre, textarea, :not(html)[lang=en]";
  const found = new Set();
  const look = (text, element) => {
    const said = text?.replace(/「[^」]*」/g, "") ?? "";
    const measure = /[\u3040-\u30ff\u4e00-\u9fff]/.test(said) ? run : prose;
    if (measure.test(said) && !element.closest(theirs)) found.add(text.trim());
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node; (node = walker.nextNode()); ) look(node.data, node.parentElement);
  for (const element of document.querySelectorAll("[aria-label], [title], [placeholder]"))
    for (const name of ["aria-label", "title", "placeholder"])
      look(element.getAttribute(name), element);
  return [...found];
}"""


@pytest.fixture(scope="module")
def hub() -> Iterator[MeteredHub]:
    card = FakeFile(b"---\nlicense: gemma\nbase_model: maker/Unread\n---\n# A model\n")
    files = {"large.gguf": LARGE, "README.md": card}
    with MeteredHub([FakeRepository("maker/Tiny-GGUF", files)]) as running:
        yield running


@pytest.fixture(scope="module")
def shared(
    tmp_path_factory: pytest.TempPathFactory, hub: MeteredHub, scripts: Scripts
) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("models")
    small = write_tiny_llama(folder / "small.gguf", embedding=256, context_length=512)
    unknown = folder / "unknown.gguf"
    unknown.write_bytes(model_bytes("unknown"))
    home = tmp_path_factory.mktemp("home")
    with gateway(
        home, (small, unknown), script=scripts, hub_endpoint=hub.endpoint, threads=1
    ) as running:
        yield running


@pytest.fixture
def japanese(page: Page) -> Page:
    page.get_by_label("Language").select_option("ja")
    return page


def english(page: Page) -> list[str]:
    page.evaluate("document.querySelectorAll('details').forEach((each) => (each.open = true))")
    found: list[str] = page.evaluate(ENGLISH)
    page.evaluate("document.querySelectorAll('details').forEach((each) => (each.open = false))")
    return found


def to(page: Page, section: str) -> None:
    page.get_by_role("link", name=section, exact=True).click()
    page.get_by_role("heading", name=section, exact=True).wait_for()


def refused(page: Page, place: Locator, saying: str) -> None:
    """It says so, in Japanese alone, and what the server said on demand, marked as English."""
    place.get_by_text(saying).wait_for()
    assert english(page) == []
    quoted = place.locator("q[lang=en]")
    expect(quoted).to_have_count(0)
    place.get_by_role("button", name="原文").click()
    expect(quoted).to_be_visible()
    assert english(page) == []


def test_chat_and_compare(japanese: Page, scripts: Scripts) -> None:
    page = japanese
    assert english(page) == []
    scripts.now = Script(pieces=("<think>", "Some thought of it.", "</think>", "All is well here."))
    page.get_by_label("メッセージ", exact=True).fill("こんにちは")
    page.get_by_role("button", name="送信").click()
    page.get_by_text("All is well here.").wait_for()
    page.locator("article[aria-busy=true]").wait_for(state="detached")
    page.get_by_role("button", name="モデルが見たもの").first.click()
    page.get_by_role("dialog").locator("pre").wait_for()
    assert english(page) == []
    page.keyboard.press("Escape")
    page.get_by_role("button", name="この会話の設定").click()
    assert english(page) == []
    page.keyboard.press("Escape")
    # What the server refuses is said in Japanese; its own sentence is one click away.
    page.get_by_label("メッセージ", exact=True).fill("word " * 3000)
    page.get_by_role("button", name="送信").click()
    refused(page, page.get_by_role("article"), "コンテキストに収まりません")
    numbers = re.compile(r"プロンプト [\d,]+、上限 8,192 トークン")
    expect(page.get_by_role("article").last).to_contain_text(numbers)
    page.reload()  # they are kept with the answer
    expect(page.get_by_role("article").last).to_contain_text(numbers)
    to(page, "比較")
    page.get_by_role("textbox", name="プロンプト").fill("こんにちは")
    page.get_by_role("button", name="実行").click()
    page.get_by_text("All is well here.").first.wait_for()
    assert english(page) == []


def test_models_their_papers_and_their_tuning(japanese: Page) -> None:
    page = japanese
    to(page, "モデル")
    page.get_by_text("deepseek-r1:671b").first.wait_for()
    page.get_by_text("入りません").first.wait_for()
    page.get_by_label("別のモデルを取得").fill(NAME)
    page.get_by_role("button", name="取得", exact=True).click()
    here = page.get_by_role("region", name="このマシンにあるもの")
    row = here.get_by_role("row").filter(has_text=NAME)
    row.wait_for()
    assert english(page) == []
    page.get_by_label("別のモデルを取得").fill("no-such-model")
    page.get_by_role("button", name="取得", exact=True).click()
    refused(page, page.get_by_role("alert"), "「no-such-model」というモデルはありません")
    for name in (NAME, "small"):
        row = here.get_by_role("row").filter(has_text=name)
        row.get_by_role("button", name="詳細").click()
        papers = page.get_by_role("dialog")
        papers.get_by_role("heading", name="もとになったモデル").wait_for()
        assert english(page) == []
        # Nothing of it fell back to English either.
        assert papers.locator("[lang=en]").all_inner_texts() == []
        if name == NAME:
            expect(papers).to_contain_text("Gemma Terms of Use の写しを渡す")
        page.keyboard.press("Escape")
    row.get_by_role("button", name="チューニング").click()
    form = page.get_by_role("dialog").get_by_role("form")
    assert english(page) == []
    form.get_by_label("およその時間").fill("0.1")
    for format_ in ("Q6_K", "Q4_K_M", "Q4_0"):
        form.get_by_label(format_).uncheck()
    form.get_by_role("button", name="開始").click()
    search = page.get_by_role("region", name="small のチューニング")
    search.get_by_role("listitem").first.wait_for()
    assert english(page) == []
    expect(search.get_by_role("status")).to_contain_text("完了", timeout=120_000)
    row.get_by_role("button", name="チューニング").click()
    page.get_by_role("dialog").get_by_role("region").wait_for()
    assert english(page) == []


def test_activity_and_keys(japanese: Page, server: Gateway, scripts: Scripts) -> None:
    page = japanese
    scripts.now = ENDLESS
    to(page, "稼働状況")
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(server.chat, model="small", max_tokens=400)
        page.get_by_role("button", name="停止").first.wait_for()
        assert english(page) == []
        asked.result()
    to(page, "キー")
    page.get_by_label("名前", exact=True).fill("ada")
    page.get_by_role("button", name="キーを作成").click()
    page.get_by_role("row").filter(has_text="ada").wait_for()
    assert english(page) == []
    page.get_by_label("名前", exact=True).fill("ada")
    page.get_by_role("button", name="キーを作成").click()
    refused(page, page.get_by_role("alert"), "キー ada はすでにあります")


def test_english_would_be_found(page: Page) -> None:
    """The measure itself: the English page is full of it."""
    to(page, "Models")
    page.get_by_text("does not fit").first.wait_for()
    found = english(page)
    assert any("does not fit" in each for each in found)
    assert any("nothing of it is measured" in each for each in found)
