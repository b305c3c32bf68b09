"""How long work tells whoever watches: the command line, a web page, or nobody."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Told in order: `begin`, any number of `advance` and `status`, `end`; `note` at any time.

    May be called from a worker thread. Whoever raises ends the work; what has arrived is kept.
    `end` must not raise.
    """

    def begin(self, name: str, total: int | None, done: int) -> None:
        """Bytes of ``name`` start to arrive; ``done`` of ``total`` are here already."""
        ...

    def advance(self, count: int) -> None:
        """``count`` more bytes are safe on disk."""
        ...

    def end(self) -> None: ...

    def status(self, text: str) -> None:
        """What goes on right now, in a few words; each replaces the last."""
        ...

    def note(self, text: str) -> None:
        """One sentence for the person waiting."""
        ...


class Silent:
    """Nobody watches."""

    def begin(self, name: str, total: int | None, done: int) -> None: ...

    def advance(self, count: int) -> None: ...

    def end(self) -> None: ...

    def status(self, text: str) -> None: ...

    def note(self, text: str) -> None: ...
