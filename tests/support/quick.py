"""How long something takes when nothing gets in its way."""

from __future__ import annotations

import time
from collections.abc import Callable


def cpu_seconds(call: Callable[[], object]) -> float:
    """The least processor time of three calls: a collection of garbage is not theirs."""
    least = float("inf")
    for _ in range(3):
        begun = time.process_time()
        call()
        least = min(least, time.process_time() - begun)
    return least
