"""Keys for a gateway's store, and clients that send them."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import httpx2

from freehold.runtime.access.caller import Scope, Terms
from freehold.runtime.access.key_file import KeyFile
from freehold.runtime.access.keys import issue

INFER = frozenset({Scope.INFER})
MANAGE = frozenset({Scope.MANAGE})


def issued(home: Path, name: str, terms: Terms | None = None, expires: float | None = None) -> str:
    """The text of a new key in the store ``home``; to infer unless ``terms`` say otherwise."""
    made = issue(name, terms or Terms(INFER), now=time.time(), expires=expires)
    with contextlib.closing(KeyFile.open(home)) as file:
        file.add(made.key)
    return made.text


def revoked(home: Path, name: str) -> None:
    with contextlib.closing(KeyFile.open(home)) as file:
        file.revoke(name, time.time())


def sending(url: str, key: str) -> httpx2.Client:
    """A client that shows a key with everything it asks."""
    headers = {"authorization": f"Bearer {key}"}
    return httpx2.Client(base_url=url, headers=headers, timeout=20, trust_env=False)
