"""The page in headless Chromium, against the real server. `make test-web` runs these."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="`make test-web` installs it")

from playwright.sync_api import Browser, BrowserContext, Page  # noqa: E402

from freehold.api.web.page import FOLDER  # noqa: E402
from tests.support.browsing import Watched, watch  # noqa: E402
from tests.support.gateway import Gateway, Scripts, gateway  # noqa: E402
from tests.support.tiny_model import write_tiny_llama  # noqa: E402

PICTURES = Path(__file__).parents[2] / "docs" / "pictures"


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    assert chromium, "Chromium is missing (Debian: apt install chromium)"
    assert (FOLDER / "index.html").is_file(), "the page is not built: make web"
    with sync_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=chromium)
        yield launched
        launched.close()


@pytest.fixture
def context(browser: Browser, server: Gateway) -> Iterator[BrowserContext]:
    """Closed before the server, whose connections it holds."""
    assert server.url
    opened = browser.new_context(locale="en-GB", viewport={"width": 1200, "height": 800})
    opened.set_default_timeout(10_000)
    yield opened
    opened.close()


@pytest.fixture
def watched(context: BrowserContext, server: Gateway) -> Iterator[Watched]:
    """A fresh page; at the end of the test it has asked nobody else, and thrown nothing."""
    found = watch(context.new_page(), server.url)
    yield found
    found.check()


@pytest.fixture
def page(watched: Watched, server: Gateway) -> Page:
    watched.page.goto(server.url)
    return watched.page


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("models") / "tiny.gguf")


@pytest.fixture(scope="module")
def scripts() -> Scripts:
    return Scripts()


@pytest.fixture(scope="module")
def shared(
    tmp_path_factory: pytest.TempPathFactory, tiny: Path, scripts: Scripts
) -> Iterator[Gateway]:
    other = tiny.with_name("other.gguf")
    other.write_bytes(tiny.read_bytes())
    home = tmp_path_factory.mktemp("home")
    with gateway(home, (tiny, other), script=scripts, context=32768, parallel=8) as running:
        yield running


@pytest.fixture
def server(shared: Gateway, scripts: Scripts) -> Gateway:
    scripts.reset()
    for heading in shared.client.get("/freehold/v1/conversations").json()["data"]:
        shared.client.delete(f"/freehold/v1/conversations/{heading['id']}")
    return shared


def picture(page: Page, name: str) -> None:
    """Into the documentation, with FREEHOLD_PICTURES set."""
    if os.environ.get("FREEHOLD_PICTURES"):
        PICTURES.mkdir(exist_ok=True)
        page.screenshot(path=PICTURES / f"{name}.png")
