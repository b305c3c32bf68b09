"""What every source of weights promises.

A source says what it offers (`resolve`) and delivers bytes from any offset
(`stream`). It never writes to the store, and it is never believed: the
downloader hashes what arrives. A download that one source began can
therefore be finished by another, as long as the digest is known.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class RemoteFile:
    """One file a source offers. ``sha256`` is lower-case hex; None means not known in advance."""

    name: str
    size: int | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class Offer:
    """What a source can deliver for one model, in the order the files belong together.

    ``revision`` is the exact upstream commit where there is one; ``licence`` and
    ``base_models`` are what the card at that commit declares, never a judgement.
    """

    origin: str
    files: tuple[RemoteFile, ...]
    revision: str | None = None
    licence: str | None = None
    base_models: tuple[str, ...] = ()


class Source(Protocol):
    """One place that may hold a model's files.

    Methods raise `SourceUnavailable` (another source may do), `GatedModel`,
    `UnknownModel` or `InvalidReference`; nothing from the library underneath.
    """

    @property
    def description(self) -> str:
        """Where the bytes come from, for people: ``Hugging Face hub, owner/repo``."""
        ...

    def resolve(self) -> Offer:
        """Ask what is there. May use the network."""
        ...

    def stream(self, file: RemoteFile, offset: int) -> AbstractContextManager[Iterator[bytes]]:
        """Deliver ``file`` from byte ``offset`` to its end.

        The iterator yields non-empty chunks. A source that cannot begin at
        ``offset`` raises `CannotResume` rather than begin elsewhere.
        """
        ...
