"""The gateway's face of a worker: the `Engine` protocol over the wire.

All of it runs on one event loop. A reader task hands each frame's deltas to the
requests they belong to; a request that is read slowly merges its deltas.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import struct
import time
from collections.abc import AsyncGenerator
from typing import Any, TypeVar

from freehold.domain.chat import EmbedRequest, GenerateRequest
from freehold.domain.errors import (
    EngineCrashed,
    EngineError,
    FreeholdError,
    InvalidRequest,
    LoadFailed,
)
from freehold.domain.events import Event, TextDelta
from freehold.engines.base import (
    Adapter,
    Capabilities,
    Capability,
    EngineConfig,
    begun_before,
    require_embeddable,
    require_possible,
)
from freehold.engines.llamacpp.affinity import variables
from freehold.engines.llamacpp.messages import (
    AdapterReply,
    AddAdapter,
    Cancel,
    Embed,
    Embedded,
    Failure,
    FromWorker,
    Generate,
    Inspect,
    Inspected,
    Load,
    Loaded,
    Loading,
    Ready,
    Refused,
    RemoveAdapter,
    SequenceDelta,
    Step,
)
from freehold.process.child import Child, describe_exit
from freehold.process.frames import WireError

log = logging.getLogger(__name__)

T = TypeVar("T")

_GENERATING = frozenset(Capability) - {Capability.EMBED}
WORKER = "freehold.engines.llamacpp.worker"
START_SECONDS = 60.0
# A client that has not read for this long has gone, whatever its socket says.
STALL_SECONDS = 120.0


class _Stream:
    """Deltas of one request between the reader task and the request's iterator."""

    def __init__(self, request_id: str) -> None:
        self.request_id = request_id
        self._pending: SequenceDelta | None = None
        self._since = 0.0
        self._error: FreeholdError | None = None
        self._ready = asyncio.Event()

    def push(self, delta: SequenceDelta) -> None:
        if self._pending is None:
            self._pending, self._since = delta, time.monotonic()
        else:
            self._pending = self._pending.then(delta)
        self._ready.set()

    def fail(self, error: FreeholdError) -> None:
        self._error = error
        self._ready.set()

    @property
    def stalled(self) -> bool:
        return self._pending is not None and time.monotonic() - self._since > STALL_SECONDS

    async def first(self, deadline: float | None) -> SequenceDelta:
        """As `next`, before ``deadline``."""
        async with begun_before(deadline):
            return await self.next()

    async def next(self) -> SequenceDelta:
        """All that has come since the last call. What came before a failure is given first."""
        await self._ready.wait()
        delta, self._pending = self._pending, None
        if delta is not None:
            if self._error is None:
                self._ready.clear()
            return delta
        assert self._error is not None
        raise self._error


