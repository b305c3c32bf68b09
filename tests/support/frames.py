"""How long a page's frames take, told apart from what else the machine does meanwhile.

A frame is late for two reasons: the page works too long, or nobody lets it run. The browser's trace
has both for every task of the page's thread: the time it took, and the processor's time of it. A
page that does nothing beside it (the control) shows how long one waits here for a processor.
"""

from __future__ import annotations

import bisect
import contextlib
import itertools
import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from playwright.sync_api import Browser, Page

MOST = 100.0
# The longest frame of a page that does nothing, of 60 a second, where it never has to wait.
IDLE = 20.0
ATTEMPTS = 3

_CATEGORIES = ["devtools.timeline", "disabled-by-default-devtools.timeline"]
_DRAW = """() => {
    if (window.drawing_) return;
    window.drawing_ = true;
    const next = () => requestAnimationFrame(next);
    next();
}"""


@dataclass
class Frames:
    """Milliseconds. ``longest``: from one frame to the next; ``busiest``: what the page's thread
    itself worked in that time; ``control``: the longest frame of a page that does nothing.
    """

    longest: float = 0.0
    busiest: float = 0.0
    control: float = 0.0

    @property
    def most(self) -> float:
        """`MOST` where a page that does nothing is drawn in time, and as much more as this machine
        is slower than that at this moment.
        """
        return MOST * max(1.0, self.control / IDLE)

    @property
    def smooth(self) -> bool:
        """No late frame, save those in which a page that does nothing was late as well."""
        late = self.longest >= self.most and self.control <= self.longest / 2
        return self.busiest < self.most and not late


def require_smooth(measure: Callable[[], Frames]) -> None:
    """In the best of three. The page's own work is within bounds each time, on any machine."""
    seen: list[Frames] = []
    while len(seen) < ATTEMPTS and not (seen and seen[-1].smooth):
        seen.append(measure())
        assert seen[-1].busiest < seen[-1].most, seen
    assert seen[-1].smooth, seen


@contextlib.contextmanager
def traced(browser: Browser, page: Page) -> Iterator[Frames]:
    """What is filled when this is left: of everything that ``page`` drew meanwhile."""
    found = Frames()
    with browser.new_context() as context:
        control = context.new_page()
        for each in (page, control):
            each.evaluate(_DRAW)
        browser.start_tracing(page=page, categories=_CATEGORIES)
        try:
            yield found
        finally:
            trace = json.loads(browser.stop_tracing())
    busy, idle = _by_work(trace["traceEvents"])
    found.longest, found.busiest = _late(busy)
    found.control, _ = _late(idle)


@dataclass
class _Thread:
    """A page's: when it drew, and its tasks with the processor's time each took. Microseconds."""

    frames: list[float]
    tasks: list[tuple[float, float]]

    @property
    def work(self) -> float:
        return sum(took for _, took in self.tasks)


def _by_work(events: list[dict[str, Any]]) -> tuple[_Thread, _Thread]:
    """The page that works and the one that does not."""
    threads: dict[tuple[int, int], _Thread] = defaultdict(lambda: _Thread([], []))
    for event in events:
        thread = threads[event["pid"], event["tid"]]
        if event["name"] == "FireAnimationFrame":
            thread.frames.append(event["ts"])
        elif event["name"] == "RunTask" and "tdur" in event:
            thread.tasks.append((event["ts"], event["tdur"]))
    drawing = sorted((t for t in threads.values() if len(t.frames) > 30), key=lambda t: t.work)
    assert len(drawing) == 2, "one page works and one does nothing, both for a while"
    return drawing[1], drawing[0]


def _late(thread: _Thread) -> tuple[float, float]:
    """The longest time between two frames, and the most work."""
    frames = sorted(thread.frames)
    longest = max(after - before for before, after in itertools.pairwise(frames))
    worked = [0.0] * (len(frames) + 1)
    for at, took in thread.tasks:
        worked[bisect.bisect(frames, at)] += took
    return longest / 1000, max(worked[1:-1]) / 1000
