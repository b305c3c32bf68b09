"""The file of keys, and of what each has used: ``HOME/state/keys.sqlite``.

Several processes use it at once: a server reads keys and adds up usage while commands issue and
revoke. It is in WAL mode, where neither waits for the other. A new or revoked key is synced to the
disk before anyone is told of it; usage is not, and a power cut may lose the latest. Calls block.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from freehold.domain.errors import (
    DiskFull,
    InvalidSetting,
    NotFound,
    StoreBusy,
    Unavailable,
)
from freehold.runtime.access.caller import Scope, Terms
from freehold.runtime.access.keys import MAX_KEYS, Key

_VERSION = 1
_BUSY_SECONDS = 5.0

_SCHEMA = """
CREATE TABLE key (
    id TEXT PRIMARY KEY, name TEXT NOT NULL, digest BLOB NOT NULL, scopes TEXT NOT NULL,
    models TEXT NOT NULL, concurrency INTEGER, rate INTEGER, weight INTEGER NOT NULL,
    created REAL NOT NULL, expires REAL, revoked REAL
) STRICT;
CREATE UNIQUE INDEX key_in_use ON key (name) WHERE revoked IS NULL;
CREATE TABLE usage (
    key TEXT NOT NULL, day TEXT NOT NULL, requests INTEGER NOT NULL,
    prompt_tokens INTEGER NOT NULL, cached_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL, PRIMARY KEY (key, day)
) STRICT, WITHOUT ROWID;
"""
_COLUMNS = "id, name, digest, scopes, models, concurrency, rate, weight, created, expires, revoked"
_ADD = """
INSERT INTO usage VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET
    requests = requests + excluded.requests,
    prompt_tokens = prompt_tokens + excluded.prompt_tokens,
    cached_tokens = cached_tokens + excluded.cached_tokens,
    completion_tokens = completion_tokens + excluded.completion_tokens
"""


class UnknownKey(NotFound):
    """No key in use has this name."""

    code = "unknown_key"

    def __init__(self, name: str) -> None:
        super().__init__(
            f"There is no key called {name!r} in use.",
            hint="`freehold key list` shows them.",
            values={"key": name},
        )


@dataclass(frozen=True)
class Use:
    """What one key took on one day (UTC, ``2026-11-24``). ``cached`` are among ``prompt``."""

    key: str
    day: str
    requests: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int


def totals(uses: Iterable[Use], since: str) -> tuple[Use, ...]:
    """One for each key; its day is ``since``."""
    found: dict[str, Use] = {}
    for use in uses:
        before = found.get(use.key, Use(use.key, since, 0, 0, 0, 0))
        found[use.key] = Use(
            *(use.key, since, before.requests + use.requests),
            before.prompt_tokens + use.prompt_tokens,
            before.cached_tokens + use.cached_tokens,
            before.completion_tokens + use.completion_tokens,
        )
    return tuple(found.values())


@dataclass(frozen=True)
class Stamp:
    """When it differs, the keys may too. ``version`` counts others' changes, for one connection."""

    file: int
    version: int


def path_in(home: Path) -> Path:
    return home / "state" / "keys.sqlite"


def any_holds(home: Path) -> bool:
    """Whether a key is in use."""
    file = KeyFile.found(home)
    if file is None:
        return False
    with contextlib.closing(file):
        return any(key.holds(time.time()) for key in file.all())


