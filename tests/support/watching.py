"""A progress that remembers what it was told."""

from __future__ import annotations


class Recorder:
    """``begun`` holds name, total and done of every `begin`; ``advanced`` is a sum of bytes."""

    def __init__(self) -> None:
        self.begun: list[tuple[str, int | None, int]] = []
        self.advanced = 0
        self.ended = 0
        self.notes: list[str] = []

    def begin(self, name: str, total: int | None, done: int) -> None:
        self.begun.append((name, total, done))

    def advance(self, count: int) -> None:
        self.advanced += count

    def end(self) -> None:
        self.ended += 1

    def status(self, text: str) -> None: ...

    def note(self, text: str) -> None:
        self.notes.append(text)
