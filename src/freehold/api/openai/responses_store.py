"""Responses that may be asked for again, in memory alone, for each cache scope its own.

    scope ──▶ shelf: id ──▶ response and conversation      the least recently used leave first

A shelf is bounded by count and by bytes; one scope's use takes nothing from another's.
"""

from __future__ import annotations

import collections
from collections.abc import Sequence
from dataclasses import dataclass

from freehold.domain.chat import Message
from freehold.domain.errors import NotFound

MAX_COUNT = 1024
MAX_BYTES = 64 * 1024 * 1024


class ResponseNotFound(NotFound):
    """No response by this id is kept; ``field`` is where the id was given."""

    code = "response_not_found"

    def __init__(self, identity: str, *, field: str) -> None:
        super().__init__(
            f"There is no response {identity!r} here.",
            hint="Responses are kept in memory until newer ones need the room, the server ends, "
            "or they are deleted; with store: false they are not kept at all.",
        )
        self.field = field


@dataclass(frozen=True)
class Kept:
    """A response as its client was told it, and the conversation up to its end.

    Instructions are no part of ``messages``.
    """

    body: str
    messages: tuple[Message, ...]

    @property
    def size(self) -> int:
        """Bytes, as if nothing were shared with other responses of the same conversation."""
        return len(self.body.encode()) + _size(self.messages)


class _Shelf:
    def __init__(self, max_count: int, max_bytes: int) -> None:
        self._max_count = max_count
        self._max_bytes = max_bytes
        self._kept: collections.OrderedDict[str, tuple[Kept, int]] = collections.OrderedDict()
        self._bytes = 0

    def put(self, identity: str, kept: Kept) -> None:
        size = kept.size
        self._kept[identity] = (kept, size)
        self._bytes += size
        while len(self._kept) > self._max_count or self._bytes > self._max_bytes:
            _, (_, freed) = self._kept.popitem(last=False)
            self._bytes -= freed

    def get(self, identity: str) -> Kept | None:
        if identity not in self._kept:
            return None
        self._kept.move_to_end(identity)
        return self._kept[identity][0]

    def delete(self, identity: str) -> bool:
        if identity not in self._kept:
            return False
        _, freed = self._kept.pop(identity)
        self._bytes -= freed
        return True


class ResponseStore:
    """Used from one event loop."""

    def __init__(self, *, max_count: int = MAX_COUNT, max_bytes: int = MAX_BYTES) -> None:
        self._max_count = max_count
        self._max_bytes = max_bytes
        self._shelves: dict[str, _Shelf] = {}

    def put(self, scope: str, identity: str, kept: Kept) -> None:
        """Keep a response under an id that is new."""
        if scope not in self._shelves:
            self._shelves[scope] = _Shelf(self._max_count, self._max_bytes)
        self._shelves[scope].put(identity, kept)

    def get(self, scope: str, identity: str, *, field: str) -> Kept:
        """Raises `ResponseNotFound`, which says that ``field`` named it."""
        shelf = self._shelves.get(scope)
        kept = shelf.get(identity) if shelf else None
        if kept is None:
            raise ResponseNotFound(identity, field=field)
        return kept

    def delete(self, scope: str, identity: str, *, field: str) -> None:
        """Raises as `get`."""
        shelf = self._shelves.get(scope)
        if shelf is None or not shelf.delete(identity):
            raise ResponseNotFound(identity, field=field)


def _size(messages: Sequence[Message]) -> int:
    return sum(
        len(text.encode("utf-8", "surrogatepass"))
        for message in messages
        for text in (
            message.content,
            message.reasoning or "",
            *(part for call in message.tool_calls for part in (call.name, call.arguments)),
        )
    )
