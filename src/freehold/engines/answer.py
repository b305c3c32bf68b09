"""The answer of one sequence as it grows: tokens to text, and when it ends."""

from __future__ import annotations

from dataclasses import dataclass

from freehold.domain.chat import GenerateRequest
from freehold.domain.events import FinishReason
from freehold.text.stops import StopMatcher, Utf8Assembler


@dataclass(frozen=True)
class Spoken:
    """What one more token adds; ``reason`` is set when it ends the answer."""

    text: str
    reason: FinishReason | None = None


class Answer:
    """Turns the chosen tokens of one request into text that may be shown.

    ``stop``: the stop string that was met; nothing more follows it.
    """

    def __init__(self, request: GenerateRequest) -> None:
        self._characters = Utf8Assembler()
        self._stops = StopMatcher(request.sampling.stop)
        self.stop: str | None = None

    def speak(self, piece: bytes) -> Spoken:
        """One more token, by its bytes."""
        shown = self._stops.feed(self._characters.feed(piece))
        self.stop = shown.stop
        return Spoken(shown.text, FinishReason.STOP if shown.stop else None)

    def end(self, reason: FinishReason) -> Spoken:
        """No more tokens: show what was held back. A stop string may complete even now."""
        shown = self._stops.feed(self._characters.flush())
        if shown.stop:
            self.stop = shown.stop
            return Spoken(shown.text, FinishReason.STOP)
        return Spoken(shown.text + self._stops.flush(), reason)
