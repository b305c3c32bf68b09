"""Browsers that have been let in: a cookie stands for a key, or for the link that `serve` printed.

    link, once ──▶ session of the machine's owner          both end with the server,
    a key, typed ──▶ session of that key, while it holds   or when the page signs out

The page's scripts never see the cookie, and hold no key. Everything is in memory; of a session's
token only the digest.
"""

from __future__ import annotations

import collections
import hashlib
import hmac
import secrets

from starlette.datastructures import Headers
from starlette.requests import cookie_parser

from freehold.runtime.access.caller import OWNER, Caller
from freehold.runtime.access.keyring import Keyring

COOKIE = "freehold_session"
MOST = 1024

# Not `OWNER` itself: whoever comes by the link may come under any name of this machine.
_VISITOR = Caller(OWNER.id, "page")


class Sessions:
    """Used from one event loop. The longest unused leave first."""

    def __init__(self) -> None:
        self._code: str | None = secrets.token_urlsafe(24)
        self._keys: collections.OrderedDict[str, str | None] = collections.OrderedDict()

    @property
    def code(self) -> str | None:
        """What the link carries; None once it has been used."""
        return self._code

    def redeem(self, code: str) -> str | None:
        """A session's token for the link's code, the first time."""
        if self._code is None or not hmac.compare_digest(self._code.encode(), code.encode()):
            return None
        self._code = None
        return self._begin(None)

    async def admit(self, key: str, keyring: Keyring) -> str | None:
        """A session's token for a key that holds."""
        return self._begin(key) if await keyring.find([key]) else None

    def end(self, headers: Headers) -> None:
        self._keys.pop(_digest_in(headers), None)

    async def caller(self, headers: Headers, keyring: Keyring) -> Caller | None:
        """Who a browser is. A key is looked up again each time: revoked is revoked here too."""
        digest = _digest_in(headers)
        if digest not in self._keys:
            return None
        self._keys.move_to_end(digest)
        key = self._keys[digest]
        return _VISITOR if key is None else await keyring.find([key])

    def _begin(self, key: str | None) -> str:
        token = secrets.token_urlsafe(32)
        self._keys[_digest(token)] = key
        if len(self._keys) > MOST:
            self._keys.popitem(last=False)
        return token


def _digest_in(headers: Headers) -> str:
    return _digest(cookie_parser(headers.get("cookie", "")).get(COOKIE, ""))


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
