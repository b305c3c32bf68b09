"""What `run` prints: the answer on stdout, figures beside it."""

from __future__ import annotations

import sys
import unicodedata

from freehold.domain.answers import Ended, EndReason


def printable(text: str) -> str:
    """Text safe for a terminal: a model must not be able to send it escape sequences."""
    return "".join(c for c in text if c in "\n\t" or unicodedata.category(c) != "Cc")


class Screen:
    """stdout, as the answer arrives. On a terminal control characters are left out."""

    def __init__(self) -> None:
        self._filter = sys.stdout.isatty()
        self._last = "\n"
        self._reasoning = False

    def reason(self, text: str) -> None:
        """What the model thinks first is no result: it goes to stderr, dimmed on a terminal."""
        self._reasoning = True
        terminal = sys.stderr.isatty()
        sys.stderr.write(f"\x1b[2m{printable(text)}\x1b[0m" if terminal else text)
        sys.stderr.flush()

    def write(self, text: str) -> None:
        if self._reasoning:
            self._reasoning = False
            sys.stderr.write("\n\n")
            sys.stderr.flush()
        shown = printable(text) if self._filter else text
        if shown:
            sys.stdout.write(shown)
            sys.stdout.flush()
            self._last = shown[-1]

    def end_line(self) -> None:
        """The answer is over: the next thing begins on a line of its own."""
        if self._last != "\n":
            sys.stdout.write("\n")
            sys.stdout.flush()
            self._last = "\n"


def tokens_per_second(ended: Ended) -> float | None:
    """Decode speed: tokens after the first, over the time they took."""
    later = ended.usage.completion_tokens - 1
    return later / ended.timings.decode if later > 0 and ended.timings.decode > 0 else None


def figures(ended: Ended) -> str:
    """One line: ``32 tokens in (8 cached), 57 out, first after 0.21 s, then 48.3 tokens/s``."""
    usage, timings = ended.usage, ended.timings
    cached = f" ({usage.cached_tokens} cached)" if usage.cached_tokens else ""
    line = (
        f"{usage.prompt_tokens} tokens in{cached}, {usage.completion_tokens} out, "
        f"first after {timings.queued + timings.prefill:.2f} s"
    )
    if usage.reasoning_tokens and ended.first_answer is not None:
        line += f", the answer after {ended.first_answer:.2f} s"
    speed = tokens_per_second(ended)
    return line if speed is None else f"{line}, then {speed:.1f} tokens/s"


def why_cut(ended: Ended, asked: int | None) -> str | None:
    """Why an answer is not whole, for those it matters to."""
    if ended.reason is not EndReason.LENGTH:
        return None
    if asked is not None and ended.usage.completion_tokens >= asked:
        return f"The answer was cut at {asked} tokens, the limit set with --max-tokens."
    return (
        f"The answer was cut after {ended.usage.completion_tokens} tokens: the context is full, "
        "or the server's own limit was met."
    )
