"""A server's address, and one HTTP exchange with it over plain asyncio streams.

Nothing stands between: no connection pool, no proxy, no redirect, no retry. What is measured is
the server and the way to it.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
import time
import urllib.parse
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any

from freehold.domain.errors import InvalidReference, ServerMisbehaved, ServerUnreachable
from freehold.domain.hosts import is_loopback
from freehold.lab.bench.sse import Chunked

_PORTS = {"http": 80, "https": 443}
_PRINTABLE = re.compile(r"[!-~]+")
_READ = 65536
_MAX_BODY = 1024 * 1024


@dataclass(frozen=True)
class Endpoint:
    """Where a server is. ``base`` is the path before ``/chat/completions``, no slash at its end.

    ``socket`` is the path of a UNIX socket that is asked instead of the host's port.
    """

    scheme: str
    host: str
    port: int
    base: str
    key: str | None = field(default=None, repr=False)
    socket: str | None = None

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.authority}{self.base}"

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def here(self) -> bool:
        """Whether it is this machine, told without asking a name server."""
        return is_loopback(self.host)


def parse_endpoint(text: str, key: str | None = None) -> Endpoint:
    """``http://host:port`` with the path before ``/chat/completions``; ``/v1`` where there is none.

    Raises `InvalidReference`, which quotes no password.
    """
    hint = "Write it as in http://127.0.0.1:8000/v1."
    if not _PRINTABLE.fullmatch(text):
        raise InvalidReference("An address has printable ASCII characters only.", hint=hint)
    try:
        parts = urllib.parse.urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise InvalidReference(f"This is not a well-formed address: {error}.", hint=hint) from None
    if parts.scheme not in _PORTS or not parts.hostname:
        raise InvalidReference("This is not an http or https address.", hint=hint)
    if parts.username is not None or parts.password is not None:
        raise InvalidReference(
            "The address carries a user name or password.",
            hint="Put the key into a variable and name that with --key-env.",
        )
    if parts.query or parts.fragment:
        raise InvalidReference("The address has a query or a fragment.", hint=hint)
    base = parts.path.rstrip("/").removesuffix("/chat/completions") or "/v1"
    return Endpoint(parts.scheme, parts.hostname, port or _PORTS[parts.scheme], base, key)


class Response:
    """An answer whose head has come. ``sent`` is when the request was, by `time.perf_counter`."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        silence: float,
        sent: float,
        status: int,
        headers: Mapping[str, str],
    ) -> None:
        self.sent = sent
        self.status = status
        self.headers = headers
        self._reader = reader
        self._silence = silence

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """The body as it comes. Raises `ServerMisbehaved` where it stalls or breaks off."""
        chunked = Chunked() if "chunked" in self.headers.get("transfer-encoding", "") else None
        left = None if chunked else _content_length(self.headers)
        while left != 0 and not (chunked and chunked.ended):
            data = await _heard(self._reader.read(_READ), self._silence)
            if not data:
                if chunked or left:
                    raise ServerMisbehaved("The server closed the connection within an answer.")
                return
            if left is not None:
                data = data[:left]
                left -= len(data)
            body = chunked.feed(data) if chunked else data
            if body:
                yield body

    async def read(self) -> bytes:
        """The whole body, of a short answer."""
        body = bytearray()
        async with contextlib.aclosing(self.pieces()) as pieces:
            async for piece in pieces:
                body += piece
                if len(body) > _MAX_BODY:
                    raise ServerMisbehaved(f"The server's answer exceeds {_MAX_BODY} bytes.")
        return bytes(body)


@contextlib.asynccontextmanager
async def exchange(
    endpoint: Endpoint, method: str, path: str, body: bytes, silence: float
) -> AsyncIterator[Response]:
    """Send one request on a connection of its own; enter when the answer's head is there.

    ``silence``: seconds without a byte that are too many. Raises `ServerUnreachable` if there is
    no connection, else `ServerMisbehaved`.
    """
    reader, writer = await _connect(endpoint, silence)
    try:
        sent = time.perf_counter()
        writer.write(_head(endpoint, method, path, body) + body)
        try:
            head = await _heard(reader.readuntil(b"\r\n\r\n"), silence)
        except asyncio.IncompleteReadError:
            raise ServerMisbehaved("The server closed the connection without an answer.") from None
        except asyncio.LimitOverrunError:
            raise ServerMisbehaved("The server's answer has no end to its headers.") from None
        status, headers = _parse(head)
        yield Response(reader, silence, sent, status, headers)
    finally:
        writer.close()
        with contextlib.suppress(OSError, TimeoutError):
            # A server that does not close its side is not waited for.
            async with asyncio.timeout(1):
                await writer.wait_closed()


async def _connect(
    endpoint: Endpoint, silence: float
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    secure = ssl.create_default_context() if endpoint.scheme == "https" else None
    try:
        async with asyncio.timeout(silence):
            if endpoint.socket is not None:
                return await asyncio.open_unix_connection(endpoint.socket, limit=_READ)
            return await asyncio.open_connection(
                endpoint.host, endpoint.port, ssl=secure, limit=_READ
            )
    except TimeoutError:
        why = f"no connection within {silence:g} seconds"
    except OSError as error:  # TLS's errors and a name nobody knows are among them
        why = error.strerror or str(error)
    raise ServerUnreachable(
        f"The server at {endpoint.url} cannot be reached: {why}.",
        hint="Check that it runs and listens there.",
    )


async def _heard(reading: Coroutine[Any, Any, bytes], silence: float) -> bytes:
    try:
        async with asyncio.timeout(silence):
            return await reading
    except TimeoutError:
        raise ServerMisbehaved(f"Nothing came from the server for {silence:g} seconds.") from None
    except OSError as error:
        why = error.strerror or str(error)
        raise ServerMisbehaved(f"The connection to the server broke: {why}.") from None


def _head(endpoint: Endpoint, method: str, path: str, body: bytes) -> bytes:
    lines = [
        f"{method} {endpoint.base}{path} HTTP/1.1",
        f"Host: {endpoint.authority}",
        "Accept: */*",
        "Connection: close",
    ]
    if endpoint.key:
        lines.append(f"Authorization: Bearer {endpoint.key}")
    if body:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def _parse(head: bytes) -> tuple[int, dict[str, str]]:
    first, *lines = head.decode("latin-1").split("\r\n")
    words = first.split(" ", 2)
    if len(words) < 2 or not words[0].startswith("HTTP/1.") or not words[1].isdigit():
        raise ServerMisbehaved("What listens there does not speak HTTP/1.1.")
    pairs = (line.partition(":") for line in lines if ":" in line)
    return int(words[1]), {name.strip().lower(): value.strip() for name, _, value in pairs}


def _content_length(headers: Mapping[str, str]) -> int | None:
    text = headers.get("content-length")
    if text is None:
        return None
    if not text.isdigit():
        raise ServerMisbehaved("The server's answer has a length that is no number.")
    return int(text)
