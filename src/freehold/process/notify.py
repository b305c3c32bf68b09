"""Telling the service manager how we are: systemd's notification protocol (sd_notify(3)).

One datagram to a UNIX socket for each message, with nothing connected: a server that is offline
may still send it. Where nobody listens nothing is sent.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass

from freehold.domain.settings import environment

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Notifier:
    """``address`` None: nobody listens. ``watchdog``: seconds within which a sign of life is
    expected; None: none is.
    """

    address: str | None = None
    watchdog: float | None = None

    @classmethod
    def from_environment(cls, variables: Mapping[str, str] | None = None) -> Notifier:
        """As the service manager said. What cannot be read is taken for not said."""
        given = environment() if variables is None else variables
        address = given.get("NOTIFY_SOCKET", "")
        if not address.startswith(("/", "@")):
            return cls()
        return cls(address, _watchdog(given))

    def ready(self) -> None:
        self._say("READY=1", "STATUS=Serving.")

    def reloading(self) -> None:
        """Settings are read again; `ready` says when that is over."""
        microseconds = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._say("RELOADING=1", f"MONOTONIC_USEC={microseconds}")

    def stopping(self) -> None:
        self._say("STOPPING=1", "STATUS=Finishing the answers under way.")

    def status(self, text: str) -> None:
        """One line for people, as `systemctl status` shows it."""
        self._say(f"STATUS={' '.join(text.split())}")

    async def signs_of_life(self) -> None:
        """Twice as often as they are expected, from the event loop: it is what they vouch for.
        Ends at once where none are expected.
        """
        while self.watchdog is not None:
            self._say("WATCHDOG=1")
            await asyncio.sleep(self.watchdog / 2)

    def _say(self, *lines: str) -> None:
        if self.address is None:
            return
        # A leading @ stands for the zero byte of the abstract name space.
        address = f"\0{self.address[1:]}" if self.address.startswith("@") else self.address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.setblocking(False)
                sock.sendto("\n".join(lines).encode(), address)
        except OSError as error:
            log.warning("The service manager could not be told %s: %s.", lines[0], error.strerror)


def _watchdog(variables: Mapping[str, str]) -> float | None:
    """Seconds, if this very process is watched."""
    try:
        microseconds = int(variables.get("WATCHDOG_USEC", ""))
        watched = int(variables.get("WATCHDOG_PID", os.getpid()))
    except ValueError:
        return None
    return microseconds / 1e6 if microseconds > 0 and watched == os.getpid() else None
