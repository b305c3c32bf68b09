"""How long steps take here, learnt from the steps themselves, and what fits into one. Pure.

A step that decodes ``r`` rows takes about ``base + per_row * r`` seconds; reading a prompt
proceeds at so many tokens a second, which falls as the prompt gets longer. Both are averages
that forget, so they follow the depth of the sequences, other programs on the machine, and
a governor that changes its mind.
"""

from __future__ import annotations

# Nobody is decoding: how long a step may be. It bounds how long a newcomer waits to be seen.
ALONE_SECONDS = 1.0
# No chunk is smaller, or reading would pay the fixed cost of a step for nearly nothing.
SMALLEST_CHUNK = 16
# Time for reading against time for decoding, at most, when many prompts wait.
LARGEST_SHARE = 3
# Before anything was measured.
FIRST_CHUNK = 64
# What one more row is taken to cost, as a share of the average row, and how firmly.
PRIOR_SLOPE = 0.3
PRIOR_WEIGHT = 4.0
# Weight of what was known against one more observation.
MEMORY = 0.7
# How many observations of a number of rows weigh as much as the line through all of them.
DOUBT = 2.0
# What is left of an observation's weight after one more.
FADE = 0.98


class Line:
    """``y = base + slope * x`` through observations whose weight fades. Both are at least 0."""

    def __init__(self) -> None:
        self._n = self._x = self._y = self._xx = self._xy = 0.0

    def observe(self, x: float, y: float) -> None:
        fade = 0.95
        self._n = self._n * fade + 1
        self._x = self._x * fade + x
        self._y = self._y * fade + y
        self._xx = self._xx * fade + x * x
        self._xy = self._xy * fade + x * y

    @property
    def known(self) -> bool:
        return self._n > 0

    @property
    def slope(self) -> float:
        """Pulled towards `PRIOR_SLOPE`, the more the less the observations differ in x.

        Without that a single slow step could say for ever that more rows are dear: nobody
        would try them again.
        """
        if not self._x:
            return 0.0
        spread = self._n * self._xx - self._x * self._x
        doubt = PRIOR_WEIGHT * self._n
        prior = PRIOR_SLOPE * self._y / self._x
        slope = (self._n * self._xy - self._x * self._y + doubt * prior) / (spread + doubt)
        return min(max(0.0, slope), self._y / self._x)

    @property
    def base(self) -> float:
        return (self._y - self.slope * self._x) / self._n if self._n else 0.0

    def at(self, x: float) -> float:
        return self.base + self.slope * x


class RowTimes:
    """How long decoding so many rows takes: a line, corrected where a number of rows was seen.

    Matrix kernels work on tiles of rows, so the truth is a staircase: four rows can take
    less time than three.
    """

    def __init__(self) -> None:
        self._line = Line()
        self._observed = 0
        # By number of rows: the sum of ratios to the line, their weight, when last observed.
        self._ratios: dict[int, tuple[float, float, int]] = {}

    @property
    def known(self) -> bool:
        return self._line.known

    def observe(self, rows: int, seconds: float) -> None:
        self._line.observe(rows, seconds)
        self._observed += 1
        ratio = min(max(0.5, seconds / self._line.at(rows)), 2.0)
        total, weight = self._faded(rows)
        self._ratios[rows] = (total + ratio, weight + 1, self._observed)

    def at(self, rows: int) -> float:
        """Seconds; 0 for no rows."""
        if rows == 0:
            return 0.0
        total, weight = self._faded(rows)
        return self._line.at(rows) * (DOUBT + total) / (DOUBT + weight)

    def _faded(self, rows: int) -> tuple[float, float]:
        total, weight, when = self._ratios.get(rows, (0.0, 0.0, self._observed))
        left = FADE ** (self._observed - when)
        return total * left, weight * left


class Pace:
    """``target`` is the inter-token latency, in seconds, that reading prompts must respect.

    Where decoding alone takes longer than half the target, reading gets as much time as
    decoding does: it slows others down to half, never stops them, and is never stopped; while
    several prompts wait, up to `LARGEST_SHARE` times as much. Those who wait for their first
    token lose more than those who read on slower, and the more sequences decode together, the
    less each token costs.
    """

    def __init__(self, target: float) -> None:
        self._target = target
        self._decode = RowTimes()
        self._prefill_rate = 0.0

    def observe(self, rows: int, prefill_tokens: int, seconds: float) -> None:
        """A step decoded ``rows`` and read ``prefill_tokens`` in ``seconds``."""
        if prefill_tokens == 0:
            self._decode.observe(rows, seconds)
            return
        reading = seconds - self.decode_seconds(rows)
        if reading <= 0 or prefill_tokens < SMALLEST_CHUNK // 2:
            return
        rate = prefill_tokens / reading
        known = self._prefill_rate
        if known:  # the rest of a step is a small difference of large numbers at times
            rate = min(rate, 2 * known)
        self._prefill_rate = MEMORY * known + (1 - MEMORY) * rate if known else rate

    def decode_seconds(self, rows: int) -> float:
        return self._decode.at(rows)

    def chunk(self, rows: int, readers: int = 1) -> int:
        """Prompt tokens to read in a step that decodes ``rows``, while ``readers`` are unread."""
        if not self._prefill_rate:
            return FIRST_CHUNK
        if rows == 0:
            seconds = ALONE_SECONDS
        else:
            decoding = self.decode_seconds(rows)
            share = min(max(1, readers), LARGEST_SHARE)
            seconds = max(self._target - decoding, share * decoding)
        return max(SMALLEST_CHUNK, int(seconds * self._prefill_rate))

    def draft_length(self, rows: int, chance: float, limit: int, *, apart: bool) -> int:
        """How many tokens to guess for one of ``rows`` sequences: as many as answer fastest.

        ``chance`` is how likely each guess is right, given those before it. ``apart`` means
        that the guesses run as a batch of their own. No guess makes a step longer than the
        target, or twice what it takes without. 0: guessing loses time, or nothing is known yet.
        """
        if not self._decode.known:
            return 0
        plain = self.decode_seconds(rows)
        most, best, expected = rows / plain, 0, float(rows)
        for length in range(1, limit + 1):
            expected += chance**length
            guessing = plain + self._decode.at(length) if apart else self._decode.at(rows + length)
            if guessing > max(self._target, 2 * plain):
                break
            if expected / guessing > most:
                most, best = expected / guessing, length
        return best
