"""Answers that were cut or stopped, over llama.cpp; and what is said while a prompt is read."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from freehold.engines.scripted import Script
from tests.browser.test_access import complaints
from tests.support.browsing import answered, send
from tests.support.endless import write_endless_llama
from tests.support.gateway import Gateway, Scripts, gateway

pytestmark = pytest.mark.native

FIGURES = re.compile(r"^\d+ tokens · first token after \d+\.\d\d s · .* tokens/s")
PATIENT = Script(pieces=("word ",) * 2000, token_seconds=0.02)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    tiny = write_endless_llama(tmp_path_factory.mktemp("models") / "tiny.gguf")
    with gateway(tmp_path_factory.mktemp("real"), (tiny,), context=512) as running:
        yield running


@pytest.fixture
def limited(page: Page, real: Gateway) -> Page:
    """A conversation whose answers have twelve tokens, and are always the same."""
    page.goto(real.url)
    page.get_by_role("button", name="Settings of this conversation").click()
    page.get_by_label("Temperature").fill("0")
    page.get_by_label("Tokens at most").fill("12")
    page.get_by_role("button", name="Save").click()
    return page


@pytest.fixture
def server(real: Gateway, request: pytest.FixtureRequest) -> Gateway:
    """The scripted one where a test follows a script."""
    if "scripts" in request.fixturenames:
        found: Gateway = request.getfixturevalue("shared")
        request.getfixturevalue("scripts").reset()
        return found
    return real


def test_an_answer_that_was_cut_goes_on_in_its_place(limited: Page, real: Gateway) -> None:
    page = limited
    send(page, "Go on for long, please")
    answer = page.get_by_role("article", name="tiny")
    expect(answer.get_by_text("Cut at the limit of tokens.")).to_be_visible()
    expect(answer.get_by_text("12 tokens ·")).to_be_visible()
    go_on = answer.get_by_role("button", name="Continue")
    go_on.press("Enter")
    expect(answer.get_by_text("24 tokens ·")).to_be_visible()
    expect(page.get_by_role("article", name="tiny")).to_have_count(1)
    assert complaints(page) == []
    page.reload()
    expect(answer.get_by_text("24 tokens ·")).to_be_visible()
    # It is what the model writes when it is not cut.
    (conversation,) = real.client.get("/freehold/v1/conversations").json()["data"]
    address = f"/freehold/v1/conversations/{conversation['id']}"
    joined = real.client.get(address).json()["messages"][1]["content"]
    page.get_by_role("button", name="Settings of this conversation").click()
    page.get_by_label("Tokens at most").fill("24")
    page.get_by_role("button", name="Save").click()
    answer.get_by_role("button", name="Answer again").click()
    expect(page.get_by_text("2 of 2")).to_be_visible()
    expect(answer.get_by_text("24 tokens ·")).to_be_visible()
    assert real.client.get(address).json()["messages"][2]["content"] == joined


def test_what_the_model_has_ended_or_something_follows_is_not_gone_on_with(
    page: Page, server: Gateway, scripts: Scripts
) -> None:
    send(page, "Hello")
    answered(page, "All is well.")
    go_on = page.get_by_role("button", name="Continue")
    expect(go_on).to_have_count(0)
    scripts.now = PATIENT
    send(page, "Go on")
    page.get_by_text("word word").first.wait_for()
    page.get_by_role("button", name="Stop").click()
    expect(go_on).to_have_count(1)
    scripts.now = Script()
    send(page, "And then?")
    answered(page, "All is well.")
    expect(go_on).to_have_count(0)


def test_a_stopped_answer_has_its_figures(page: Page, server: Gateway, scripts: Scripts) -> None:
    scripts.now = PATIENT
    send(page, "Go on for ever")
    answer = page.get_by_role("article", name="tiny")
    answer.get_by_text("word word").wait_for()
    page.get_by_role("button", name="Stop").click()
    expect(answer.get_by_text("Stopped.")).to_be_visible()
    expect(answer.get_by_text(FIGURES)).to_be_visible()
    shown = answer.get_by_text(FIGURES).inner_text()
    page.reload()
    expect(answer.get_by_text(shown, exact=True)).to_be_visible()


@pytest.mark.parametrize(
    ("language", "reading"),
    [("en", r"Reading: \d+ of {} tokens…"), ("ja", r"{} トークン中 \d+ を読みました…")],
)
def test_how_far_a_prompt_has_been_read(
    page: Page, server: Gateway, scripts: Scripts, language: str, reading: str
) -> None:
    scripts.now = Script(first_token_seconds=4.0, prompt_steps=4)
    page.get_by_role("combobox").last.wait_for()
    page.locator("select").nth(0).wait_for()
    if language == "ja":
        page.get_by_label("Language").select_option("ja")
    message = {"en": "Message", "ja": "メッセージ"}[language]
    page.get_by_label(message, exact=True).fill("Read this")
    page.get_by_label(message, exact=True).press("Enter")
    article = page.get_by_role("article", name="tiny")
    expect(article.get_by_text(re.compile(reading.format(r"\d+")))).to_be_visible()
    expect(article).to_contain_text("All is well.")
    expect(article.get_by_text(re.compile(reading.format(r"\d+")))).to_have_count(0)