class LlamaCppEngine:
    """One worker process and the requests inside it. ``module`` is what runs there."""

    def __init__(self, config: EngineConfig, module: str = WORKER) -> None:
        self._config = config
        self._module = module
        self._child: Child[FromWorker] | None = None
        self._streams: dict[str, _Stream] = {}
        self._embeddings: dict[str, asyncio.Queue[Embedded | EngineCrashed]] = {}
        self._adapter_replies: dict[str, asyncio.Future[AdapterReply]] = {}
        self._inspections: list[asyncio.Future[Inspected]] = []
        self._reader: asyncio.Task[None] | None = None
        self._capabilities: Capabilities | None = None
        self._progress: float | None = None
        self._dead: EngineCrashed | None = None
        self._closing = False

    @property
    def capabilities(self) -> Capabilities:
        if self._capabilities is None:
            raise LoadFailed("The engine is not loaded.")
        return self._capabilities

    @property
    def failure(self) -> EngineCrashed | None:
        return self._dead

    @property
    def pid(self) -> int | None:
        return self._child.pid if self._child is not None else None

    @property
    def progress(self) -> float | None:
        return self._progress

    async def load(self) -> None:
        child = await Child[FromWorker].start(
            f"worker {self._config.model}",
            self._module,
            incoming=FromWorker,
            variables=variables(self._config.affinity),
        )
        self._child = child
        try:
            async with asyncio.timeout(START_SECONDS):
                first = await child.channel.receive()
            if not isinstance(first, Ready):
                raise await self._load_crashed(child)
            child.channel.send_soon(Load(self._config))
            while isinstance(reply := await child.channel.receive(), Loading):
                self._progress = reply.progress
        except (TimeoutError, WireError) as error:
            await child.discard()
            raise LoadFailed("The worker process did not start properly.") from error
        except asyncio.CancelledError:
            await child.discard()
            raise
        match reply:
            case Loaded():
                log.info("%s loaded (%s)", self._config.model, reply.description)
                self._capabilities = Capabilities(
                    _features(reply), reply.context, self._config.parallel
                )
                self._reader = asyncio.create_task(self._read(child), name="worker reader")
            case Refused(message, hint):
                await child.stop(grace=1.0)
                raise LoadFailed(
                    message,
                    hint=hint or _telling_line(child.last_words()),
                    values={"model": self._config.model},
                )
            case _:
                raise await self._load_crashed(child)

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Event, None]:
        child = self._require_alive()
        require_possible(request, self.capabilities)
        stream = _Stream(request.request_id)
        self._streams[request.request_id] = stream
        done = False
        try:
            child.channel.send_soon(Generate(request))
            delta = await stream.first(request.deadline)
            while delta.processed is None and delta.read is not None and delta.failed is None:
                yield delta.read
                delta = await stream.first(request.deadline)
            while True:
                if delta.processed is not None:
                    yield delta.processed
                if delta.text or delta.tokens:
                    yield TextDelta(delta.text, delta.tokens, delta.logprobs)
                if delta.failed is not None:
                    done = True
                    raise _failure(delta.failed)
                if delta.finished is not None:
                    done = True
                    yield delta.finished
                    return
                delta = await stream.next()
        finally:
            self._streams.pop(request.request_id, None)
            if not done and self._dead is None and not self._closing:
                child.channel.send_soon(Cancel(request.request_id))

    async def embed(self, request: EmbedRequest) -> tuple[tuple[float, ...], ...]:
        child = self._require_alive()
        require_embeddable(request, self.capabilities)
        arriving: asyncio.Queue[Embedded | EngineCrashed] = asyncio.Queue()
        self._embeddings[request.request_id] = arriving
        vectors: list[tuple[float, ...]] = []
        done = False
        try:
            child.channel.send_soon(Embed(request))
            async with begun_before(request.deadline):
                reply = await arriving.get()
            while True:
                if isinstance(reply, EngineCrashed):
                    raise reply
                if reply.failed is not None:
                    done = True
                    raise _failure(reply.failed)
                vectors += [_floats(vector) for vector in reply.vectors]
                if len(vectors) == len(request.inputs):
                    done = True
                    return tuple(vectors)
                reply = await arriving.get()
        finally:
            self._embeddings.pop(request.request_id, None)
            if not done and self._dead is None and not self._closing:
                child.channel.send_soon(Cancel(request.request_id))

    async def add_adapter(self, adapter: Adapter) -> None:
        await self._change_adapters(adapter.name, AddAdapter(adapter))

    async def remove_adapter(self, name: str) -> None:
        await self._change_adapters(name, RemoveAdapter(name))

    async def _change_adapters(self, name: str, command: AddAdapter | RemoveAdapter) -> None:
        if name in self._adapter_replies:
            raise InvalidRequest(f"The adapter {name!r} is just being changed.", field="adapters")
        reply = asyncio.get_running_loop().create_future()
        self._adapter_replies[name] = reply
        try:
            self._require_alive().channel.send_soon(command)
            refused = (await reply).refused
        finally:
            del self._adapter_replies[name]
        if refused is not None:
            raise _failure(refused)

    async def inspect(self) -> Inspected:
        """What the worker has been doing, for operators and benchmarks."""
        answer: asyncio.Future[Inspected] = asyncio.get_running_loop().create_future()
        self._inspections.append(answer)
        self._require_alive().channel.send_soon(Inspect())
        return await answer

    async def close(self) -> None:
        self._closing = True
        child, self._child = self._child, None
        if child is not None:
            await child.stop(grace=2.0)
        if self._reader is not None:
            with contextlib.suppress(asyncio.CancelledError):
                await self._reader

    async def _read(self, child: Child[FromWorker]) -> None:
        """The reader task: frames to streams, until the worker is gone."""
        try:
            while (message := await child.channel.receive()) is not None:
                self._hear(child, message)
        except WireError:
            log.exception("the worker sent what is no message")
            child.kill()
        returncode = await child.wait()
        if not self._closing:
            log.warning(
                "the worker of %s %s; its last words: %s",
                self._config.model,
                describe_exit(returncode),
                child.last_words(),
            )
        self._dead = EngineCrashed(
            f"The process running {self._config.model} {describe_exit(returncode)}.",
            hint="It is started again; repeat the request.",
            values={"model": self._config.model},
        )
        self._fail_all(self._dead)

    def _hear(self, child: Child[FromWorker], message: FromWorker) -> None:
        match message:
            case Step():
                self._deliver(child, message)
            case Embedded(request_id):
                if request_id in self._embeddings:  # whoever asked may have left
                    self._embeddings[request_id].put_nowait(message)
            case AdapterReply(name=name) if name in self._adapter_replies:
                _resolve(self._adapter_replies[name], message)
            case Inspected() if self._inspections:
                _resolve(self._inspections.pop(0), message)
            case _:
                log.error("unexpected message %s", type(message).__name__)

    def _fail_all(self, error: EngineCrashed) -> None:
        for stream in self._streams.values():
            stream.fail(error)
        for arriving in self._embeddings.values():
            arriving.put_nowait(error)
        waiting: list[asyncio.Future[Any]] = [*self._adapter_replies.values(), *self._inspections]
        for future in waiting:
            if not future.done():
                future.set_exception(error)

    def _deliver(self, child: Child[FromWorker], step: Step) -> None:
        for delta in step.deltas:
            stream = self._streams.get(delta.request_id)
            if stream is None:
                continue
            stream.push(delta)
            if stream.stalled:
                log.warning("request %s is not being read; it is cancelled", delta.request_id)
                child.channel.send_soon(Cancel(delta.request_id))
                stream.fail(EngineError("The stream was not read and has been cancelled."))
                del self._streams[delta.request_id]

    def _require_alive(self) -> Child[FromWorker]:
        if self._dead is not None:
            raise self._dead
        if self._child is None:
            raise EngineCrashed(f"{self._config.model} is not loaded.")
        return self._child

    async def _load_crashed(self, child: Child[FromWorker]) -> FreeholdError:
        returncode = await child.stop(grace=5.0)
        log.warning(
            "loading %s: worker %s: %s",
            self._config.model,
            describe_exit(returncode),
            child.last_words(),
        )
        return EngineCrashed(
            f"The process loading {self._config.model} {describe_exit(returncode)}.",
            hint=_telling_line(child.last_words())
            or "`freehold doctor` checks the native build; "
            "too little memory is the other usual reason.",
            values={"model": self._config.model},
        )


def _features(loaded: Loaded) -> frozenset[Capability]:
    embedding = frozenset({Capability.EMBED} if loaded.embeds else ())
    return embedding | _GENERATING if loaded.generates else embedding


def _floats(vector: bytes) -> tuple[float, ...]:
    return struct.unpack(f"<{len(vector) // 4}f", vector)


def _failure(failed: Failure) -> FreeholdError:
    if failed.field is not None:
        return InvalidRequest(failed.message, field=failed.field)
    return EngineError(failed.message)


def _resolve(future: asyncio.Future[T], value: T) -> None:
    if not future.done():  # whoever asked may have left
        future.set_result(value)


def _telling_line(log_text: str) -> str | None:
    """The last line of a native log that speaks of an error."""
    lines = [line.strip() for line in log_text.splitlines() if "error" in line.lower()]
    return f"llama.cpp says: {lines[-1]}" if lines else None
