"""Binding the one TCP socket and running the application on it until told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import secrets
import signal
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator

import uvicorn

from freehold.api.app import build_app
from freehold.api.guard import Rules
from freehold.api.stream import SILENCE_SECONDS
from freehold.domain.errors import FreeholdError, InvalidSetting, PortInUse
from freehold.domain.settings import Settings
from freehold.runtime import server as announcement
from freehold.runtime.server import ServerAddress
from freehold.runtime.wiring import Runtime
from freehold.weights.addresses import is_loopback

log = logging.getLogger(__name__)

# How long streams may go on after the order to stop.
DRAIN_SECONDS = 10


def bind(settings: Settings) -> socket.socket:
    """The listening socket. Raises `PortInUse`, or `InvalidSetting` for an address not ours
    or one that others can reach without a key.
    """
    host, port = settings.host, settings.port
    if not is_loopback(host) and settings.api_key is None:
        raise InvalidSetting(
            f"{host} can be reached by other machines, and no API key is set.",
            hint="Set FREEHOLD_API_KEY to a long random text, or stay on 127.0.0.1.",
        )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
        sock.listen(2048)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            raise PortInUse(
                f"Port {port} on {host} is in use.",
                hint="Another server runs there; stop it, or choose another --port.",
            ) from error
        raise InvalidSetting(
            f"The server cannot listen on {host} port {port}: {error.strerror}.",
            hint="Choose an address of this machine and a port you may use.",
        ) from error
    return sock


def url_of(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class _Server(uvicorn.Server):
    """uvicorn, except that the signals are ours: its own way ends the process mid-clean-up."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield  # signals come to the main thread only: whoever runs us there stops us
            return
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stop)
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)

    def _stop(self) -> None:
        self.force_exit = self.should_exit  # the second signal does not wait for streams
        self.should_exit = True


async def serve(
    runtime: Runtime,
    sock: socket.socket,
    *,
    preload: tuple[str, ...],
    say: Callable[[str], None],
    silence: float = SILENCE_SECONDS,
) -> None:
    """Serve until SIGINT or SIGTERM. Raises the error of a model that cannot be preloaded.

    ``silence`` as in `build_app`.
    """
    settings = runtime.settings
    address = ServerAddress(os.getpid(), url_of(sock), secrets.token_hex(16))
    host, port = sock.getsockname()[:2]
    rules = Rules(port=port, api_key=settings.api_key, manages=is_loopback(host))
    app = build_app(runtime, rules, address.instance, silence=silence)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="off",
        server_header=False,
        timeout_graceful_shutdown=DRAIN_SECONDS,
    )
    server = _Server(config)
    loading = asyncio.create_task(_preload(runtime, preload, server, say), name="preload")
    announcement.announce(settings.home, address)
    say(
        f"Serving on {address.url} (for OpenAI's clients: {address.url}/v1; "
        f"the API: {address.url}/docs). Ctrl-C stops."
    )
    try:
        async with _text_child_ahead(runtime):
            await server.serve(sockets=[sock])
    finally:
        announcement.withdraw(settings.home, address)
        loading.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await loading


async def _preload(
    runtime: Runtime, names: tuple[str, ...], server: uvicorn.Server, say: Callable[[str], None]
) -> None:
    """Load the named models; one that cannot be loaded stops the server."""
    for name in names:
        try:
            async with runtime.manager.lease(name) as lease:
                say(f"{lease.model.name} is loaded.")
        except FreeholdError:
            server.should_exit = True
            raise


@contextlib.asynccontextmanager
async def _text_child_ahead(runtime: Runtime) -> AsyncIterator[None]:
    """Start the text child while the server already answers."""
    starting = asyncio.create_task(runtime.text.start(), name="text child")
    try:
        yield
    finally:
        starting.cancel()
        with contextlib.suppress(asyncio.CancelledError, FreeholdError):
            await starting
