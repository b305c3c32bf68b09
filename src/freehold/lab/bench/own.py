"""A server of ours for one measurement: started on a free port of this machine, and stopped."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import re
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence

from freehold.domain.errors import LoadFailed
from freehold.domain.settings import environment
from freehold.process.child import describe_exit

# It must not outlive a measurement that was killed.
_START = (
    "from freehold.process.inside import die_with_parent; die_with_parent(); "
    "from freehold.cli.main import main; main()"
)
_SERVING = re.compile(r"Serving on (http://\S+) ")
_LOADED = " is loaded."
_STOP_SECONDS = 20.0
_LINES_KEPT = 8
_MAX_LINE = 64 * 1024


class OwnServer:
    """A running `freehold serve`. ``url`` is without a path."""

    def __init__(self, process: asyncio.subprocess.Process, url: str) -> None:
        self.url = url
        self._process = process

    @property
    def ended(self) -> str | None:
        """How it ended, ``was ended by SIGKILL``; None while it runs."""
        status = self._process.returncode
        return None if status is None else describe_exit(status)


@contextlib.asynccontextmanager
async def own_server(
    model: str, flags: Sequence[str], say: Callable[[str], None]
) -> AsyncIterator[OwnServer]:
    """Serve ``model``, loaded when this is entered. What the server has to say meanwhile goes to
    ``say``. Raises `LoadFailed` if it does not come up.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-c", _START, "serve", model),
        *("--host", "127.0.0.1", "--port", "0", *flags),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        limit=_MAX_LINE,
        env=dict(environment()),
        start_new_session=True,  # Ctrl-C is ours: it ends the measurement first
    )
    reading: asyncio.Task[None] | None = None
    try:
        assert process.stderr is not None
        url = await _until_loaded(process, process.stderr, say)
        reading = asyncio.create_task(_drain(process.stderr), name="server's stderr")
        yield OwnServer(process, url)
    finally:
        await _stop(process)
        if reading is not None:
            reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reading


async def _until_loaded(
    process: asyncio.subprocess.Process, stderr: asyncio.StreamReader, say: Callable[[str], None]
) -> str:
    """The server's address, once its model is loaded."""
    url: str | None = None
    last: collections.deque[str] = collections.deque(maxlen=_LINES_KEPT)
    async for line in _lines(stderr):
        last.append(line)
        if match := _SERVING.search(line):
            url = match[1]
        elif line.endswith(_LOADED) and url is not None:
            return url
        else:
            say(line)
    status = await process.wait()
    raise LoadFailed(
        f"The server that was to be measured {describe_exit(status)} before it had begun.",
        hint=f"Its last words: {last[-1]}" if last else "Try `freehold serve` by itself.",
    )


async def _drain(stderr: asyncio.StreamReader) -> None:
    """Nobody reads a server's remarks while it is measured; a full pipe would stop it."""
    async for _ in _lines(stderr):
        pass


async def _lines(stderr: asyncio.StreamReader) -> AsyncIterator[str]:
    while True:
        try:
            line = await stderr.readline()
        except ValueError:  # a line beyond the limit: drop it, keep reading
            continue
        if not line:
            return
        yield line.decode("utf-8", "replace").rstrip()


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
    try:
        await asyncio.wait_for(process.wait(), _STOP_SECONDS)
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
