"""The gateway's face of a vLLM server: the `Engine` protocol over HTTP on a UNIX socket.

    load ──▶ keeper ──▶ vLLM ──▶ its socket answers

All of it runs on one event loop. A request is one HTTP exchange (two, where an answer is
constrained after reasoning); closing it makes vLLM abort the sequence.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import tempfile
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path

import httpx2

from freehold.domain.chat import EmbedRequest, GenerateRequest
from freehold.domain.errors import EngineCrashed, EngineError, InvalidRequest, LoadFailed
from freehold.domain.events import Event
from freehold.engines.base import (
    Adapter,
    Capabilities,
    Capability,
    begun_before,
    require_embedding,
    require_possible,
)
from freehold.engines.vllm import asking, launch
from freehold.engines.vllm.hearing import chunk_of, error_of
from freehold.engines.vllm.launch import VllmConfig
from freehold.engines.vllm.messages import Exited, FromKeeper, Launch, Ready, Started
from freehold.engines.vllm.telling import Telling
from freehold.process.child import Child, describe_exit
from freehold.process.frames import WireError
from freehold.text.token_table import TokenTable

log = logging.getLogger(__name__)

KEEPER = "freehold.engines.vllm.keeper"
START_SECONDS = 60.0
# Loading a large model from a slow disk, compiling kernels for it on a card.
LOAD_SECONDS = 3600.0
_LOOK_SECONDS = 0.25
# How long a broken connection waits for the reason to be known.
_LAST_WORDS_SECONDS = 5.0

FEATURES = frozenset(
    {
        Capability.GENERATE,
        Capability.SEED,
        Capability.STOP,
        Capability.LOGPROBS,
        Capability.CONSTRAINTS,
        Capability.PREFIX_CACHE,
    }
)

ReadTable = Callable[[], Awaitable[TokenTable]]


class VllmEngine:
    """One vLLM server and the requests inside it.

    ``table`` reads the model's vocabulary, ``inherited`` is the environment that it may have parts
    of, ``cache`` a folder for what it compiles.
    """

    def __init__(
        self, config: VllmConfig, table: ReadTable, inherited: Mapping[str, str], cache: Path
    ) -> None:
        self._config = config
        self._read_table = table
        self._inherited = inherited
        self._cache = cache
        self._folder: Path | None = None
        self._keeper: Child[FromKeeper] | None = None
        self._http: httpx2.AsyncClient | None = None
        self._watching: asyncio.Task[None] | None = None
        self._table = TokenTable([], frozenset(), ())
        self._pid: int | None = None
        self._dead: EngineCrashed | None = None
        self._ended = asyncio.Event()
        self._loaded = False

    @property
    def capabilities(self) -> Capabilities:
        if not self._loaded:
            raise LoadFailed("The engine is not loaded.")
        return Capabilities(FEATURES, self._config.context, self._config.parallel)

    @property
    def failure(self) -> EngineCrashed | None:
        return self._dead

    @property
    def pid(self) -> int | None:
        """vLLM's own process, which answers; others compute for it."""
        return self._pid

    async def load(self) -> None:
        self._table = await self._read_table()
        # Short: a UNIX socket's path has 107 characters. Nobody else can enter it.
        self._folder = Path(tempfile.mkdtemp(prefix="freehold-"))
        socket = self._folder / "vllm.sock"
        try:
            await self._launch(socket)
            transport = httpx2.AsyncHTTPTransport(
                uds=str(socket), limits=httpx2.Limits(max_connections=None)
            )
            self._http = httpx2.AsyncClient(
                transport=transport, base_url="http://vllm", timeout=None, trust_env=False
            )
            async with asyncio.timeout(LOAD_SECONDS):
                await self._until_it_answers()
        except TimeoutError:
            raise LoadFailed(f"vLLM did not get ready within {LOAD_SECONDS:.0f} s.") from None
        self._loaded = True
        log.info("%s loaded by vLLM, process %s", self._config.model, self._pid)

    async def _launch(self, socket: Path) -> None:
        keeper = await Child[FromKeeper].start(
            f"vLLM {self._config.model}", KEEPER, incoming=FromKeeper
        )
        self._keeper = keeper
        try:
            async with asyncio.timeout(START_SECONDS):
                first = await keeper.channel.receive()
                if not isinstance(first, Ready):
                    raise LoadFailed("The process that starts vLLM did not start properly.")
                keeper.channel.send_soon(
                    Launch(
                        launch.arguments(self._config, socket),
                        launch.environ(self._config, self._inherited, self._cache),
                    )
                )
                started = await keeper.channel.receive()
        except (TimeoutError, WireError) as error:
            raise LoadFailed("The process that starts vLLM did not start properly.") from error
        if not isinstance(started, Started):
            raise LoadFailed(f"vLLM could not be started: {_last_line(keeper.last_words())}")
        if started.exposed is not None:
            log.warning("vLLM keeps the network: %s.", started.exposed)
        self._pid = started.pid
        self._watching = asyncio.create_task(self._watch(keeper), name="vLLM watcher")

    async def _watch(self, keeper: Child[FromKeeper]) -> None:
        """Notice the end of vLLM, or of its keeper."""
        status: int | None = None
        with contextlib.suppress(WireError):
            message = await keeper.channel.receive()
            status = message.status if isinstance(message, Exited) else None
        how = "lost its keeper" if status is None else describe_exit(status)
        last = keeper.last_words()
        log.warning("vLLM %s: %s", how, last)
        self._dead = self._dead or EngineCrashed(f"vLLM {how}.", hint=_telling_line(last))
        self._ended.set()

    async def _until_it_answers(self) -> None:
        """Its socket is there when everything is loaded."""
        assert self._http is not None
        while True:
            if self._dead is not None:
                raise LoadFailed(
                    f"vLLM could not load {self._config.model}: it {self._dead.message[5:]}",
                    hint=self._dead.hint,
                )
            with contextlib.suppress(httpx2.TransportError):
                if (await self._http.get("/health")).status_code == 200:
                    return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_SECONDS):
                    await self._ended.wait()

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Event, None]:
        if self._dead is not None:
            raise self._dead
        require_possible(request, self.capabilities)
        asking.require_sampled(request.sampling)
        if request.prompt_logprobs is not None:
            raise InvalidRequest(
                "The vLLM engine does not give log-probabilities of the prompt.", field="echo"
            )
        telling = Telling(
            asking.seeded(request), self._table, self._config.context, time.monotonic()
        )
        another = True
        while another:
            body = asking.body(telling.request, self._table.ends, telling.constraint)
            async with self._exchange(body, telling.request.deadline) as lines:
                async for line in lines:
                    chunk = chunk_of(line)
                    for event in telling.hear(chunk, time.monotonic()) if chunk else ():
                        yield event
                    if telling.cut:
                        break
            another = telling.go_on()
        for event in telling.end(time.monotonic()):
            yield event

    @contextlib.asynccontextmanager
    async def _exchange(
        self, body: dict[str, object], deadline: float | None
    ) -> AsyncIterator[AsyncIterator[str]]:
        """The lines of one answer, of which the first comes before ``deadline``. Leaving it makes
        vLLM stop.
        """
        assert self._http is not None
        try:
            async with contextlib.AsyncExitStack() as held:
                async with begun_before(deadline):
                    response = await held.enter_async_context(
                        self._http.stream("POST", "/inference/v1/generate", json=body)
                    )
                    if response.status_code != 200:
                        raise _refusal(response.status_code, await response.aread())
                    lines = response.aiter_lines()
                    first = await anext(lines, "")
                yield _with(first, lines)
        except httpx2.TransportError as error:
            # It is dead or dying; its watcher knows more in a moment.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LAST_WORDS_SECONDS):
                    await self._ended.wait()
            raise self._dead or EngineCrashed(f"vLLM broke off: {error}.") from error

    async def embed(self, request: EmbedRequest) -> tuple[tuple[float, ...], ...]:
        require_embedding(self.capabilities)
        raise EngineError("The vLLM engine does not embed.")

    async def add_adapter(self, adapter: Adapter) -> None:
        raise InvalidRequest("The vLLM engine does not apply adapters yet.", field="adapters")

    async def remove_adapter(self, name: str) -> None:
        raise InvalidRequest("The vLLM engine has no adapters.", field="adapters")

    async def close(self) -> None:
        self._dead = self._dead or EngineCrashed(f"{self._config.model} has been unloaded.")
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait({self._watching})
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            await keeper.stop(grace=15.0)
        if self._http is not None:
            await self._http.aclose()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


async def _with(first: str, lines: AsyncIterator[str]) -> AsyncIterator[str]:
    yield first
    async for line in lines:
        yield line


def _refusal(status: int, body: bytes) -> EngineError | InvalidRequest:
    """What vLLM says of a request that it does not take."""
    try:
        said = error_of(body)
    except EngineError:
        said = body.decode("utf-8", "replace")[:300]
    if status in (400, 422):
        return InvalidRequest(f"vLLM refuses the request: {said}")
    return EngineError(f"vLLM answered with status {status}: {said}")


def _last_line(words: str) -> str:
    lines = [line.strip() for line in words.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it says nothing"


def _telling_line(words: str) -> str | None:
    """The last line of its log that speaks of an error."""
    lines = [line.strip() for line in words.splitlines() if "Error" in line]
    return f"vLLM says: {lines[-1][:300]}" if lines else None
