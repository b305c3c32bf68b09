"""The gateway's side of the doorkeeper: keepers and connections, passed as file descriptors.

Opened before the gateway gives up making connections (`process.confine.deny_network`). What it
passes is already open, and so works afterwards.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import httpcore2
import httpx2
import msgspec

from freehold.domain.errors import LoadFailed
from freehold.domain.settings import environment
from freehold.engines.vllm.doorkeeper import MAX_MESSAGE, Asked, Told
from freehold.engines.vllm.messages import FromKeeper
from freehold.process.child import Child, child_environment
from freehold.process.confine import Layer
from freehold.process.decoding import from_json
from freehold.process.frames import AsyncChannel

DOORKEEPER = "freehold.engines.vllm.doorkeeper"
_START_SECONDS = 60.0
_MAX_DESCRIPTORS = 3
_LONGEST_LINE = 64 * 1024


class Door:
    """``network``: whether those behind it have none but loopback, which is what makes it one."""

    def __init__(self, sock: socket.socket, process: subprocess.Popen[bytes], network: Layer):
        self.network = network
        self._sock = sock
        self._process = process
        self._lock = threading.Lock()

    @classmethod
    def open(cls, python: Path) -> Door:
        """``python`` is the one that vLLM is installed for. Raises `LoadFailed`."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", DOORKEEPER, str(theirs.fileno()), str(python)],
            pass_fds=(theirs.fileno(),),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env=child_environment(environment()),
            start_new_session=True,
        )
        theirs.close()
        ours.settimeout(_START_SECONDS)
        try:
            network = from_json(ours.recv(MAX_MESSAGE), Layer)
        except (OSError, msgspec.DecodeError) as error:
            process.kill()
            process.wait()
            ours.close()
            raise LoadFailed("The process that vLLM is reached through did not start.") from error
        return cls(ours, process, network)

    async def keeper(
        self, name: str, heard: Callable[[str], None]
    ) -> tuple[Child[FromKeeper], Path]:
        """A new one, with the folder of its server's socket. Raises `LoadFailed`."""
        told, descriptors = await asyncio.to_thread(self._ask, Asked())
        if told.refused is not None:
            raise LoadFailed(f"The process that starts vLLM did not start: {told.refused}.")
        wire, log, pidfd = descriptors
        sock = socket.socket(fileno=wire)
        sock.setblocking(False)
        channel = await AsyncChannel[FromKeeper].open(sock, FromKeeper)
        process = await _Elsewhere.of(told.pid, pidfd, log)
        return Child(name, process, channel, heard), Path(told.folder)

    async def connection(self, folder: Path) -> socket.socket:
        """To the server in ``folder``. Raises `OSError` while it does not listen."""
        told, descriptors = await asyncio.to_thread(self._ask, Asked(str(folder)))
        if told.refused is not None:
            raise ConnectionRefusedError(told.refused)
        connection = socket.socket(fileno=descriptors[0])
        connection.setblocking(False)
        return connection

    def _ask(self, asked: Asked) -> tuple[Told, list[int]]:
        with self._lock:
            try:
                self._sock.send(msgspec.json.encode(asked))
                data, descriptors, _, _ = socket.recv_fds(self._sock, MAX_MESSAGE, _MAX_DESCRIPTORS)
            except OSError as error:
                return Told(refused=error.strerror or "it does not answer"), []
        if not data:
            return Told(refused="it has ended"), []
        return from_json(data, Told), descriptors

    def close(self) -> None:
        """Whoever is behind it ends. Safe to call twice."""
        self._sock.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5.0)
        self._process.kill()
        self._process.wait()


class _Elsewhere:
    """A process that another has started, as `Child` wants one."""

    def __init__(self, pid: int, pidfd: int, stderr: asyncio.StreamReader) -> None:
        self.pid = pid
        self.stderr = stderr
        self.returncode: int | None = None
        self._pidfd = pidfd
        self._ended = asyncio.Event()
        asyncio.get_running_loop().add_reader(pidfd, self._end)

    @classmethod
    async def of(cls, pid: int, pidfd: int, log: int) -> _Elsewhere:
        stderr = asyncio.StreamReader(limit=_LONGEST_LINE)
        protocol = asyncio.StreamReaderProtocol(stderr)
        await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, os.fdopen(log, "rb"))
        return cls(pid, pidfd, stderr)

    def _end(self) -> None:
        """How it ended is its parent's to know."""
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        self.returncode = 0
        self._ended.set()

    async def wait(self) -> int:
        await self._ended.wait()
        return 0

    def kill(self) -> None:
        if self.returncode is None:
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)


class DoorTransport(httpx2.AsyncHTTPTransport):
    """HTTP over connections that come through the door."""

    def __init__(self, door: Door, folder: Path) -> None:
        super().__init__()
        self._pool = httpcore2.AsyncConnectionPool(
            max_connections=None, uds=str(folder), network_backend=_Backend(door, folder)
        )


class _Backend(httpcore2.AsyncNetworkBackend):
    def __init__(self, door: Door, folder: Path) -> None:
        self._door = door
        self._folder = folder

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        try:
            connection = await self._door.connection(self._folder)
        except OSError as error:
            raise httpcore2.ConnectError(str(error)) from error
        reader, writer = await asyncio.open_unix_connection(sock=connection)
        return _Stream(reader, writer)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class _Stream(httpcore2.AsyncNetworkStream):
    """``timeout`` is not looked at: whoever asks has deadlines of its own."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        try:
            return await self._reader.read(max_bytes)
        except OSError as error:
            raise httpcore2.ReadError(str(error)) from error

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        try:
            self._writer.write(buffer)
            await self._writer.drain()
        except OSError as error:
            raise httpcore2.WriteError(str(error)) from error

    async def aclose(self) -> None:
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        raise httpcore2.ConnectError("There is no TLS on a UNIX socket.")

    def get_extra_info(self, info: str) -> Any:
        if info == "is_readable":  # a connection that was kept, and has ended
            return self._reader.at_eof()
        return None
