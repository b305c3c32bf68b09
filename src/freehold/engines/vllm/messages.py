"""The wire between the gateway and the keeper of a vLLM server.

gateway                              keeper                  vLLM
   │  ── Launch ───────────────────▶ │  starts it ──────────▶ │
   │  ◀───────────────── Started ──  │                        │
   │  ◀────────────────── Exited ──  │  ◀── it ended          │
   │  (closes) ────────────────────▶ │  ends all of it ─────▶ │

Requests do not pass here: they go to vLLM's UNIX socket.
"""

from __future__ import annotations

from freehold.process.frames import PROTOCOL_VERSION, Message


class Ready(Message, frozen=True):
    """The keeper's first word."""

    version: int = PROTOCOL_VERSION


class Launch(Message, frozen=True):
    """The whole command, and the whole environment."""

    arguments: tuple[str, ...]
    environ: dict[str, str]


class Started(Message, frozen=True):
    """``isolated``: by what it can reach no other machine; or ``exposed``, why it can."""

    pid: int
    isolated: str | None
    exposed: str | None


class Exited(Message, frozen=True):
    """``status`` as of `subprocess`: negative for a signal."""

    status: int


FromGateway = Launch
FromKeeper = Ready | Started | Exited