class KeyFile:
    """One connection, for one thread at a time. `open` makes the file; `found` does not."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self._path = path
        self._connection = connection
        self._inode = path.stat().st_ino

    @classmethod
    def open(cls, home: Path) -> KeyFile:
        """Raises `DiskFull`, `StoreBusy`, or `Unavailable` for a file that cannot be used."""
        path = path_in(home)
        with _ours(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            # SQLite makes its other files with the mode of this one. One that is there is not to be
            # opened here: closing it would let go of every lock this process has on it.
            with contextlib.suppress(FileExistsError):
                os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            connection = sqlite3.connect(
                path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
        try:
            with _ours(path):
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = FULL")
                _make(connection, path)
        except BaseException:
            connection.close()
            raise
        return cls(path, connection)

    @classmethod
    def found(cls, home: Path) -> KeyFile | None:
        """None: there is none, and so no key was ever issued."""
        return cls.open(home) if path_in(home).exists() else None

    def close(self) -> None:
        self._connection.close()

    # Keys

    def stamp(self) -> Stamp | None:
        """None once the file is another one, or none. A few microseconds: no disk is waited for."""
        try:
            if self._path.stat().st_ino != self._inode:
                return None
        except FileNotFoundError:
            return None
        with _ours(self._path):
            (version,) = self._connection.execute("PRAGMA data_version").fetchone()
        return Stamp(self._inode, version)

    def all(self) -> tuple[Key, ...]:
        """All of them, revoked ones too, the oldest first."""
        with _ours(self._path):
            rows = self._connection.execute(f"SELECT {_COLUMNS} FROM key ORDER BY created")  # noqa: S608 - names of ours
            return tuple(map(_key, rows))

    def add(self, key: Key) -> None:
        """Raises `InvalidSetting` if a key in use has the name, or there are too many."""
        terms = key.terms
        row = (
            *(key.id, key.name, key.digest, json.dumps(sorted(terms.scopes))),
            *(json.dumps(terms.models), terms.concurrency, terms.rate, terms.weight),
            *(key.created, key.expires, key.revoked),
        )
        with self._changing():
            (count,) = self._connection.execute("SELECT count(*) FROM key").fetchone()
            if count >= MAX_KEYS:
                raise InvalidSetting(f"There are {count} keys, revoked ones included; no more fit.")
            try:
                self._connection.execute(
                    f"INSERT INTO key ({_COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?,?,?)",  # noqa: S608 - names of ours
                    row,
                )
            except sqlite3.IntegrityError:
                raise InvalidSetting(
                    f"A key called {key.name} is in use.",
                    hint="Choose another name, or revoke that one first.",
                    values={"key": key.name},
                ) from None

    def revoke(self, name: str, now: float) -> Key:
        """From now on it opens nothing. Raises `UnknownKey`."""
        with self._changing():
            row = self._connection.execute(
                f"UPDATE key SET revoked = ? WHERE name = ? AND revoked IS NULL "  # noqa: S608 - names of ours
                f"RETURNING {_COLUMNS}",
                (now, name),
            ).fetchone()
        if row is None:
            raise UnknownKey(name)
        return _key(row)

    # Usage

    def spend(self, uses: Iterable[Use]) -> None:
        """Add to what is there, all of it or nothing."""
        rows = [
            (u.key, u.day, u.requests, u.prompt_tokens, u.cached_tokens, u.completion_tokens)
            for u in uses
        ]
        with self._changing():
            self._connection.executemany(_ADD, rows)

    def usage(self, since: str = "") -> tuple[Use, ...]:
        """Day by day from ``since`` on, by key."""
        with _ours(self._path):
            rows = self._connection.execute(
                "SELECT * FROM usage WHERE day >= ? ORDER BY key, day", (since,)
            )
            return tuple(Use(*row) for row in rows)

    def without_waiting_for_the_disk(self) -> None:
        """From now on changes survive the process, not a power cut: for usage, many times an
        hour."""
        with _ours(self._path):
            self._connection.execute("PRAGMA synchronous = NORMAL")

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        with _ours(self._path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):  # a full disk has ended it already
                    self._connection.execute("ROLLBACK")
                raise


def _key(row: tuple[str, str, bytes, str, str, int, int, int, float, float, float]) -> Key:
    identity, name, digest, scopes, models, concurrency, rate, weight, *times = row
    terms = Terms(
        frozenset(map(Scope, json.loads(scopes))),
        tuple(json.loads(models)),
        concurrency,
        rate,
        weight,
    )
    return Key(identity, name, digest, terms, *times)


def _make(connection: sqlite3.Connection, path: Path) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version == 0:
        connection.execute("BEGIN IMMEDIATE")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version == 0:  # nobody was faster
            for statement in _SCHEMA.split(";\n"):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {_VERSION}")
        connection.execute("COMMIT")
    elif version > _VERSION:
        raise Unavailable(
            f"{path} was written by a newer freehold.", hint="Use that version, or newer."
        )


@contextlib.contextmanager
def _ours(path: Path) -> Iterator[None]:
    """What SQLite and the system report, as errors of ours."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
            raise DiskFull(
                f"The disk that holds {path} is full.", hint="Free some space."
            ) from error
        if error.sqlite_errorcode in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise StoreBusy(f"Another process holds {path}.", hint="Try again.") from error
        raise Unavailable(f"{path} cannot be used: {error}.") from error
    except sqlite3.Error as error:
        raise Unavailable(
            f"{path} is damaged: {error}.",
            hint="Restore it from a backup, or move it away and issue new keys.",
        ) from error
    except OSError as error:
        raise Unavailable(f"{path} cannot be used: {error.strerror}.") from error
