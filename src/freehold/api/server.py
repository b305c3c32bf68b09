"""Binding the one TCP socket and running the application on it until told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import math
import os
import secrets
import signal
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator

import uvicorn

from freehold.api.app import build_app
from freehold.api.draining import Draining
from freehold.api.guard import Rules
from freehold.api.limits import Limits, bounded, grant
from freehold.api.pulls import Pulls
from freehold.api.readiness import Readiness
from freehold.api.recording import Recorder
from freehold.api.reloading import Reload
from freehold.api.stream import SILENCE_SECONDS
from freehold.api.web.sessions import Sessions
from freehold.domain.errors import FreeholdError, InvalidSetting, PortInUse
from freehold.domain.hosts import is_loopback
from freehold.domain.settings import Settings
from freehold.process.notify import Notifier
from freehold.runtime import server as announcement
from freehold.runtime.access.key_file import any_holds
from freehold.runtime.server import ServerAddress
from freehold.runtime.wiring import Runtime

log = logging.getLogger(__name__)

# After the drain: time for the last errors to be written, before connections are cut.
LAST_WORDS_SECONDS = 5


def bind(settings: Settings) -> socket.socket:
    """The listening socket. Raises `PortInUse`, or `InvalidSetting` for an address not ours
    or one that others can reach without a key.
    """
    host, port = settings.host, settings.port
    _require_a_key(settings)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Named, or asyncio does not know that it is TCP, and leaves small answers to Nagle's algorithm:
    # they would wait 40 ms for the client to acknowledge their headers.
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
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


def _keys_required(settings: Settings) -> bool:
    return settings.require_keys or settings.api_key is not None or not is_loopback(settings.host)


def _require_a_key(settings: Settings) -> None:
    """Raise `InvalidSetting` where one is needed and nobody could have one."""
    if not _keys_required(settings) or settings.api_key is not None or any_holds(settings.home):
        return
    why = (
        "The setting require_keys is on"
        if is_loopback(settings.host)
        else f"{settings.host} can be reached by other machines"
    )
    raise InvalidSetting(
        f"{why}, and there is no API key.",
        hint="Make one with: freehold key create --name NAME. Or set FREEHOLD_API_KEY to a long "
        "random text.",
    )


def url_of(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class _Server(uvicorn.Server):
    """uvicorn, except that the signals are ours: its own way ends the process mid-clean-up.

    SIGINT, SIGTERM: drain, then end; the second one does not wait. SIGHUP: read the settings again;
    but where it says that our terminal has closed, it means the end.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        draining: Draining,
        drain_seconds: Callable[[], float],
        reread: Callable[[], None],
        notifier: Notifier,
    ) -> None:
        super().__init__(config)
        self._draining = draining
        self._drain_seconds = drain_seconds
        self._reread = reread
        self._notifier = notifier
        self._had_terminal = _terminal_there()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield  # signals come to the main thread only: whoever runs us there stops us
            return
        loop = asyncio.get_running_loop()
        handlers = {
            signal.SIGINT: self.stop,
            signal.SIGTERM: self.stop,
            signal.SIGHUP: self._hang_up,
        }
        for number, handler in handlers.items():
            loop.add_signal_handler(number, handler)
        try:
            yield
        finally:
            for number in handlers:
                loop.remove_signal_handler(number)

    def stop(self) -> None:
        """Drain, then end; called again, end at once."""
        if self.should_exit:
            self.force_exit = True  # the second signal does not wait for streams
            return
        self.should_exit = True
        seconds = self._drain_seconds()
        self._draining.begin(seconds)
        self.config.timeout_graceful_shutdown = math.ceil(seconds) + LAST_WORDS_SECONDS
        self._notifier.stopping()

    def _hang_up(self) -> None:
        if self._had_terminal and not _terminal_there():
            self.stop()
        else:
            self._reread()


def _terminal_there() -> bool:
    """Whether this process has a terminal that is still open."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


async def serve(
    runtime: Runtime,
    sock: socket.socket,
    *,
    preload: tuple[str, ...],
    say: Callable[[str], None],
    reread: Callable[[], Settings] | None = None,
    silence: float = SILENCE_SECONDS,
) -> None:
    """Serve until SIGINT or SIGTERM. Raises the error of a model that cannot be preloaded.

    ``reread`` resolves the settings anew, for SIGHUP; None: they cannot change. ``silence`` as in
    `build_app`.
    """
    settings = runtime.settings
    address = ServerAddress(os.getpid(), url_of(sock), secrets.token_hex(16))
    rules = Rules(
        port=sock.getsockname()[1],
        keys_required=_keys_required(settings),
        hosts=tuple(name.lower() for name in settings.hosts),
        origins=settings.cors_origins,
    )
    app = build_app(runtime, rules, address.instance, silence=silence)
    notifier = Notifier.from_environment()
    server = _Server(
        _configured(Recorder(app, runtime.meters), settings),
        app.state.draining,
        lambda: runtime.settings.drain,
        Reload(runtime, reread or (lambda: runtime.settings), notifier),
        notifier,
    )
    readiness: Readiness = app.state.readiness
    readiness.awaited = list(dict.fromkeys([*settings.pin, *preload]))
    preloading = _preload(runtime, readiness, server, say, notifier)
    loading = asyncio.create_task(preloading, name="preload")
    alive = asyncio.create_task(notifier.signs_of_life(), name="signs of life")
    announcement.announce(settings.home, address)
    runtime.manager.upstreams.start()
    say(
        f"Serving on {address.url} (for OpenAI's clients: {address.url}/v1; "
        f"the API: {address.url}/docs). Ctrl-C stops."
    )
    if rules.keys_required:
        sessions: Sessions = app.state.sessions
        say(f"The page, for one browser, once: {address.url}/enter?code={sessions.code}")
    try:
        async with _text_child_ahead(runtime):
            await server.serve(sockets=[sock])
    finally:
        announcement.withdraw(settings.home, address)
        pulls: Pulls = app.state.pulls
        await pulls.close()
        loading.cancel()
        alive.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await loading


def _configured(app: Recorder, settings: Settings) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="off",
        server_header=False,
        http=bounded(Limits(grant(settings.connections))),
        ws="none",
        timeout_graceful_shutdown=settings.drain + LAST_WORDS_SECONDS,
    )


async def _preload(
    runtime: Runtime,
    readiness: Readiness,
    server: _Server,
    say: Callable[[str], None],
    notifier: Notifier,
) -> None:
    """Load the models that are awaited, to stay; one that cannot be loaded stops the server."""
    for name in tuple(readiness.awaited):
        notifier.status(f"Loading {name}.")
        pin = name in runtime.settings.pin
        try:
            lease = await runtime.manager.load(name, pin=pin, keep_alive=math.inf)
        except FreeholdError:
            server.stop()
            raise
        say(f"{lease.model.name} is loaded.")
        readiness.awaited.remove(name)
    notifier.ready()


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
