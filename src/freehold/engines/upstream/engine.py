"""An upstream as an engine: conversations in, parts of an answer out.

request ──▶ `asking` ──▶ `replicas` chooses ──▶ `client` asks ──▶ `reading` ──▶ parts
                             ▲                     │ a fault before the first token
                             └──── another one ◀───┘
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from freehold.domain.answers import Part
from freehold.domain.chat import MessagesRequest
from freehold.domain.embedding import Vector
from freehold.domain.errors import (
    FreeholdError,
    RequestError,
    UpstreamFailed,
    UpstreamUnavailable,
)
from freehold.domain.upstreams import Upstream, UpstreamKind, host_of
from freehold.engines.base import Capability
from freehold.engines.upstream.asking import beginning_of, body_of, expected_tokens
from freehold.engines.upstream.client import (
    SILENCE_SECONDS,
    Checked,
    Client,
    Fault,
    encoded,
    misbehaved,
)
from freehold.engines.upstream.reading import Chunk, Nonsense, Reader, Unusable
from freehold.engines.upstream.replicas import Health, Replicas, Standing, Ticket

log = logging.getLogger(__name__)

# A request that was with a replica when that broke may be why. It is not taken to all of them.
_MOST_BROKEN = 2

_COMMON = frozenset(
    {
        *(Capability.GENERATE, Capability.EMBED, Capability.STOP),
        *(Capability.LOGPROBS, Capability.CONSTRAINTS),
    }
)


@dataclass(frozen=True)
class Rhythm:
    """Seconds. ``check``: between two checks of a replica that is well; ``silence``: the longest
    between two events of an answer; ``patience``: how long a request waits for a replica to be
    readmitted where there is none.
    """

    check: float = 10.0
    silence: float = SILENCE_SECONDS
    patience: float = 10.0


@dataclass(frozen=True)
class UpstreamFigures:
    """``retries`` are requests that another replica was asked to answer. ``context`` is in tokens;
    None: not known.
    """

    name: str
    context: int | None
    replicas: tuple[Standing, ...]
    retries: int


class UpstreamEngine:
    """One upstream with all its replicas. ``rhythm`` is for tests to change."""

    def __init__(self, upstream: Upstream, rhythm: Rhythm | None = None) -> None:
        self.upstream = upstream
        self._rhythm = rhythm or Rhythm()
        self._replicas = Replicas(upstream.urls)
        self._client: Client | None = None
        self._checking: asyncio.Task[None] | None = None
        self._due = asyncio.Event()  # the next check is sooner than it was
        self._turned = asyncio.Event()  # somebody may take a request who did not
        self._unbegun: dict[int, tuple[Ticket, asyncio.Timeout]] = {}
        self._retries = 0
        self._context: int | None = None
        self._uncounted = False
        self._closed = False

    # What it is

    @property
    def features(self) -> frozenset[Capability]:
        # OpenAI calls its own seed a best effort.
        seeded = self.upstream.kind is not UpstreamKind.OPENAI
        return _COMMON | {Capability.SEED} if seeded else _COMMON

    @property
    def context(self) -> int | None:
        """As configured, or else as its servers say."""
        return self.upstream.context or self._context

    @property
    def parallel(self) -> int:
        return self.upstream.parallel

    def figures(self) -> UpstreamFigures:
        standings = self._replicas.standings()
        return UpstreamFigures(self.upstream.name, self.context, standings, self._retries)

    # Its life

    def start(self) -> None:
        """Check the replicas from now on, in the background. Asking begins this by itself."""
        if self._checking is None and not self._closed:
            self._checking = asyncio.create_task(
                self._check_on(), name=f"check upstream {self.upstream.name}"
            )

    async def close(self) -> None:
        self._closed = True
        if self._checking is not None:
            self._checking.cancel()
            await asyncio.wait({self._checking})
        if self._client is not None:
            await self._client.close()

    def _asked(self) -> Client:
        """The client, and checks in the background. Raises `UpstreamUnavailable`."""
        if self._closed:
            raise UpstreamUnavailable("The server is stopping.")
        if self.upstream.lacks_key:
            raise UpstreamUnavailable(
                f"There is no key for the upstream {self.upstream.name}: the variable "
                f"{self.upstream.key_variable} is not set.",
                hint="The operator of this server has to set it and start the server again.",
                values={"upstream": self.upstream.name},
            )
        self.start()
        return self._opened()

    # Checks

    async def _check_on(self) -> None:
        while True:
            self._due.clear()
            try:
                await self.check()
            except Exception:
                log.exception("a check of upstream %s ended in a defect", self.upstream.name)
            pause = self._replicas.next_check(_now(), self._rhythm.check)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._due.wait()

    async def check(self) -> Mapping[str, Checked]:
        """Ask every replica how it is whose ejection is over, at once; what they said, by URL."""
        client = self._opened()
        due = self._replicas.to_check(_now())
        found = await asyncio.gather(*(client.check(url) for _, url in due))
        for (number, url), checked in zip(due, found, strict=True):
            self._context = checked.models.get(self.upstream.model) or self._context
            if self._replicas.checked(number, _now(), checked.sign):
                self._say(number, url, checked.why)
        return {url: checked for (_, url), checked in zip(due, found, strict=True)}

    def _opened(self) -> Client:
        if self._client is None:
            self._client = Client(self.upstream, silence=self._rhythm.silence)
        return self._client

    def _say(self, number: int, url: str, why: str = "") -> None:
        """A replica's health is another one now: the operator is told, and who waits for that."""
        health = self._replicas.standings()[number].health
        said = f": {why}" if why else ""
        log.warning("upstream %s: %s is %s%s", self.upstream.name, host_of(url), health, said)
        self._turn()
        if health is Health.EJECTED:
            self._due.set()
            for ticket, waiting in self._unbegun.values():
                if ticket.replica == number:
                    waiting.reschedule(_now())

    def _turn(self) -> None:
        self._turned.set()
        self._turned.clear()  # whoever waited is awake by now

    # Requests

    async def generate(self, request: MessagesRequest) -> AsyncGenerator[Part, None]:
        asked = request.chat
        body = encoded(body_of(self.upstream, asked))
        client, beginning, tokens = self._asked(), beginning_of(asked), expected_tokens(asked)
        began, tries = time.monotonic(), _Tries()
        while True:
            ticket = await self._placed(beginning, tokens, tries, asked.deadline)
            reader = Reader(
                began=began,
                seed=asked.sampling.seed,
                parallel_calls=asked.tool_choice.parallel,
            )
            try:
                with self._at(ticket):
                    chunks = client.chunks(ticket.url, body, asked.deadline)
                    async with aclosing(self._parts(ticket, reader, chunks)) as parts:
                        async for part in parts:
                            yield part
                return
            except Fault as fault:
                if reader.first_token is not None:
                    raise fault.error from fault
                self._tried(tries, ticket, fault)

    async def _parts(
        self, ticket: Ticket, reader: Reader, chunks: AsyncGenerator[Chunk, None]
    ) -> AsyncGenerator[Part, None]:
        """Raises `Fault`."""
        async with aclosing(chunks):
            while (chunk := await self._next(ticket, reader, chunks)) is not None:
                try:
                    parts = reader.read(chunk)
                except Unusable as error:  # whoever asks for that must not take the replica away
                    said = f"The upstream {self.upstream.name} sends {error}."
                    failed = UpstreamFailed(said, values={"upstream": self.upstream.name})
                    raise Fault(failed, None) from error
                except Nonsense as error:
                    raise misbehaved(self.upstream, ticket.url, f"it sends {error}") from error
                if parts and self._replicas.begun(ticket):
                    self._say(ticket.replica, ticket.url)
                for part in parts:
                    yield part
        if not reader.complete:
            why = "its stream ends in the middle of an answer"
            raise misbehaved(self.upstream, ticket.url, why)
        self._note_uncounted(reader)
        yield reader.ended()

    async def _next(
        self, ticket: Ticket, reader: Reader, chunks: AsyncGenerator[Chunk, None]
    ) -> Chunk | None:
        """The next chunk. Nobody waits for a first token at a replica that is ejected meanwhile."""
        if reader.first_token is not None:
            return await anext(chunks, None)
        try:
            async with asyncio.timeout(None) as waiting:
                self._unbegun[ticket.number] = (ticket, waiting)
                return await anext(chunks, None)
        except TimeoutError:
            name = self.upstream.name
            said = f"The upstream {name} did not answer."
            error = UpstreamFailed(said, values={"upstream": name})
            raise Fault(error, None) from None
        finally:
            del self._unbegun[ticket.number]

    def _note_uncounted(self, reader: Reader) -> None:
        if not reader.counted and not self._uncounted:
            self._uncounted = True
            log.warning(
                "upstream %s does not say what it used: a delta is counted as a token, and a "
                "prompt as none",
                self.upstream.name,
            )

    async def embed(
        self, texts: Sequence[str], deadline: float | None
    ) -> tuple[tuple[Vector, ...], int]:
        body = encoded({"model": self.upstream.model, "input": list(texts)})
        client, tries = self._asked(), _Tries()
        while True:
            ticket = await self._placed(body[:1024], len(body) // 4, tries, deadline)
            try:
                with self._at(ticket):
                    vectors, tokens = await client.embeddings(
                        ticket.url, body, len(texts), deadline
                    )
                    return tuple(map(_normed, vectors)), tokens
            except Fault as fault:
                self._tried(tries, ticket, fault)

    # Where to

    async def _placed(
        self, beginning: bytes, tokens: int, tries: _Tries, deadline: float | None
    ) -> Ticket:
        """A replica that takes it. Raises what the last one did, or `UpstreamUnavailable`."""
        ticket = self._replicas.choose(beginning, tokens, tries.replicas)
        if ticket is None and tries.error is None:
            ticket = await self._readmitted(beginning, tokens, deadline)
        if ticket is not None:
            if tries.error is not None:
                self._retries += 1
            return ticket
        raise tries.error or UpstreamUnavailable(
            f"No replica of the upstream {self.upstream.name} is well.",
            retry_after=math.ceil(max(self._replicas.until_readmission(_now()), 1.0)),
            values={"upstream": self.upstream.name},
        )

    async def _readmitted(
        self, beginning: bytes, tokens: int, deadline: float | None
    ) -> Ticket | None:
        """Wait for one; None: none comes in time."""
        until = _now() + self._rhythm.patience
        until = until if deadline is None else min(until, deadline)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(until):
                while True:
                    ticket = self._replicas.choose(beginning, tokens)
                    if ticket is not None:
                        return ticket
                    await self._turned.wait()
        return None

    def _tried(self, tries: _Tries, ticket: Ticket, fault: Fault) -> None:
        """Keep what to tell. Raises it if nobody else is to be asked."""
        tries.replicas.add(ticket.replica)
        tries.error = fault.error
        tries.broken += fault.sent and fault.sign is not None
        if tries.broken >= _MOST_BROKEN:
            raise fault.error from fault

    @contextlib.contextmanager
    def _at(self, ticket: Ticket) -> Iterator[None]:
        """While a request is at a replica: however it ends, the replica's standing says so."""
        try:
            yield
        except Fault as fault:
            if fault.sign is None:
                self._replicas.abandoned(ticket)
            elif self._replicas.failed(ticket, _now(), fault.sign):
                self._say(ticket.replica, ticket.url, str(fault))
            raise
        except RequestError:  # a sound server refuses, too
            self._answered(ticket)
            raise
        except BaseException:
            self._replicas.abandoned(ticket)
            raise
        else:
            self._answered(ticket)
        finally:
            self._turn()

    def _answered(self, ticket: Ticket) -> None:
        if self._replicas.answered(ticket):
            self._say(ticket.replica, ticket.url)


class _Tries:
    """What was tried for one request. ``broken``: how many replicas broke while they had it."""

    def __init__(self) -> None:
        self.replicas: set[int] = set()
        self.error: FreeholdError | None = None
        self.broken = 0


def _now() -> float:
    return asyncio.get_running_loop().time()


def _normed(vector: Vector) -> Vector:
    length = math.hypot(*vector)
    return tuple(number / length for number in vector) if length > 0 else vector
