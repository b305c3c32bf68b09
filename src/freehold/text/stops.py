"""Stop strings and half characters: what may be shown of an answer, and when.

Pure state machines over pieces of text. A stop string may span any number of
tokens, so text that could be its beginning is held back until it is known.
"""

from __future__ import annotations

import codecs
from dataclasses import dataclass


@dataclass(frozen=True)
class Shown:
    """``text`` may be shown; ``stop`` is the stop string that followed it, if one did."""

    text: str
    stop: str | None = None


class StopMatcher:
    """Feed text in pieces of any size; the pieces shown add up to the text before the stop."""

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""

    def feed(self, text: str) -> Shown:
        if not self._stops:
            return Shown(text)
        self._held += text
        # The stop that is complete first, so that the sizes of the pieces do not matter.
        found = [
            (at + len(stop), at, stop) for stop in self._stops if (at := self._held.find(stop)) >= 0
        ]
        if found:
            _, at, stop = min(found)
            shown, self._held = self._held[:at], ""
            return Shown(shown, stop)
        keep = max(self._overlap(stop) for stop in self._stops)
        shown, self._held = (
            self._held[: len(self._held) - keep],
            self._held[len(self._held) - keep :],
        )
        return Shown(shown)

    def flush(self) -> str:
        """What was held back and turned out to be no stop string."""
        held, self._held = self._held, ""
        return held

    def _overlap(self, stop: str) -> int:
        """Length of the longest end of the held text that begins ``stop``."""
        longest = min(len(stop) - 1, len(self._held))
        return next((n for n in range(longest, 0, -1) if self._held.endswith(stop[:n])), 0)


class Utf8Assembler:
    """Bytes in, whole characters out. Invalid bytes become U+FFFD, never an error."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, data: bytes) -> str:
        return self._decoder.decode(data)

    def flush(self) -> str:
        return self._decoder.decode(b"", final=True)
