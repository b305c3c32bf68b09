"""The inbox: in order, and cancellations seen before their turn."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from freehold.domain.chat import GenerateRequest
from freehold.engines.llamacpp.messages import Cancel, Generate, Inspect

if TYPE_CHECKING:
    from freehold.engines.llamacpp.inbox import Inbox, Item

pytestmark = pytest.mark.native  # what compiles constraints is its neighbour


def empty() -> Inbox:
    from freehold.engines.llamacpp.inbox import Inbox

    return Inbox()


def generate(name: str) -> Generate:
    return Generate(GenerateRequest(name, (1, 2), 10))


def test_in_the_order_of_their_coming() -> None:
    from freehold.engines.llamacpp.inbox import Closed

    inbox, closed = empty(), Closed()
    items: list[Item] = [generate("A"), Cancel("A"), Inspect(), closed]
    for item in items:
        inbox.put(item)
    assert [inbox.get(wait=False) for _ in range(5)] == [*items, None]


def test_a_cancellation_is_seen_before_its_turn() -> None:
    inbox = empty()
    inbox.put(generate("B"))
    inbox.put(Cancel("A"))
    assert inbox.all_cancelled(["A"])
    assert not inbox.all_cancelled(["A", "B"])
    inbox.put(Cancel("B"))
    assert inbox.all_cancelled(["A", "B"])


def test_a_cancellation_that_was_taken_is_not_seen_again() -> None:
    inbox = empty()
    inbox.put(Cancel("A"))
    inbox.get(wait=False)
    assert not inbox.all_cancelled(["A"])


def test_who_waits_is_woken() -> None:
    inbox = empty()
    heard: list[object] = []
    waiter = threading.Thread(target=lambda: heard.append(inbox.get(wait=True)))
    waiter.start()
    inbox.put(generate("A"))
    waiter.join(5)
    assert heard == [generate("A")]
