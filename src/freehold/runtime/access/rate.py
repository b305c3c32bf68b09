"""How many tokens a minute a caller may take. Pure: the time is given.

A bucket holds one minute's tokens and fills evenly. What a request will take is not known when it
comes, so it is let in while anything is left and pays as its tokens are counted; what it owes is
worked off before the next one. Over any time of T minutes that is at most (T + 1) times
``rate`` tokens, and what the requests under way at its end had left to take.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Bucket:
    """Times are in seconds of any steady clock. ``level`` may be below nothing: a debt."""

    rate: int
    level: float
    at: float

    @classmethod
    def full(cls, rate: int, now: float) -> Bucket:
        return cls(rate, float(rate), now)

    def wait(self, now: float) -> float:
        """Seconds until a request may begin; 0: at once."""
        self._fill(now)
        missing = 1 - self.level
        return max(0.0, missing * 60 / self.rate)

    def take(self, tokens: int, now: float) -> None:
        self._fill(now)
        self.level -= tokens

    def change(self, rate: int, now: float) -> None:
        """A new rate; what is owed stays owed."""
        self._fill(now)
        self.rate = rate
        self.level = min(self.level, float(rate))

    def _fill(self, now: float) -> None:
        passed = max(0.0, now - self.at)
        self.level = min(float(self.rate), self.level + passed * self.rate / 60)
        self.at = max(self.at, now)
