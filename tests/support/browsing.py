"""A page that is watched: whom it asks, what it throws, what it opens."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from playwright.sync_api import Dialog, Page, Request


@dataclass
class Watched:
    """``requests`` are the addresses asked for; ``wrong`` is what must not have happened."""

    page: Page
    origin: str
    requests: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def check(self) -> None:
        assert self.wrong == []
        assert [address for address in self.requests if not self._ours(address)] == []

    def _ours(self, address: str) -> bool:
        return address.startswith((f"{self.origin}/", "data:", f"blob:{self.origin}/"))


def watch(page: Page, origin: str) -> Watched:
    """Before its first address is opened."""
    found = Watched(page, origin)

    def asked(request: Request) -> None:
        found.requests.append(request.url)

    def dialog(opened: Dialog) -> None:
        found.wrong.append(f"dialog: {opened.message}")
        opened.dismiss()

    page.on("request", asked)
    page.on("dialog", dialog)
    page.on("popup", lambda popup: found.wrong.append(f"window: {popup.url}"))
    page.on("pageerror", lambda error: found.wrong.append(f"error: {error}"))
    page.on("console", lambda message: _said(found, message))
    return found


def _said(found: Watched, message: Any) -> None:
    # The browser reports every answer of 400 and more here; the page tells of those itself.
    if message.type == "error" and "Failed to load resource" not in message.text:
        found.wrong.append(f"console: {message.text}")


def send(page: Page, text: str) -> None:
    """Ask something in the open conversation."""
    page.get_by_label("Message", exact=True).fill(text)
    page.get_by_role("button", name="Send", exact=True).click()


def answered(page: Page, text: str, model: str = "tiny") -> None:
    """Wait until an answer of ``model`` is whole and holds ``text``."""
    answer = page.get_by_role("article", name=model, exact=True).last
    answer.get_by_text(text).first.wait_for()
    page.locator("article[aria-busy=true]").wait_for(state="detached")
