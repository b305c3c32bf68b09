"""What `residency` is told, what it decides, and what can be seen of it.

Times are by any one clock; keep-alives are in seconds, infinity is for ever; sizes are bytes.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from freehold.domain.errors import FreeholdError


class Phase(enum.StrEnum):
    WAITING = "waiting"
    LOADING = "loading"
    READY = "ready"
    LEAVING = "leaving"


class Why(enum.StrEnum):
    """Why a model is unloaded."""

    ROOM = "another model needs its room"
    TIME = "it has not been used for long enough"
    CLOSING = "the server stops"


@dataclass(frozen=True)
class Turn:
    """What a model may do while another waits for its room; see above. Times are in seconds."""

    requests: int = 32
    seconds: float = 30.0
    idle: float = 0.5


# Events


@dataclass(frozen=True)
class Asked:
    """``needed`` bytes count only if the model is neither in memory nor in the queue.

    ``keep_alive`` holds from the moment the lease is given; None leaves it as it is.
    """

    ticket: int
    key: str
    name: str
    needed: int
    deadline: float | None = None
    keep_alive: float | None = None


@dataclass(frozen=True)
class Left:
    """Whoever has this ticket has used the model, or waits for it no more."""

    ticket: int


@dataclass(frozen=True)
class Loaded:
    key: str


@dataclass(frozen=True)
class Failed:
    """A load has, and all it took is given back."""

    key: str
    error: FreeholdError


@dataclass(frozen=True)
class Gone:
    """A model that was leaving has left, and all it took is given back."""

    key: str


@dataclass(frozen=True)
class Measured:
    """What a model really takes, in bytes. It goes on counting for no less than it did."""

    key: str
    size: int


@dataclass(frozen=True)
class Pinned:
    key: str
    pinned: bool


@dataclass(frozen=True)
class Dismissed:
    """A model is to leave as soon as nobody uses it, pinned or not."""

    key: str


@dataclass(frozen=True)
class Ticked:
    """Time has passed."""


@dataclass(frozen=True)
class Closed:
    """All leave, in use or not, and nobody is served any more."""


Event = Asked | Left | Loaded | Failed | Gone | Measured | Pinned | Dismissed | Ticked | Closed


# Effects


@dataclass(frozen=True)
class Load:
    """To be answered with `Loaded` or `Failed`."""

    key: str


@dataclass(frozen=True)
class CancelLoad:
    """To be answered with `Gone`."""

    key: str


@dataclass(frozen=True)
class Unload:
    """To be answered with `Gone`."""

    key: str
    why: Why


@dataclass(frozen=True)
class Grant:
    """The model is this ticket's to use, until `Left`."""

    ticket: int


@dataclass(frozen=True)
class Refuse:
    ticket: int
    error: FreeholdError


Effect = Load | CancelLoad | Unload | Grant | Refuse


@dataclass(frozen=True)
class Resident:
    """A model as `Residency` sees it: it was to need ``needed`` bytes, and counts with ``size``.

    ``expires``: when it leaves if nobody asks; None: never.
    """

    key: str
    name: str
    phase: Phase
    needed: int
    size: int
    since: float
    users: int
    waiting: int
    pinned: bool
    expires: float | None
