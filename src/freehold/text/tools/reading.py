"""Finding calls in text that is still coming.

A family describes its calls once, as a generator that reads from a `Cursor` in a straight line:
it yields a piece when one is complete, and nothing when there is no more text yet. What it has
read when it meets something else (`Mismatch`) is content, and the search for the next mark goes
on from there. So every character is looked at once, and where the text is cut cannot matter.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Sequence

from freehold.text.answer import Call, ContentText, Piece, ReasoningText, held_back

_SPACE = re.compile(r"[ \t\r\n]*")


class Mismatch(Exception):
    """What is read here is not what it looked like."""


Reading = Generator[Piece | None, None, None]


class Cursor:
    """A place in a text. Every method goes on to where it ends, or raises `Mismatch` there."""

    def __init__(self) -> None:
        self.text = ""
        self.at = 0
        self.ended = False

    @property
    def next(self) -> str:
        """The next character; empty if it has not come."""
        return self.text[self.at : self.at + 1]

    def wait(self) -> Generator[None, None, None]:
        """For more text than there is."""
        if self.ended:
            raise Mismatch
        yield

    def peek(self) -> Generator[None, None, str]:
        """The next character, which stays where it is."""
        while not self.next:
            yield from self.wait()
        return self.next

    def take(self, *options: str) -> Generator[None, None, str]:
        """One of these strings, the longest that is there."""
        while True:
            rest = len(self.text) - self.at
            fits = [each for each in options if self.text.startswith(each, self.at)]
            longest = max((len(each) for each in fits), default=0)
            if self.ended or not any(
                len(each) > max(rest, longest) and each.startswith(self.text[self.at :])
                for each in options
            ):
                break
            yield
        if not fits:
            raise Mismatch
        self.at += longest
        return max(fits, key=len)

    def run(self, characters: re.Pattern[str]) -> Generator[None, None, str]:
        """As many characters as match, maybe none; ``characters`` is a class, repeated."""
        start = self.at
        while True:
            found = characters.match(self.text, self.at)
            assert found is not None
            self.at = found.end()
            if self.next or self.ended:
                return self.text[start : self.at]
            yield

    def space(self) -> Generator[None, None, str]:
        """Whitespace, maybe none."""
        return (yield from self.run(_SPACE))


class CallParser:
    """An `AnswerParser` of a family whose calls begin with one of ``marks``.

    ``first`` are marks that count only where nothing but calls has come before. ``read`` begins
    at a mark. Whitespace in front of a call, and after the last one, is no part of the content.
    """

    reasoning = False

    def __init__(
        self, read: Callable[[Cursor], Reading], marks: Sequence[str], first: Sequence[str] = ()
    ) -> None:
        self._read = read
        self._marks = tuple(marks)
        self._first = tuple(first)
        self._cursor = Cursor()
        self._reading: Reading | None = None
        self._found = False  # what is being read has given a piece
        self._blank = ""  # whitespace that may turn out to stand beside a call
        self._called = False  # the last piece is a call
        self._silent = True  # there is no content yet

    def feed(self, text: str) -> tuple[Piece, ...]:
        self._cursor.text += text
        return tuple(self._pieces())

    def finish(self) -> tuple[Piece, ...]:
        self._cursor.ended = True
        pieces = [*self._pieces()]
        if self._blank and not self._called:
            pieces.append(ContentText(self._blank))
        self._blank = ""
        return tuple(pieces)

    def _pieces(self) -> Generator[Piece, None, None]:
        cursor = self._cursor
        while True:
            if self._reading is None:
                found = self._find()
                yield from self._say(found if found is not None else self._before_half_a_mark())
                if found is None:
                    return
                self._reading, self._found = self._read(cursor), False
            try:
                piece = next(self._reading)
            except (StopIteration, Mismatch) as end:
                self._reading = None
                if isinstance(end, Mismatch):
                    # The mark itself is not read again.
                    yield from self._say(max(cursor.at, 0 if self._found else 1))
                self._forget()
                continue
            if piece is None:
                return
            self._found = True
            self._forget()
            yield from self._take(piece)

    def _find(self) -> int | None:
        """Where the first mark is."""
        text = self._cursor.text
        if self._silent:
            at = len(text) - len(text.lstrip())
            if text.startswith(self._first, at):
                return at
        places = [text.find(mark) for mark in self._marks]
        return min((place for place in places if place >= 0), default=None)

    def _before_half_a_mark(self) -> int:
        text = self._cursor.text
        return len(text) - (
            0 if self._cursor.ended else held_back(text, *self._marks, *self._first)
        )

    def _say(self, end: int) -> Generator[Piece, None, None]:
        """What has come up to ``end`` is content."""
        text = self._cursor.text[:end]
        self._cursor.at = end
        self._forget()
        yield from self._take(ContentText(text))

    def _take(self, piece: Piece) -> Generator[Piece, None, None]:
        match piece:
            case ContentText():
                text = self._blank + piece.text
                shown = text.rstrip()
                self._blank = text[len(shown) :]
                if shown:
                    self._called = self._silent = False
                    yield ContentText(shown)
            case Call():
                self._blank, self._called = "", True
                yield piece
            case ReasoningText():
                if piece.text:
                    yield piece

    def _forget(self) -> None:
        """What has been read is done with: the text begins with what has not become a piece."""
        self._cursor.text = self._cursor.text[self._cursor.at :]
        self._cursor.at = 0
