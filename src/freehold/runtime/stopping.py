"""Ending a request from outside: whoever may, asks, and what runs for it ends where it waits.

Used from one event loop.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator


class Stop:
    """How one request is ended. Asking again changes nothing."""

    def __init__(self) -> None:
        self._asked = False
        self._ends: list[Callable[[], None]] = []

    @property
    def asked(self) -> bool:
        return self._asked

    def ask(self) -> None:
        """End what runs for the request now, and what would still begin for it."""
        self._asked = True
        for end in tuple(self._ends):
            end()

    @contextlib.contextmanager
    def ending(self, end: Callable[[], None]) -> Iterator[None]:
        """While this lasts, ``end`` is what is called; at once where somebody has asked before."""
        self._ends.append(end)
        try:
            if self._asked:
                end()
            yield
        finally:
            self._ends.remove(end)
