"""One vLLM server of ours: started by its keeper, watched, ended.

start ──▶ keeper ──▶ vLLM ──▶ its socket answers        (any) ──close──▶ nothing is left
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import httpx2

from freehold.domain.errors import EngineCrashed, LoadFailed
from freehold.engines.vllm import launch
from freehold.engines.vllm.door import Door, DoorTransport
from freehold.engines.vllm.doorkeeper import KEEPER, SOCKET
from freehold.engines.vllm.launch import VllmConfig
from freehold.engines.vllm.messages import Exited, FromKeeper, Launch, Ready, Started
from freehold.engines.vllm.starting import Start
from freehold.process.child import Child, describe_exit, last_line
from freehold.process.frames import WireError

log = logging.getLogger(__name__)

START_SECONDS = 60.0


class VllmServer:
    """``inherited`` is the environment that it may have parts of, ``cache`` a folder for what it
    compiles. Through a ``door`` where this process can make no connections. Owned by one event
    loop.
    """

    def __init__(
        self,
        config: VllmConfig,
        inherited: Mapping[str, str],
        cache: Path,
        door: Door | None = None,
    ) -> None:
        self._door = door
        self.config = config
        self._inherited = inherited
        self._cache = cache
        self._folder: Path | None = None
        self._keeper: Child[FromKeeper] | None = None
        self._watching: asyncio.Task[None] | None = None
        self.pid: int | None = None
        self.failure: EngineCrashed | None = None
        self.ended = asyncio.Event()
        self.answering = False
        self.starting = Start()

    @property
    def socket(self) -> Path:
        """Where it answers, after `start`."""
        assert self._folder is not None
        return self._folder / SOCKET

    async def start(self) -> None:
        """Raises `LoadFailed`. It has not loaded the model yet."""
        name = f"vLLM {self.config.model}"
        if self._door is not None:
            keeper, self._folder = await self._door.keeper(name, self._hear)
        else:
            # Short: a UNIX socket's path has 107 characters. Nobody else can enter it.
            self._folder = Path(tempfile.mkdtemp(prefix="freehold-"))
            keeper = await Child[FromKeeper].start(
                name, KEEPER, incoming=FromKeeper, heard=self._hear
            )
        self._keeper = keeper
        try:
            async with asyncio.timeout(START_SECONDS):
                first = await keeper.channel.receive()
                if not isinstance(first, Ready):
                    raise LoadFailed("The process that starts vLLM did not start properly.")
                keeper.channel.send_soon(
                    Launch(
                        launch.arguments(self.config, self.socket),
                        launch.environ(self.config, self._inherited, self._cache),
                    )
                )
                started = await keeper.channel.receive()
        except (TimeoutError, WireError) as error:
            raise LoadFailed("The process that starts vLLM did not start properly.") from error
        if not isinstance(started, Started):
            raise LoadFailed(f"vLLM could not be started: {last_line(keeper.last_words())}")
        if started.exposed is not None:
            log.warning("vLLM keeps the network: %s.", started.exposed)
        self.pid = started.pid
        self._watching = asyncio.create_task(self._watch(keeper), name="vLLM watcher")

    def transport(self) -> httpx2.AsyncBaseTransport:
        """Connections to it, after `start`."""
        if self._door is not None:
            return DoorTransport(self._door, self.socket.parent)
        limits = httpx2.Limits(max_connections=None)
        return httpx2.AsyncHTTPTransport(uds=str(self.socket), limits=limits)

    def _hear(self, line: str) -> None:
        """A line of its log; once it answers, the log tells of requests and is not looked at."""
        if not self.answering:
            before, self.starting = self.starting, self.starting.heard(line)
            if self.starting.stage != before.stage:
                log.info("%s: vLLM is %s", self.config.model, self.starting.stage)

    async def _watch(self, keeper: Child[FromKeeper]) -> None:
        """Notice the end of vLLM, or of its keeper."""
        status: int | None = None
        with contextlib.suppress(WireError):
            message = await keeper.channel.receive()
            status = message.status if isinstance(message, Exited) else None
        how = "lost its keeper" if status is None else describe_exit(status)
        log.warning("%s: vLLM %s", self.config.model, how)
        # Once it answers, what it says as it dies may hold what it was asked.
        hint = None if self.answering else self._told(keeper.last_words())
        self.failure = self.failure or EngineCrashed(f"vLLM {how}.", hint=hint)
        self.ended.set()

    def _told(self, last_words: str) -> str | None:
        """What ended it while it started: it is several processes, and the last to speak says
        least.
        """
        trouble = self.starting.trouble
        return f"vLLM says: {trouble}" if trouble else _telling_line(last_words)

    def give_up(self, why: str) -> EngineCrashed:
        """It lives and is of no use any more."""
        self.failure = self.failure or EngineCrashed(f"vLLM {why}.")
        self.ended.set()
        return self.failure

    async def close(self) -> None:
        """Nothing of it is left afterwards. Safe to call twice."""
        self.failure = self.failure or EngineCrashed(f"{self.config.model} has been unloaded.")
        self.ended.set()
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait({self._watching})
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            await keeper.stop(grace=15.0)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


def _telling_line(words: str) -> str | None:
    """The last line of its log that speaks of an error."""
    lines = [line.strip() for line in words.splitlines() if "Error" in line]
    return f"vLLM says: {lines[-1][:300]}" if lines else None
