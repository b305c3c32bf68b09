"""The running servers of this store, asked through their HTTP API."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx2

from freehold.cli.backend import refusal
from freehold.domain.errors import (
    InvalidRequest,
    NotFound,
    OfflineRefused,
    ServerUnreachable,
)
from freehold.domain.settings import Settings
from freehold.runtime import server as announcement
from freehold.runtime.server import ServerAddress

# A server on this machine answers at once or is gone; a load takes as long as it takes.
_ASK = httpx2.Timeout(5.0)
_WORK = httpx2.Timeout(None, connect=2.0)


@dataclass(frozen=True)
class Server:
    """One running server. Raises its refusals as they would be raised here, and
    `ServerUnreachable`."""

    url: str
    client: httpx2.Client

    def get(self, path: str) -> dict[str, Any]:
        return self._ask("GET", path, None)

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        return self._ask("POST", path, body)

    def _ask(self, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        timeout = _ASK if body is None else _WORK
        try:
            response = self.client.request(method, self.url + path, json=body, timeout=timeout)
            answer: dict[str, Any] = response.json()
        except (httpx2.TransportError, ValueError) as error:
            raise ServerUnreachable(
                f"The server at {self.url} stopped answering.",
                hint="Look at its output, or start it again.",
            ) from error
        if response.status_code == 200:
            return answer
        refused = refusal(answer)
        raise NotFound(refused.message) if response.status_code == 404 else refused


@contextlib.contextmanager
def running(settings: Settings) -> Iterator[tuple[Server, ...]]:
    """Those that answer and are who they were announced to be, by address. Raises
    `ServerUnreachable` if there are none.
    """
    key = settings.api_key
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    with httpx2.Client(headers=headers, trust_env=False) as client:  # no proxy: it is this machine
        found = announcement.find_all(settings.home)
        servers = tuple(Server(each.url, client) for each in found if _answers(client, each))
        if not servers:
            raise ServerUnreachable(
                "No server of this store is running.", hint="Start one with: freehold serve"
            )
        yield servers


def the_one(servers: tuple[Server, ...]) -> Server:
    """Raises `InvalidRequest` if there are several."""
    if len(servers) > 1:
        raise InvalidRequest(
            f"Several servers of this store are running: {', '.join(s.url for s in servers)}.",
            hint="Say which with --server URL.",
        )
    return servers[0]


def named(servers: tuple[Server, ...], url: str | None) -> tuple[Server, ...]:
    """Those at ``url``, or all. Raises `InvalidRequest`."""
    if url is None:
        return servers
    chosen = tuple(server for server in servers if server.url == url.rstrip("/"))
    if not chosen:
        raise InvalidRequest(
            f"No server of this store runs at {url}.",
            hint=f"Running are: {', '.join(server.url for server in servers)}.",
        )
    return chosen


def _answers(client: httpx2.Client, address: ServerAddress) -> bool:
    try:
        health = client.get(f"{address.url}/healthz", timeout=_ASK)
        return health.status_code == 200 and health.json().get("instance") == address.instance
    except (httpx2.TransportError, ValueError, OfflineRefused):
        return False
