"""Conversations kept on this machine: trees of messages in one SQLite file.

    conversation ──▶ message (question) ──▶ message (answer) ──▶ message (question) …
                          └──▶ message (another answer) …          └──▶ an edited question …

A message never changes its place; editing a question or asking again adds a sibling. Each owner
(a key; one for keyless loopback) sees its own conversations alone. Calls block: they are made
from threads.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import msgspec

from freehold.domain.error_values import Value
from freehold.domain.errors import DiskFull, InvalidRequest, StoreBusy, Unavailable
from freehold.process.decoding import from_json
from freehold.runtime.kept import (
    AttachedFile,
    ConversationNotFound,
    Figures,
    Heading,
    KeptMessage,
    Wishes,
    title_of,
)

MAX_MESSAGES = 10_000
_VERSION = 4
_BUSY_SECONDS = 5.0

_SCHEMA = """
CREATE TABLE conversation (
    id TEXT PRIMARY KEY, owner TEXT NOT NULL, title TEXT NOT NULL, model TEXT, system TEXT NOT NULL,
    wishes TEXT NOT NULL, leaf TEXT, created REAL NOT NULL, updated REAL NOT NULL
) STRICT;
CREATE INDEX conversation_of ON conversation (owner, updated);
CREATE TABLE message (
    id TEXT PRIMARY KEY, conversation TEXT NOT NULL REFERENCES conversation (id) ON DELETE CASCADE,
    parent TEXT, role TEXT NOT NULL, content TEXT NOT NULL, reasoning TEXT NOT NULL,
    files TEXT NOT NULL, model TEXT, status TEXT NOT NULL, error TEXT, figures TEXT,
    created REAL NOT NULL, error_code TEXT, error_values TEXT, tokens BLOB NOT NULL DEFAULT x''
) STRICT;
CREATE INDEX message_of ON message (conversation, created);
"""
# From each version to the next.
_CHANGES = (
    "ALTER TABLE message ADD COLUMN error_code TEXT;",
    "ALTER TABLE message ADD COLUMN error_values TEXT;",
    "ALTER TABLE message ADD COLUMN tokens BLOB NOT NULL DEFAULT x'';",
)


class Conversations:
    """``path`` None: in memory, gone when the server ends. The file is opened when first used.

    Raises `DiskFull`, `StoreBusy` or `Unavailable` where the file does.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._opened: sqlite3.Connection | None = None

    @property
    def kept(self) -> bool:
        """Whether they outlive the server."""
        return self._path is not None

    # Conversations

    def add(
        self, owner: str, title: str, model: str | None, system: str, wishes: Wishes
    ) -> Heading:
        now = time.time()
        made = Heading(uuid.uuid4().hex, title, model, system, wishes, None, now, now)
        with self._connection() as connection:
            connection.execute(
                "INSERT INTO conversation VALUES (?, ?, ?, ?, ?, ?, NULL, ?, ?)",
                (made.id, owner, title, model, system, _json(wishes), now, now),
            )
        return made

    def headings(self, owner: str, containing: str, limit: int) -> tuple[list[Heading], int]:
        """The latest first, at most ``limit``, and how many there are in all.

        ``containing`` is looked for in titles and messages; the case of ASCII letters is no matter.
        """
        pattern = "%" + "".join(f"\\{c}" if c in "\\%_" else c for c in containing) + "%"
        where = (
            "owner = ?1 AND (?2 = '%%' OR title LIKE ?2 ESCAPE '\\' OR EXISTS (SELECT 1 FROM "
            "message WHERE message.conversation = conversation.id "
            "AND message.content LIKE ?2 ESCAPE '\\'))"
        )
        with self._connection() as connection:
            rows = connection.execute(
                f"SELECT {_HEADING} FROM conversation WHERE {where} "  # noqa: S608 - ours alone
                "ORDER BY updated DESC, id LIMIT ?3",
                (owner, pattern, limit),
            ).fetchall()
            (count,) = connection.execute(
                f"SELECT count(*) FROM conversation WHERE {where}",  # noqa: S608 - ours alone
                (owner, pattern),
            ).fetchone()
        return [_heading(row) for row in rows], count

    def heading(self, owner: str, identity: str) -> Heading:
        """Raises `ConversationNotFound`."""
        with self._connection() as connection:
            return _found(connection, owner, identity)

    def change(self, owner: str, changed: Heading) -> None:
        """Everything but its dates and messages. Raises `ConversationNotFound`."""
        with self._connection() as connection:
            _found(connection, owner, changed.id)
            if changed.leaf is not None:
                _message(connection, changed.id, changed.leaf)
            connection.execute(
                "UPDATE conversation SET title = ?, model = ?, system = ?, wishes = ?, leaf = ? "
                "WHERE id = ?",
                (
                    *(changed.title, changed.model, changed.system),
                    *(_json(changed.wishes), changed.leaf, changed.id),
                ),
            )

    def delete(self, owner: str, identity: str) -> None:
        """With its messages, which are overwritten in the file. Raises `ConversationNotFound`."""
        with self._connection() as connection:
            _found(connection, owner, identity)
            connection.execute("DELETE FROM conversation WHERE id = ?", (identity,))

    # Messages

    def messages(self, owner: str, identity: str) -> list[KeptMessage]:
        """All of a conversation, in the order they were made. Raises `ConversationNotFound`."""
        with self._connection() as connection:
            _found(connection, owner, identity)
            rows = connection.execute(
                f"SELECT {_MESSAGE} FROM message "  # noqa: S608 - ours alone
                "WHERE conversation = ? ORDER BY created, rowid",
                (identity,),
            ).fetchall()
        return [_kept(row) for row in rows]

    def add_message(self, owner: str, identity: str, message: KeptMessage) -> None:
        """It becomes the conversation's leaf. The first one gives a title to one that has none.

        Raises `ConversationNotFound`, and `InvalidRequest` when there are too many messages.
        """
        with self._connection() as connection:
            heading = _found(connection, owner, identity)
            if message.parent is not None:
                _message(connection, identity, message.parent)
            (count,) = connection.execute(
                "SELECT count(*) FROM message WHERE conversation = ?", (identity,)
            ).fetchone()
            if count >= MAX_MESSAGES:
                raise InvalidRequest(
                    f"A conversation may have at most {MAX_MESSAGES} messages.",
                    hint="Begin a new one.",
                    values={"most": MAX_MESSAGES},
                )
            connection.execute(
                "INSERT INTO message VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (message.id, identity, message.parent, message.role, *_changing(message)),
            )
            connection.execute(
                "UPDATE conversation SET leaf = ?, updated = ?, title = ? WHERE id = ?",
                (message.id, message.created, heading.title or title_of(message), identity),
            )

    def save_message(self, message: KeptMessage) -> None:
        """An answer as far as it has come; nothing where its conversation has been deleted."""
        with self._connection() as connection:
            connection.execute(
                "UPDATE message SET content = ?, reasoning = ?, files = ?, model = ?, status = ?, "
                "error = ?, figures = ?, created = ?, error_code = ?, error_values = ?, "
                "tokens = ? WHERE id = ?",
                (*_changing(message), message.id),
            )

    def close(self) -> None:
        with self._lock:
            if self._opened is not None:
                self._opened.close()
                self._opened = None

    # The file

    @contextlib.contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        """One transaction."""
        with self._lock:
            try:
                if self._opened is None:
                    self._opened = _open(self._path)
                with self._opened:
                    yield self._opened
            except sqlite3.Error as error:
                raise _told(error) from error


