"""Two quantisations of the real 0.5B model side by side; the second is made as `tune` does."""

from __future__ import annotations

import asyncio
import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from freehold.domain.settings import resolve
from freehold.lab.tune.derive import Derivation
from freehold.weights.gguf import read_header
from freehold.weights.library import Library
from tests.browser.conftest import picture
from tests.end_to_end.conftest import MODEL, home, weights
from tests.support.browsing import watch
from tests.support.gateway import gateway

__all__ = ["home", "weights"]
pytestmark = pytest.mark.weights


@pytest.fixture(scope="module")
def requantised(home: Path, weights: Path) -> Path:
    """The same model in Q4_0, in the tests' store, where it is kept between runs."""
    assert weights.exists()
    library = Library.open(resolve({"home": str(home)}, environ={}))
    making = Derivation(library, library.local(MODEL))
    with ThreadPoolExecutor(1) as pool:  # the browser's driver has this thread's event loop
        manifest = pool.submit(lambda: asyncio.run(making.make("Q4_0", 2))).result()
    return library.store.verify(manifest.files[0].sha256)


def test_the_same_question_to_both(
    browser: Browser, weights: Path, requantised: Path, tmp_path: Path
) -> None:
    served = {"coder-q4_k_m": weights, "coder-q4_0": requantised}
    paths = []
    for name, blob in served.items():
        paths.append(tmp_path / f"{name}.gguf")
        paths[-1].hardlink_to(blob)
    formats = [read_header(path).quantisation for path in paths]
    assert formats == ["Q4_K_M", "Q4_0"]
    with (
        gateway(tmp_path / "home", tuple(paths), context=2048) as server,
        browser.new_context(locale="en-GB", viewport={"width": 1200, "height": 900}) as context,
    ):
        watched = watch(context.new_page(), server.url)
        page = watched.page
        page.goto(f"{server.url}/#/compare")
        for number, name in enumerate(served, 1):
            page.get_by_label(f"Model {number}").select_option(name)
            page.get_by_label(f"Temperature {number}").fill("0")
        question = "Write a Python function that adds two numbers. Only the code."
        page.get_by_role("textbox", name="Prompt").fill(question)
        page.get_by_role("button", name="Run").click()
        page.get_by_role("button", name="A is best").wait_for(timeout=120_000)
        for letter, name in zip("AB", served, strict=True):
            answer = page.get_by_role("article", name=f"Answer {letter}")
            expect(answer.get_by_role("heading", name=name)).to_be_visible()
            expect(answer.locator("pre code").first).to_contain_text("def ")
            # The server's own figures, of this answer.
            expect(answer).to_contain_text(re.compile(r"first token after \d+\.\d\d s"))
            expect(answer).to_contain_text(re.compile(r"\d+\.\d tokens/s"))
        picture(page, "compare")
        with page.expect_download() as saved:
            page.get_by_role("button", name="Export the answers").click()
        (told,) = json.loads(Path(saved.value.path()).read_text())
        assert [answer["model"] for answer in told["answers"]] == list(served)
        watched.check()
