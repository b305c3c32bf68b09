"""The text that losses are measured on. Where it comes from is said at its beginning."""

from __future__ import annotations

import importlib.resources

_LINE = "\n" + 64 * "-" + "\n"


def text() -> str:
    """Without its header."""
    whole = importlib.resources.files(__package__).joinpath("corpus.txt").read_text("utf-8")
    return whole.partition(_LINE)[2]
