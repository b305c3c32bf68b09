"""Chat, as a person uses it, over scripted engines."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from freehold.engines.scripted import Script
from tests.browser.conftest import picture
from tests.support.browsing import answered, send
from tests.support.gateway import Gateway, Scripts, wait_for

pytestmark = pytest.mark.native  # the text child tokenises with llama.cpp

MARKDOWN = """### A list

- **one**
- `two`

| a | b |
|---|--:|
| 1 | 2 |

```python
print("hello")
```

The sum $\\sum_{i=1}^n i$ and

$$
\\frac{1}{2}
$$
"""


def conversations(server: Gateway) -> list[dict[str, object]]:
    found: list[dict[str, object]] = server.client.get("/freehold/v1/conversations").json()["data"]
    return found


def test_an_answer_with_its_figures(page: Page, server: Gateway, scripts: Scripts) -> None:
    scripts.now = Script(pieces=tuple(MARKDOWN.splitlines(keepends=True)), token_seconds=0.005)
    expect(page.get_by_role("heading", name="What would you like to know?")).to_be_visible()
    send(page, "Show me everything.\nAll of it.")
    answered(page, "A list")
    answer = page.get_by_role("article", name="tiny")
    expect(answer.locator("li strong")).to_have_text("one")
    expect(answer.locator("td").last).to_have_text("2")
    expect(answer.locator("pre code")).to_have_text('print("hello")')
    expect(answer.locator("math")).to_have_count(2)
    expect(answer.locator("mfrac")).to_have_count(1)
    expect(
        answer.get_by_text(re.compile(r"tokens · first token after .* s · .* tokens/s"))
    ).to_be_visible()
    expect(page.get_by_text(re.compile(r"of 32,768 tokens of context used"))).to_be_visible()
    expect(page.get_by_role("link", name="Show me everything.")).to_be_visible()
    picture(page, "chat")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    answer.get_by_role("button", name="Copy the code").click()
    assert page.evaluate("navigator.clipboard.readText()") == 'print("hello")'


def test_what_the_model_saw_is_exact(page: Page, server: Gateway) -> None:
    send(page, "Hello there")
    answered(page, "All is well.")
    page.get_by_role("article", name="tiny").get_by_role(
        "button", name="What the model saw"
    ).click()
    seen = page.get_by_role("dialog").locator("pre")
    expected = server.client.post(
        "/apply-template",
        json={"model": "tiny", "messages": [{"role": "user", "content": "Hello there"}]},
    ).json()
    expect(seen).to_contain_text("Hello there")
    assert seen.text_content() == expected["prompt"]
    expect(page.get_by_role("dialog")).to_contain_text(f"{expected['token_count']:,} tokens")


def test_stop(page: Page, server: Gateway, scripts: Scripts) -> None:
    scripts.now = Script(pieces=("word ",) * 2000, token_seconds=0.02)
    send(page, "Go on for ever")
    page.get_by_role("article", name="tiny").get_by_text("word word").wait_for()
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_text("Stopped.")).to_be_visible()
    wait_for(lambda: server.engines[0].cancelled)
    page.reload()
    expect(page.get_by_text("Stopped.")).to_be_visible()
    expect(page.get_by_role("article", name="tiny")).to_contain_text("word word")


def test_reload_in_mid_stream_loses_nothing(page: Page, server: Gateway, scripts: Scripts) -> None:
    pieces = tuple(f"{number} " for number in range(120))
    scripts.now = Script(pieces=pieces, token_seconds=0.02)
    send(page, "Count")
    page.get_by_role("article", name="tiny").get_by_text("0 1 2 3").wait_for()
    page.reload()
    page.get_by_role("article", name="tiny").get_by_text("0 1 2 3").wait_for()
    expect(page.get_by_role("button", name="Stop")).to_be_visible()  # it is still written
    answered(page, "118 119")
    paragraph = page.get_by_role("article", name="tiny").locator(".markdown")
    assert paragraph.inner_text() == "".join(pieces).strip()
    assert len(server.engines[0].seen) >= 1


def test_what_is_selected_stays_so_while_the_answer_grows(page: Page, scripts: Scripts) -> None:
    scripts.now = Script(pieces=tuple(f"{number} " for number in range(150)), token_seconds=0.02)
    send(page, "Count")
    line = page.get_by_role("article", name="tiny").locator(".markdown p")
    line.get_by_text("0 1 2 3").wait_for()
    line.evaluate(
        "(line) => getSelection().setBaseAndExtent(line.firstChild, 2, line.firstChild, 5)"
    )
    expect(line).to_contain_text(" 100 ")
    assert page.evaluate("getSelection().toString()") == "1 2"


def test_edit_and_branch(page: Page, server: Gateway, scripts: Scripts) -> None:
    send(page, "First")
    answered(page, "All is well.")
    scripts.now = Script(pieces=("Otherwise.",))
    page.get_by_role("article", name="You").get_by_role("button", name="Edit").click()
    page.get_by_role("textbox", name="Edit").fill("Second")
    page.get_by_role("article").get_by_role("button", name="Send").click()
    answered(page, "Otherwise.")
    expect(page.get_by_text("2 of 2")).to_be_visible()
    page.get_by_role("button", name="The one before").click()
    expect(page.get_by_role("article", name="You")).to_contain_text("First")
    expect(page.get_by_role("article", name="tiny")).to_contain_text("All is well.")
    page.get_by_role("article", name="tiny").get_by_role("button", name="Answer again").click()
    answered(page, "Otherwise.")
    expect(page.get_by_text("2 of 2")).to_be_visible()  # of the answers now
    page.reload()
    expect(page.get_by_role("article", name="You")).to_contain_text("First")
    expect(page.get_by_role("article", name="tiny")).to_contain_text("Otherwise.")


def test_settings_reach_the_engine(page: Page, server: Gateway, scripts: Scripts) -> None:
    page.get_by_role("button", name="Settings of this conversation").click()
    page.get_by_label("System prompt").fill("Be brief.")
    page.get_by_label("Temperature").fill("0.25")
    page.get_by_label("Tokens at most").fill("2")
    page.get_by_role("button", name="Save").click()
    send(page, "Hello")
    answered(page, "All is")
    expect(page.get_by_text("Cut at the limit of tokens.")).to_be_visible()
    asked = scripts.asked
    assert asked is not None
    assert (asked.sampling.temperature, asked.max_tokens) == (0.25, 2)
    page.get_by_role("article", name="tiny").get_by_role(
        "button", name="What the model saw"
    ).click()
    expect(page.get_by_role("dialog").locator("pre")).to_contain_text("Be brief.")


def test_files_go_with_their_tokens(page: Page, server: Gateway, tmp_path: Path) -> None:
    text, binary = tmp_path / "notes.md", tmp_path / "picture.bin"
    text.write_text("```\nA note.\n```\n")
    binary.write_bytes(b"\xff\xfe\x00\x01")
    page.locator("input[type=file]").set_input_files([text, binary])
    count = server.client.post(
        "/tokenize", json={"model": "tiny", "content": text.read_text()}
    ).json()["count"]
    expect(page.get_by_text(f"{count:,} tokens")).to_be_visible()
    expect(page.get_by_role("alert")).to_contain_text("picture.bin is not a text file.")
    send(page, "Read it")
    answered(page, "All is well.")
    page.get_by_role("article", name="tiny").get_by_role(
        "button", name="What the model saw"
    ).click()
    expect(page.get_by_role("dialog").locator("pre")).to_contain_text(
        "notes.md ```` ``` A note. ``` ```` Read it"
    )


def test_search_rename_export_delete(page: Page, server: Gateway) -> None:
    send(page, "About apples 100%")
    answered(page, "All is well.")
    page.get_by_role("link", name="New conversation").click()
    send(page, "About pears")
    answered(page, "All is well.")
    page.get_by_role("searchbox").fill("100%")
    expect(page.get_by_role("link", name="About pears")).to_have_count(0)
    page.get_by_role("link", name="About apples").click()
    page.get_by_role("searchbox").fill("")
    page.get_by_text("More", exact=True).click()
    page.get_by_role("button", name="Rename").click()
    page.get_by_label("Title").fill("Fruit")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("link", name="Fruit")).to_be_visible()
    with page.expect_download() as saved:
        page.get_by_role("button", name="Export as Markdown").click()
    assert saved.value.suggested_filename == "Fruit.md"
    told = Path(saved.value.path()).read_text()
    assert told == "# Fruit\n\n## User\n\nAbout apples 100%\n\n## tiny\n\nAll is well.\n"
    with page.expect_download() as saved:
        page.get_by_role("button", name="Export as JSON").click()
    exported = json.loads(Path(saved.value.path()).read_text())
    assert exported == server.client.get(f"/freehold/v1/conversations/{exported['id']}").json()
    page.get_by_role("button", name="Delete", exact=True).click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(page.get_by_role("link", name="Fruit")).to_have_count(0)
    assert [heading["title"] for heading in conversations(server)] == ["About pears"]


def test_what_fails_is_said_and_nothing_written_is_lost(
    page: Page, server: Gateway, scripts: Scripts
) -> None:
    scripts.now = Script(pieces=("Half ", "of it"), crash_after=2)
    send(page, "Crash")
    expect(page.get_by_text("This failed:")).to_be_visible()
    expect(page.get_by_role("article", name="tiny")).to_contain_text("Half of it")
    page.route("**/messages", lambda route: route.abort())
    send(page, "My long text")
    expect(page.get_by_role("alert")).to_contain_text("The server does not answer.")
    expect(page.get_by_label("Message", exact=True)).to_have_value("My long text")


def test_the_context_meter_speaks_before_it_is_full(
    page: Page, server: Gateway, scripts: Scripts
) -> None:
    scripts.now = Script(pieces=("x ",) * 26_000)
    send(page, "Fill it")
    expect(page.get_by_text("The context is nearly full")).to_be_visible(timeout=30_000)
