"""Every page in a window of 360 pixels, in both languages and both themes.

The pictures are in pytest's temporary folder: `--basetemp=FOLDER` to look at them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from freehold.engines.scripted import Script
from tests.browser.test_access import complaints
from tests.support.browsing import watch
from tests.support.gateway import Gateway, Scripts, gateway, wait_for
from tests.support.tiny_model import write_tiny_llama

pytestmark = pytest.mark.native

WIDTH = 360
ENDLESS = Script(pieces=("word ",) * 100_000, token_seconds=0.01)
ANSWER = Script(
    pieces=(
        "# A head\n\n" + "word" * 100 + "\n\n```python\nprint('" + "code " * 40 + "')\n```\n\n",
        "| first | second |\n|---|---|\n| " + "x" * 120 + " | y |\n\n",
        "- one\n- two\n\n$$\\sum_{i=1}^{n} \\frac{a_i + b_i + c_i + d_i}{e_i + f_i + g_i}$$\n",
    )
)
WORDS = {
    "en": {
        "message": "Message",
        "send": "Send",
        "seen": "What the model saw",
        "settings": "Settings of this conversation",
        "conversations": "Conversations",
        "close": "Close",
        "more": "More",
        "compare": "Compare",
        "prompt": "Prompt",
        "run": "Run",
        "best": "A is best",
        "models": "Models",
        "load": "Load",
        "fetch": "Fetch",
        "details": "Details",
        "made of": "Made of",
        "tune": "Tune",
        "activity": "Activity",
        "stop": "Stop",
        "keys": "Keys",
        "name": "Name",
        "create": "Create the key",
        "key needed": "This server asks for a key.",
    },
    "ja": {
        "message": "メッセージ",
        "send": "送信",
        "seen": "モデルが見たもの",
        "settings": "この会話の設定",
        "conversations": "会話",
        "close": "閉じる",
        "more": "その他",
        "compare": "比較",
        "prompt": "プロンプト",
        "run": "実行",
        "best": "A が最良",
        "models": "モデル",
        "load": "読み込む",
        "fetch": "取得",
        "details": "詳細",
        "made of": "もとになったモデル",
        "tune": "チューニング",
        "activity": "稼働状況",
        "stop": "停止",
        "keys": "キー",
        "name": "名前",
        "create": "キーを作成",
        "key needed": "このサーバーにはキーが必要です。",
    },
}

# Controls that reach out of the window, save in what scrolls by itself, and those too small for a
# finger: 24 pixels are the least that WCAG 2.2 takes. A link in a sentence is as high as its line;
# a box is ticked by its label.
MISFITS = r"""() => {
  const found = [];
  const width = document.documentElement.clientWidth;
  const all = (selector) => document.querySelectorAll(selector);
  for (const element of all("html, body, #page, main, dialog, .page, .thread, form, section")) {
    const { tagName, className, scrollWidth, clientWidth } = element;
    if (scrollWidth > clientWidth) found.push(`scrolls: ${tagName}.${className} ${scrollWidth}`);
  }
  for (const element of all("a[href], button, input, select, textarea, summary")) {
    if (!element.checkVisibility() || element.closest(".hidden, .skip")) continue;
    const { left, right, width: wide, height } = (element.closest("label") ?? element)
      .getBoundingClientRect();
    const name = `${element.tagName} ${(element.ariaLabel ?? element.innerText).slice(0, 40)}`;
    if (!element.closest(".wide") && (left < 0 || right > width + 0.5))
      found.push(`outside: ${name} from ${left} to ${right}`);
    const inline = element.matches("a") && getComputedStyle(element).display === "inline";
    if (!inline && (height < 24 || wide < 24)) found.push(`small: ${name} ${wide} x ${height}`);
  }
  return found;
}"""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, scripts: Scripts) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("models")
    name = "a-model-with-quite-a-long-name-instruct"
    small = write_tiny_llama(folder / f"{name}.gguf", embedding=256, context_length=2048)
    tiny = write_tiny_llama(folder / "tiny.gguf")
    home = tmp_path_factory.mktemp("home")
    with gateway(home, (small, tiny), script=scripts, threads=1) as running:
        body: dict[str, Any] = {"model": name, "minutes": 0.1, "formats": ["Q8_0"]}
        assert running.client.post("/freehold/v1/tuning", json=body).status_code == 200
        wait_for(lambda: state(running) == "done", seconds=120)
        yield running


def state(server: Gateway) -> str:
    found: str = server.client.get("/freehold/v1/tuning").json()["search"]["state"]
    return found


class Phone:
    """A window that looks at what it shows, and takes a picture of it."""

    def __init__(self, page: Page, language: str, theme: str, folder: Path) -> None:
        self.page, self._folder, self.words = page, folder, WORDS[language]
        self.stem = f"{language}-{theme}"

    def look(self, name: str) -> None:
        """When what is there has been drawn: some pages ask the server for ever."""
        self.page.evaluate("new Promise((drawn) => requestAnimationFrame(() => setTimeout(drawn)))")
        self.page.screenshot(path=self._folder / f"{self.stem}-{name}.png")
        assert self.page.evaluate(MISFITS) == [], name

    def to(self, section: str) -> None:
        self.page.get_by_role("link", name=self.words[section], exact=True).click()
        heading = self.page.get_by_role("heading", name=self.words[section], exact=True)
        heading.wait_for()

    def press(self, name: str) -> None:
        self.page.get_by_role("button", name=self.words[name], exact=True).first.click()

    def close(self) -> None:
        self.page.keyboard.press("Escape")


@pytest.fixture(params=["light", "dark"])
def theme(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


@pytest.fixture(params=["en", "ja"])
def language(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


@pytest.fixture
def phone(
    browser: Browser, server: Gateway, language: str, theme: str, tmp_path: Path
) -> Iterator[Phone]:
    with on_a_phone(browser, server, language, theme, tmp_path) as found:
        yield found


@contextlib.contextmanager
def on_a_phone(
    browser: Browser, server: Gateway, language: str, theme: str, folder: Path
) -> Iterator[Phone]:
    with browser.new_context(
        locale="en-GB" if language == "en" else "ja-JP",
        color_scheme="dark" if theme == "dark" else "light",
        viewport={"width": WIDTH, "height": 740},
        has_touch=True,
        is_mobile=True,
    ) as context:
        context.set_default_timeout(10_000)
        watched = watch(context.new_page(), server.url)
        watched.page.goto(server.url)
        yield Phone(watched.page, language, theme, folder)
        watched.check()


def test_chat(phone: Phone, scripts: Scripts) -> None:
    page, words = phone.page, phone.words
    scripts.now = ANSWER
    page.get_by_label(words["message"], exact=True).wait_for()
    phone.look("first-visit")
    page.get_by_label(words["message"], exact=True).fill("Where does this lead? " * 12)
    phone.press("send")
    page.locator("article h3").wait_for()
    page.locator("article[aria-busy=true]").wait_for(state="detached")
    phone.look("chat-end")
    page.locator("article pre").scroll_into_view_if_needed()
    phone.look("chat")
    phone.press("seen")
    page.get_by_role("dialog").locator("pre").wait_for()
    phone.look("seen")
    phone.close()
    phone.press("settings")
    phone.look("settings")
    phone.close()
    page.locator("summary", has_text=words["more"]).click()
    phone.look("menu")
    page.locator("summary", has_text=words["more"]).click()
    phone.press("conversations")
    phone.look("conversations")
    assert complaints(page) == []
    phone.press("close")
    page.get_by_role("navigation", name=words["conversations"]).wait_for(state="hidden")


def test_compare(phone: Phone, scripts: Scripts) -> None:
    page, words = phone.page, phone.words
    scripts.now = ANSWER
    phone.to("compare")
    page.get_by_label(words["prompt"], exact=True).fill("And here?")
    phone.look("compare")
    phone.press("run")
    page.get_by_role("button", name=words["best"]).wait_for()
    phone.look("compared")
    page.get_by_role("button", name=words["best"]).click()
    page.locator(".page").evaluate("(page) => (page.scrollTop = page.scrollHeight)")
    phone.look("votes")
    assert complaints(page) == []


def test_models(phone: Phone, server: Gateway) -> None:
    page, words = phone.page, phone.words
    for each in server.client.get("/freehold/v1/models/loaded").json()["models"]:
        server.client.post("/freehold/v1/models/unload", json={"model": each["model"]})
    phone.to("models")
    page.get_by_text("deepseek-r1:671b").first.wait_for()
    phone.look("models")
    # Nothing of a row has to be looked for sideways, and what one comes for least of all.
    for region in page.get_by_role("region").filter(has=page.get_by_role("table")).all():
        assert region.evaluate("(wide) => wide.scrollWidth <= wide.clientWidth")
    for name in ("load", "fetch"):
        button = page.get_by_role("table").get_by_role("button", name=words[name]).first
        button.scroll_into_view_if_needed()
        box = button.bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= WIDTH
    # To those who listen it is a table all the same.
    row = page.get_by_role("row").filter(has_text="qwen2.5-coder:0.5b")
    assert row.get_by_role("rowheader").count() == 1
    row.get_by_role("cell").nth(3).wait_for()  # when the plan is there
    page.get_by_role("heading", level=2).last.scroll_into_view_if_needed()
    phone.look("models-to-fetch")
    phone.press("details")
    page.get_by_role("heading", name=words["made of"]).wait_for()
    phone.look("papers")
    phone.close()
    phone.press("tune")
    page.get_by_role("dialog").locator("table").first.wait_for()
    phone.look("tune")
    assert complaints(page) == []
    phone.close()
    assert complaints(page) == []


def test_activity_and_keys(phone: Phone, server: Gateway, scripts: Scripts) -> None:
    page, words = phone.page, phone.words
    scripts.now = ENDLESS
    phone.to("activity")
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(server.chat, max_tokens=2000)
        stop = page.get_by_role("button", name=words["stop"]).first
        stop.wait_for()
        phone.look("activity")
        assert complaints(page) == []
        stop.click()
        asked.result()
    phone.to("keys")
    name = f"phone-{phone.stem}"
    page.get_by_label(words["name"], exact=True).fill(name)
    phone.press("create")
    page.get_by_role("row").filter(has_text=name).wait_for()
    phone.look("keys")
    assert complaints(page) == []


def test_signing_in(
    browser: Browser, tiny: Path, language: str, theme: str, tmp_path: Path
) -> None:
    with (
        gateway(
            tmp_path / "home", (tiny,), script=lambda _: Script(), api_key="a-secret"
        ) as server,
        on_a_phone(browser, server, language, theme, tmp_path) as phone,
    ):
        phone.page.get_by_role("heading", name=phone.words["key needed"]).wait_for()
        phone.look("sign-in")
        assert complaints(phone.page) == []
