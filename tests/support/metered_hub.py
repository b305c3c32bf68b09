"""A fake hub that counts the bytes its CDN sends, and can stop in the middle of a file.

with MeteredHub([repository]) as hub:
    hub.meter.hold_after = 1000    # send so much of each body, then wait
    ...                            # somebody pulls
    hub.meter.wait_until_held()
    hub.meter.release()
"""

from __future__ import annotations

import threading
from collections.abc import Iterable

from tests.support.fake_hub import FakeHub, FakeRepository, _CdnHandler

_PATIENCE_SECONDS = 30


class Meter:
    """``sent`` counts body bytes handed to the network; ``hold_after`` is bytes of one body."""

    def __init__(self) -> None:
        self.sent = 0
        self.hold_after: int | None = None
        self._held = threading.Event()
        self._released = threading.Event()
        self._lock = threading.Lock()

    def wait_until_held(self) -> None:
        assert self._held.wait(_PATIENCE_SECONDS), "nobody asked for the file"

    def release(self) -> None:
        self.hold_after = None
        self._released.set()

    def hold(self) -> None:
        self._held.set()
        self._released.wait(_PATIENCE_SECONDS)

    def count(self, number: int) -> None:
        with self._lock:
            self.sent += number


class MeteredHub(FakeHub):
    def __init__(self, repositories: Iterable[FakeRepository] = ()) -> None:
        super().__init__(repositories)
        self.meter = Meter()
        self._cdn.RequestHandlerClass = type("_Handler", (_MeteredCdn,), {"meter": self.meter})

    @property
    def ranges(self) -> list[str | None]:
        """The Range header of each request to the CDN, in order."""
        return [seen.headers.get("range") for seen in self.requests if seen.port == "cdn"]


class _MeteredCdn(_CdnHandler):
    meter: Meter

    def _write(self, body: bytes) -> None:
        hold_after = self.meter.hold_after
        if hold_after is not None and hold_after < len(body):
            self.wfile.write(body[:hold_after])
            self.meter.count(hold_after)
            self.meter.hold()
            body = body[hold_after:]
        super()._write(body)
        limit = self.state.faults.drop_after
        self.meter.count(len(body) if limit is None else min(limit, len(body)))
