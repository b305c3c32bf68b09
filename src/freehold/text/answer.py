"""What a model's text consists of: reasoning, answer and tool calls.

Models write all three into one text, each family with its own marks. A parser takes that text
in pieces of any size and says what each stretch is. Pure; the same text gives the same pieces,
put together, wherever it is cut. No text is lost: what looks like a call and is none
is content.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class ReasoningText:
    text: str


@dataclass(frozen=True)
class ContentText:
    text: str


@dataclass(frozen=True)
class Call:
    """A whole tool call. ``arguments`` is a JSON object, as the model wrote it."""

    name: str
    arguments: str


Piece = ReasoningText | ContentText | Call


class AnswerParser(Protocol):
    """The text of one answer. ``finish`` once, at the end: nothing is held back after it."""

    @property
    def reasoning(self) -> bool:
        """Whether it is in the middle of reasoning."""
        ...

    def feed(self, text: str) -> tuple[Piece, ...]: ...

    def finish(self) -> tuple[Piece, ...]: ...


class Plain:
    """A model without any marks: all is content."""

    reasoning = False

    def feed(self, text: str) -> tuple[Piece, ...]:
        return (ContentText(text),) if text else ()

    def finish(self) -> tuple[Piece, ...]:
        return ()


def held_back(text: str, *marks: str) -> int:
    """How many characters at the end of ``text`` may be the beginning of one of ``marks``."""
    longest = 0
    for mark in marks:
        most = min(len(mark) - 1, len(text))
        found = next((n for n in range(most, 0, -1) if text.endswith(mark[:n])), 0)
        longest = max(longest, found)
    return longest