_HEADING = "id, title, model, system, wishes, leaf, created, updated"
_MESSAGE = (
    "id, parent, role, content, reasoning, files, model, status, error, figures, created, "
    "error_code, error_values, tokens"
)


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _changing(message: KeptMessage) -> tuple[str | float | bytes | None, ...]:
    """What is written again while an answer grows, in the order of the columns."""
    return (
        *(message.content, message.reasoning, _json(message.files), message.model),
        *(message.status, message.error),
        None if message.figures is None else _json(message.figures),
        message.created,
        message.error_code,
        None if message.error_values is None else _json(message.error_values),
        message.tokens,
    )


def _found(connection: sqlite3.Connection, owner: str, identity: str) -> Heading:
    row = connection.execute(
        f"SELECT {_HEADING} FROM conversation "  # noqa: S608 - ours alone
        "WHERE id = ? AND owner = ?",
        (identity, owner),
    ).fetchone()
    if row is None:
        raise ConversationNotFound(identity)
    return _heading(row)


def _message(connection: sqlite3.Connection, conversation: str, identity: str) -> None:
    row = connection.execute(
        "SELECT 1 FROM message WHERE id = ? AND conversation = ?", (identity, conversation)
    ).fetchone()
    if row is None:
        raise ConversationNotFound(identity)


def _heading(row: sqlite3.Row) -> Heading:
    return Heading(
        **{**dict(row), "wishes": from_json(row["wishes"], Wishes)},
    )


def _kept(row: sqlite3.Row) -> KeptMessage:
    figures, values = row["figures"], row["error_values"]
    return KeptMessage(
        **{
            **dict(row),
            "files": from_json(row["files"], tuple[AttachedFile, ...]),
            "figures": None if figures is None else from_json(figures, Figures),
            "error_values": None if values is None else from_json(values, dict[str, Value]),
        }
    )


def _open(path: Path | None) -> sqlite3.Connection:
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
    connection = sqlite3.connect(
        ":memory:" if path is None else path, timeout=_BUSY_SECONDS, check_same_thread=False
    )
    connection.row_factory = sqlite3.Row
    for pragma in ("journal_mode = WAL", "synchronous = NORMAL", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {pragma}")
    connection.execute("PRAGMA secure_delete = ON")  # deleted means unreadable
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > _VERSION:
        connection.close()
        raise Unavailable(
            f"{path} was written by a newer freehold.", hint="Use that one, or move the file away."
        )
    if version < _VERSION:
        changes = _SCHEMA if version == 0 else "".join(_CHANGES[version - 1 :])
        connection.executescript(f"BEGIN; {changes} PRAGMA user_version = {_VERSION}; COMMIT;")
    return connection


def _told(error: sqlite3.Error) -> Unavailable:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return DiskFull("The disk is full: the conversation was not kept.", hint="Free some room.")
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return StoreBusy("Another process holds the conversations.", hint="Try again.")
    return Unavailable(
        f"The conversations cannot be read or written: {error}.",
        hint="Look at state/conversations.sqlite in the store; freehold works without it.",
    )
