"""Fetching models with an interruption, verdicts with duties, papers, deletion."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, Route, expect

from freehold.engines.scripted import Script
from tests.browser.conftest import picture
from tests.support.fake_hub import FakeFile, FakeRepository
from tests.support.gateway import Gateway, gateway, wait_for
from tests.support.metered_hub import MeteredHub
from tests.support.models import model_bytes

pytestmark = pytest.mark.native

LARGE = FakeFile(model_bytes("large", elements=1 << 20))
NAME = "hf:maker/Tiny-GGUF:large.gguf"


@pytest.fixture(scope="module")
def hub() -> Iterator[MeteredHub]:
    card = FakeFile(b"---\nlicense: gemma\n---\n# A model\n")
    files = {"large.gguf": LARGE, "README.md": card}
    with MeteredHub([FakeRepository("maker/Tiny-GGUF", files)]) as running:
        yield running


@pytest.fixture(scope="module")
def shared(
    tmp_path_factory: pytest.TempPathFactory, tiny: Path, hub: MeteredHub
) -> Iterator[Gateway]:
    home = tmp_path_factory.mktemp("home")
    with gateway(home, (tiny,), script=lambda _: Script(), hub_endpoint=hub.endpoint) as running:
        yield running


def test_what_fits_and_how_fast_it_should_be(page: Page) -> None:
    page.get_by_role("link", name="Models").click()
    catalogue = page.get_by_role("region", name="To fetch")
    large = catalogue.get_by_role("row").filter(has_text="deepseek-r1:671b")
    expect(large).to_contain_text("does not fit")
    expect(large).to_contain_text(re.compile(r"needs \d+\.\d GB of memory: \d+\.\d GB short"))
    small = catalogue.get_by_role("row").filter(has_text="qwen2.5-coder:0.5b")
    expect(small).to_contain_text(re.compile("about 1.. GB of memory"))
    speed = small.get_by_role("group").locator("summary")
    expect(speed).to_have_text(re.compile(r"\d+ ± \d+ %"))
    speed.click()
    expect(small).to_contain_text("Basis: ")
    # More people at once take more memory, and each gets less.
    before = speed.inner_text()
    wishes = page.get_by_role("form", name="What to plan for")
    wishes.get_by_label("People at once").fill("16")
    wishes.get_by_role("button", name="Plan").click()
    expect(speed).not_to_have_text(before)
    expect(small).not_to_contain_text("about 1.1 GB")
    # Measured values have a column of their own: nothing of it is filled from an estimate.
    here = page.get_by_role("region", name="On this machine")
    expect(here.get_by_role("columnheader", name="Tokens/s, estimated")).to_be_visible()
    expect(here.get_by_role("columnheader", name="Tokens/s, measured")).to_be_visible()
    expect(here.get_by_role("row").filter(has_text="tiny")).to_contain_text("not tuned")


def test_no_button_moves_when_the_plan_comes(page: Page, server: Gateway) -> None:
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    page.route("**/freehold/v1/plan**", hold)
    page.goto(f"{server.url}/#/models")
    row = page.get_by_role("region", name="On this machine").get_by_role("row").nth(1)
    button = row.get_by_role("button", name="Tune")
    expect(page.get_by_text("are free.")).to_be_visible()
    before = button.bounding_box()
    end = time.monotonic() + 10
    while not held and time.monotonic() < end:
        page.wait_for_timeout(50)  # in which Playwright tells of requests
    expect(row).not_to_contain_text("not tuned")
    for route in held:
        route.continue_()
    expect(row).to_contain_text("not tuned")
    assert button.bounding_box() == before


def test_what_one_may_do_is_asked_again_where_no_answer_came(page: Page, server: Gateway) -> None:
    failed: list[Route] = []

    def first_fails(route: Route) -> None:
        if failed:
            route.continue_()
        else:
            failed.append(route)
            route.abort()

    page.route("**/freehold/v1/session", first_fails)
    page.reload()
    expect(page.get_by_role("link", name="Keys")).to_be_visible()
    assert failed


def test_every_published_file_of_a_model(page: Page) -> None:
    page.get_by_role("link", name="Models").click()
    catalogue = page.get_by_role("region", name="To fetch")
    row = catalogue.get_by_role("row").filter(has_text="deepseek-r1:1.5b")
    expect(row.first).to_contain_text("Q4_K_M")
    more = row.get_by_role("button", name="1 more file", expanded=False)
    other = catalogue.get_by_role("row").filter(has_text="Q5_K_M")
    expect(other).to_have_count(0)
    more.press("Enter")
    expect(other).to_contain_text("by bartowski")
    expect(other).to_contain_text(re.compile(r"about \d\.\d GB"))
    expect(other).to_contain_text("fits")
    # Size, fit, estimate and measurement stand in the columns of the row's own.
    cells = other.get_by_role("cell")
    expect(cells.nth(3)).to_contain_text(re.compile(r"\d+ ± \d+ %"))
    expect(cells.nth(4)).to_have_text("not tuned")
    expect(other.get_by_role("button", name="Fetch: hf:bartowski/")).to_be_visible()
    more = row.get_by_role("button", name="1 more file", expanded=True)
    more.press("Enter")
    expect(other).to_have_count(0)


def test_loading_and_pinning(page: Page, server: Gateway) -> None:
    page.get_by_role("link", name="Models").click()
    row = page.get_by_role("region", name="On this machine").get_by_role("row").nth(1)
    row.get_by_role("button", name="Load").click()
    row.get_by_role("button", name="Pin").click()
    expect(row.get_by_role("button", name="Pin", pressed=True)).to_be_visible()
    expect(row).to_contain_text("pinned")
    assert server.client.get("/freehold/v1/models/loaded").json()["models"][0]["pinned"] is True
    row.get_by_role("button", name="Pin").click()
    expect(row.get_by_role("button", name="Pin", pressed=False)).to_be_visible()
    row.get_by_role("button", name="Unload").click()
    expect(row.get_by_role("button", name="Load", exact=True)).to_be_visible()


def test_from_fetching_to_deleting(page: Page, server: Gateway, hub: MeteredHub) -> None:
    page.get_by_role("link", name="Models").click()
    hub.meter.hold_after = 100_000
    page.get_by_label("Fetch another model").fill(NAME)
    page.get_by_role("button", name="Fetch", exact=True).click()
    fetching = page.get_by_role("region", name=f"Fetching: {NAME}")
    hub.meter.wait_until_held()
    fetching.get_by_role("progressbar").wait_for()
    fetching.get_by_role("button", name="Pause").click()
    expect(fetching.get_by_role("button", name="Go on")).to_be_visible()
    # The page offers that when the server has heard of it: no more of it is fetched.
    (paused,) = server.client.get("/freehold/v1/pulls").json()["pulls"]
    assert paused["stopping"]
    assert paused["completed"] < paused["total"] == len(LARGE.content)
    expect(fetching).to_contain_text("Paused. What has come is kept.")
    hub.meter.release()
    partial = server.runtime.settings.home / "partial" / LARGE.sha256
    wait_for(lambda: partial.exists() and partial.stat().st_size > 0)
    fetching.get_by_role("button", name="Go on").click()
    expect(fetching.get_by_role("status")).to_have_text("It is here.")
    assert (hub.ranges[-1] or "").startswith("bytes=")  # not from the beginning
    fetching.get_by_role("button", name="Dismiss").click()
    expect(fetching).to_have_count(0)

    row = page.get_by_role("row").filter(has_text=NAME)
    expect(row).to_contain_text("4.2 MB")
    row.get_by_role("button", name="Details").click()
    papers = page.get_by_role("dialog")
    expect(papers.get_by_role("heading", name="What you must do")).to_be_visible()
    expect(papers).to_contain_text(LARGE.sha256)
    expect(papers.get_by_role("heading", name="Made of")).to_be_visible()
    picture(page, "papers")
    for link, member in (("Lock", "files"), ("Bill of materials", "bomFormat")):
        with page.expect_download() as saved:
            papers.get_by_role("link", name=link).click()
        assert member in json.loads(Path(saved.value.path()).read_text())
    papers.get_by_role("button", name="Close").click()
    row.get_by_role("button", name="Delete").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(row).to_have_count(0)
    assert NAME not in [one["id"] for one in server.client.get("/v1/models").json()["data"]]
