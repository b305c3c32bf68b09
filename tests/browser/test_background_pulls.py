"""A fetch goes on when its page is closed; every other page shows it, and can stop it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from freehold.engines.scripted import Script
from tests.browser.test_access import complaints
from tests.support.gateway import Gateway, gateway
from tests.support.large_model import NAME, hub_of_a_large_model
from tests.support.metered_hub import MeteredHub

pytestmark = pytest.mark.native


@pytest.fixture
def hub() -> Iterator[MeteredHub]:
    with hub_of_a_large_model() as running:
        yield running


@pytest.fixture
def server(tiny: Path, tmp_path: Path, hub: MeteredHub) -> Iterator[Gateway]:
    with gateway(
        tmp_path, (tiny,), script=lambda _: Script(), hub_endpoint=hub.endpoint
    ) as running:
        yield running


def test_a_fetch_belongs_to_the_server_and_every_tab_shows_it(
    page: Page, server: Gateway, hub: MeteredHub
) -> None:
    hub.meter.hold_after = 100_000
    page.get_by_role("link", name="Models").click()
    page.get_by_label("Fetch another model").fill(NAME)
    page.get_by_role("button", name="Fetch", exact=True).click()
    fetching = page.get_by_role("region", name=f"Fetching: {NAME}")
    expect(fetching).to_contain_text("It goes on when this page is closed.")
    hub.meter.wait_until_held()
    other = page.context.new_page()
    other.goto(f"{server.url}/#/models")
    there = other.get_by_role("region", name=f"Fetching: {NAME}")
    expect(there.get_by_role("progressbar")).to_be_visible()
    page.goto("about:blank")
    expect(there.get_by_role("button", name="Pause")).to_be_visible()
    there.get_by_role("button", name="Pause").press("Enter")
    expect(there.get_by_role("button", name="Go on")).to_be_visible()
    hub.meter.release()
    there.get_by_role("button", name="Go on").press("Enter")
    expect(there.get_by_role("status")).to_have_text("It is here.")
    here = other.get_by_role("region", name="On this machine")
    expect(here.get_by_role("row").filter(has_text=NAME)).to_be_visible()
    assert complaints(other) == []
    # What became of it stands in every tab until somebody has taken note.
    page.goto(f"{server.url}/#/models")
    expect(fetching.get_by_role("status")).to_have_text("It is here.")
    there.get_by_role("button", name=f"Dismiss: {NAME}").click()
    expect(there).to_have_count(0)
    expect(fetching).to_have_count(0)


def test_why_a_fetch_failed_and_what_others_fetch(
    page: Page, server: Gateway, hub: MeteredHub
) -> None:
    hub.faults.wrong_content = True
    page.get_by_role("link", name="Models").click()
    page.get_by_label("Fetch another model").fill(NAME)
    page.get_by_role("button", name="Fetch", exact=True).click()
    fetching = page.get_by_role("region", name=f"Fetching: {NAME}")
    expect(fetching.get_by_role("alert")).to_contain_text("SHA-256")
    hub.faults.wrong_content = False
    fetching.get_by_role("button", name=f"Dismiss: {NAME}").click()
    expect(fetching).to_have_count(0)
    hub.meter.hold_after = 100_000
    with server.begin("/api/pull", {"model": NAME}):
        hub.meter.wait_until_held()
        expect(fetching).to_contain_text("Another program fetches it.")
        expect(fetching.get_by_role("button")).to_have_count(0)  # it is that program's to end
    hub.meter.release()
    expect(fetching).to_have_count(0)
