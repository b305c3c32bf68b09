"""What one connection may take: how many there are, and how long each may keep us waiting.

    made ──▶ HEAD ──▶ BODY ──▶ answered ──▶ (kept alive: uvicorn's own timer) ──▶ HEAD …
              │ HEAD_SECONDS    │ BODY_SECONDS
              └────── 408 ──────┴──▶ closed

A client that sends a byte now and then, or does not read its answer, would hold a connection and
perhaps a sequence for ever. uvicorn bounds neither.
"""

from __future__ import annotations

import asyncio
import logging
import resource
from dataclasses import dataclass
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

log = logging.getLogger(__name__)

# Files a process needs beside its clients' connections: the store, children, SQLite.
_OTHER_FILES = 256


@dataclass(frozen=True)
class Limits:
    """``head``: seconds for a request's line and headers, from the connection or their first byte
    on. ``body``: for all of its body; 8 MiB in two minutes are half a megabit a second.
    ``stall``: how long a client may leave what was sent unread.
    """

    connections: int
    head: float = 20.0
    body: float = 120.0
    stall: float = 60.0


def grant(connections: int) -> int:
    """How many of so many ``connections`` the system lets us have; asks it for more files first."""
    wanted = connections + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    free = connections if soft == resource.RLIM_INFINITY else soft - _OTHER_FILES
    granted = max(1, min(connections, free))
    if granted < connections:
        log.warning(
            "The system grants this process %d files: %d connections at once, not %d.",
            *(soft, granted, connections),
        )
    return granted


class _Bounded(H11Protocol):
    """uvicorn's protocol with a timer. ``limits`` is set by `bounded`."""

    limits: Limits

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._timer: asyncio.TimerHandle | None = None
        self._timed: object = None
        self._stalled: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections:
            self._end("503 Service Unavailable", "This server has no connection free. Try again.")
            return
        self._watch(waiting=True)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch(waiting=True)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        # What of the next request has come already counts; if nothing has, uvicorn's timer runs.
        self._watch(waiting=bool(self.conn.trailing_data[0]))

    def connection_lost(self, exc: Exception | None) -> None:
        self._watch(waiting=False)
        self.resume_writing()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._stalled is None:
            self._stalled = self.loop.call_later(self.limits.stall, self._abandon)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def _watch(self, *, waiting: bool) -> None:
        """Run the timer of what is waited for; it goes on where it already runs."""
        state = self.conn.their_state if waiting else None
        if state is self._timed:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._timed = state
        if state is h11.IDLE:
            self._timer = self.loop.call_later(self.limits.head, self._too_slow)
        elif state is h11.SEND_BODY:
            self._timer = self.loop.call_later(self.limits.body, self._too_slow)

    def _too_slow(self) -> None:
        self._end("408 Request Timeout", "The request did not arrive in time.")

    def _end(self, status: str, sentence: str) -> None:
        cycle = self.cycle
        answering = cycle is not None and cycle.response_started and not cycle.response_complete
        if not answering and not self.transport.is_closing():
            self.transport.write(
                f"HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nConnection: close\r\n"
                f"Content-Length: {len(sentence)}\r\n\r\n{sentence}".encode()
            )
        self.transport.close()

    def _abandon(self) -> None:
        log.info("a client did not read its answer for %g s and is let go", self.limits.stall)
        self.transport.abort()


def bounded(limits: Limits) -> type[asyncio.Protocol]:
    """The protocol for uvicorn, which makes one for each connection."""
    return type("Bounded", (_Bounded,), {"limits": limits})
