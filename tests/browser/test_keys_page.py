"""Keys: made, shown once, limited, used and revoked."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from playwright.sync_api import Page, expect

from freehold.engines.scripted import Script
from freehold.runtime.access.caller import Terms
from tests.browser.conftest import picture
from tests.browser.test_access import complaints
from tests.support.gateway import Gateway, gateway
from tests.support.keyed import INFER, issued, sending

pytestmark = pytest.mark.native

OWNER = "an-owner-of-this-machine"


@pytest.fixture
def server(tiny: Path, tmp_path: Path) -> Iterator[Gateway]:
    with gateway(tmp_path, (tiny,), script=lambda _: Script(), api_key=OWNER) as running:
        yield running


def enter(page: Page, key: str) -> None:
    page.get_by_label("Key", exact=True).fill(key)
    page.get_by_role("button", name="Enter").click()
    page.get_by_label("Message", exact=True).wait_for()


def ask(client: httpx2.Client, model: str = "tiny") -> httpx2.Response:
    messages = [{"role": "user", "content": "Hello"}]
    return client.post("/v1/chat/completions", json={"model": model, "messages": messages})


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_from_making_a_key_to_revoking_it(page: Page, server: Gateway, theme: str) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_label("Colours").select_option(theme)
    enter(page, OWNER)
    page.get_by_role("link", name="Keys").click()
    page.get_by_text("There are no keys yet.").wait_for()
    form = page.get_by_role("form", name="A new key")
    form.get_by_label("Name", exact=True).fill("ann")
    form.get_by_label("Models", exact=True).fill("ti*, other")
    form.get_by_label("Tokens a minute").fill("60000")
    form.get_by_label("Requests at once").fill("2")
    form.get_by_label("Until").fill("90d")
    form.get_by_role("button", name="Create the key").click()
    shown = page.get_by_role("status").filter(has_text="shown this once")
    secret = shown.locator("code").inner_text()
    assert re.fullmatch("fh_[0-9a-f]{12}_[0-9a-f]{48}", secret)
    shown.get_by_role("button", name="Copy the key").click()
    expect(shown.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == secret
    assert complaints(page) == []
    shown.get_by_role("button", name="I have kept it").click()
    expect(page.get_by_text(secret)).to_have_count(0)

    row = page.get_by_role("row").filter(has_text="ann")
    expect(row).to_contain_text("60,000 tokens a minute, 2 at once")
    expect(row).to_contain_text("ti*, other")
    with sending(server.url, secret) as ann:
        assert ask(ann).status_code == 200
        page.reload()
        expect(row).to_contain_text("1 request,")
        assert secret not in page.content()
        picture(page, f"keys-{theme}")
        row.get_by_role("button", name="Revoke").click()
        page.get_by_role("dialog").get_by_role("button", name="Revoke").click()
        expect(row).to_contain_text("revoked")
        expect(row.get_by_role("button")).to_have_count(0)
        assert ask(ann).status_code == 401


def test_what_is_wrong_is_said_and_what_was_typed_stays(page: Page) -> None:
    enter(page, OWNER)
    page.get_by_role("link", name="Keys").click()
    form = page.get_by_role("form", name="A new key")
    form.get_by_label("Name", exact=True).fill("ben")
    form.get_by_label("Until").fill("sometime")
    form.get_by_role("button", name="Create the key").click()
    expect(page.get_by_role("alert")).to_contain_text("'sometime' is no time at which")
    expect(form.get_by_label("Name", exact=True)).to_have_value("ben")
    form.get_by_label("manage models and keys").check()
    expect(form.get_by_label("Models", exact=True)).to_be_disabled()  # it handles them all


@pytest.mark.parametrize(
    ("language", "name", "create", "rule"),
    [
        ("en", "Name", "Create the key", "without spaces"),
        ("ja", "名前", "キーを作成", "空白は使えず"),
    ],
)
def test_a_name_that_cannot_be_is_explained(
    page: Page, server: Gateway, language: str, name: str, create: str, rule: str
) -> None:
    enter(page, OWNER)
    page.goto(f"{server.url}/#/keys")
    page.get_by_label("Language").select_option(language)
    field = page.get_by_role("textbox", name=name, exact=True)
    field.fill("ann lee")
    expect(page.get_by_role("status").filter(has_text=rule)).to_be_visible()
    expect(field).to_have_attribute("aria-invalid", "true")
    assert complaints(page) == []
    page.get_by_role("button", name=create).click()
    expect(field).to_be_focused()
    expect(page.get_by_role("alert")).to_be_empty()
    assert (
        server.client.get("/freehold/v1/keys", headers={"Authorization": f"Bearer {OWNER}"}).json()[
            "data"
        ]
        == []
    )
    field.fill("ann-lee")
    expect(page.get_by_role("status").filter(has_text=rule)).to_have_count(0)


def test_who_may_not_manage_is_told_so(page: Page, server: Gateway) -> None:
    enter(page, issued(server.runtime.settings.home, "guest", Terms(INFER)))
    expect(page.get_by_role("link", name="Activity")).to_be_visible()
    expect(page.get_by_role("link", name="Keys")).to_have_count(0)
    page.goto(f"{server.url}/#/keys")
    expect(page.get_by_text("Keys are handled with a key of scope manage")).to_be_visible()
    expect(page.get_by_role("form")).to_have_count(0)
