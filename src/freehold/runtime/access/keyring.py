"""The keys of a running server: whom each one names, and what they use.

    request ──▶ find(shown) ──▶ Caller       looked up in memory; the file is read if it changed
    answer's end ──▶ spend(caller, …)        added up in memory ──▶ the file, now and then

The answer does not depend on the disk: if the file cannot be read, the keys known so far hold, and
usage that cannot be written waits in memory. Both are logged, once until it works again.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime
from pathlib import Path

from freehold.domain.errors import FreeholdError
from freehold.runtime.access.caller import OWNER, Caller
from freehold.runtime.access.key_file import KeyFile, Stamp, Use, path_in
from freehold.runtime.access.keys import ENVIRONMENT, Key, digest_of, id_of, matches

log = logging.getLogger(__name__)

FLUSH_SECONDS = 10.0


def today() -> str:
    return datetime.now(UTC).date().isoformat()


class Keyring:
    """``environment`` is the key given as a setting, which may do everything. Used from one event
    loop.
    """

    def __init__(self, home: Path, environment: str | None) -> None:
        self._home = home
        self._environment = None if environment is None else digest_of(environment.strip())
        self._file: KeyFile | None = None
        self._stamp: Stamp | None = None
        self._keys: dict[str, Key] = {}
        self._reading = asyncio.Lock()
        self._spent: dict[tuple[str, str], collections.Counter[str]] = {}
        self._troubles: set[str] = set()
        self._ending = asyncio.Event()

    async def find(self, shown: Iterable[str]) -> Caller | None:
        """Whose key is among those a client has ``shown``."""
        await self._refresh()
        for text in map(str.strip, shown):
            if self._environment is not None and matches(text, self._environment):
                return Caller(ENVIRONMENT, ENVIRONMENT)
            key = self._keys.get(id_of(text) or "")
            if key is not None and matches(text, key.digest) and key.holds(time.time()):
                return key.caller
        return None

    async def holds(self, caller: Caller) -> bool:
        """Whether it still may ask: its key has neither been revoked nor expired meanwhile."""
        if caller.id in (OWNER.id, ENVIRONMENT):
            return True
        await self._refresh()
        key = self._keys.get(caller.id)
        return key is not None and key.holds(time.time())

    async def _refresh(self) -> None:
        try:
            if self._file is None and not path_in(self._home).exists():
                return
            if self._file is not None and self._file.stamp() == self._stamp is not None:
                return
            async with self._reading:
                await asyncio.to_thread(self._read)
            self._well("keys")
        except FreeholdError as error:
            self._trouble("keys", "keys cannot be read, those known so far hold", error)

    def _read(self) -> None:
        """Raises what `KeyFile` does."""
        if self._file is not None and self._file.stamp() is None:
            self._file.close()
            self._file = None
        if self._file is None:
            self._file = KeyFile.found(self._home)
        if self._file is None:  # taken away: with it went every key in it
            self._keys, self._stamp = {}, None
            return
        stamp = self._file.stamp()
        self._keys = {key.id: key for key in self._file.all()}
        self._stamp = stamp

    # Usage

    def spend(
        self,
        caller: Caller,
        *,
        requests: int = 0,
        prompt_tokens: int = 0,
        cached_tokens: int = 0,
        completion_tokens: int = 0,
    ) -> None:
        """Note what a key has taken. The owner of the machine is not kept account of."""
        if caller.id == OWNER.id:
            return
        spent = self._spent.setdefault((caller.id, today()), collections.Counter())
        spent["requests"] += requests
        spent["prompt_tokens"] += prompt_tokens
        spent["cached_tokens"] += cached_tokens
        spent["completion_tokens"] += completion_tokens

    async def flush(self) -> None:
        """Write what was noted. What cannot be written stays noted."""
        spent, self._spent = self._spent, {}
        if not spent:
            return
        uses = [
            Use(
                *(key, day, counts["requests"], counts["prompt_tokens"]),
                *(counts["cached_tokens"], counts["completion_tokens"]),
            )
            for (key, day), counts in spent.items()
        ]
        try:
            await asyncio.to_thread(_write, self._home, uses)
            self._well("usage")
        except FreeholdError as error:
            for when, counts in spent.items():
                self._spent.setdefault(when, collections.Counter()).update(counts)
            self._trouble("usage", "the usage of keys cannot be written and waits in memory", error)

    @contextlib.asynccontextmanager
    async def kept(self) -> AsyncIterator[Keyring]:
        """Usage is written now and then, and when this is left."""
        flushing = asyncio.create_task(self._now_and_then(), name="usage of keys")
        try:
            yield self
        finally:
            self._ending.set()
            await flushing
            if self._file is not None:
                self._file.close()

    async def _now_and_then(self) -> None:
        while not self._ending.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), FLUSH_SECONDS)
            await self.flush()

    def _trouble(self, kind: str, what: str, error: FreeholdError) -> None:
        if kind not in self._troubles:
            self._troubles.add(kind)
            log.warning("%s: %s", what, error)

    def _well(self, kind: str) -> None:
        if kind in self._troubles:
            self._troubles.discard(kind)
            log.warning("%s: well again", kind)


def _write(home: Path, uses: list[Use]) -> None:
    with contextlib.closing(KeyFile.open(home)) as file:
        file.without_waiting_for_the_disk()
        file.spend(uses)
