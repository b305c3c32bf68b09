"""One text child, asked one thing at a time, and replaced when it dies."""

from __future__ import annotations

import asyncio
import logging
import signal

from freehold.domain import errors
from freehold.domain.errors import (
    FreeholdError,
    InvalidRequest,
    TemplateFailed,
    TextChildFailed,
)
from freehold.process.child import Child, describe_exit, step_back
from freehold.process.frames import MessageTooLarge, WireError
from freehold.text.messages import (
    CheckConstraint,
    ConstraintAccepted,
    Detokenized,
    Failed,
    FromChild,
    FromGateway,
    Ready,
    Rendered,
    TableRead,
)

log = logging.getLogger(__name__)

# Loading a large vocabulary takes about a second; rendering is bounded in the child.
ANSWER_SECONDS = 60.0
START_SECONDS = 60.0

# What ends a child whose request was too much for it: the limit of processor time; and, in
# native code, a refused allocation or the end of the stack.
_OUT_OF_TIME = -signal.SIGPROF
_OUT_OF_SPACE = (-signal.SIGABRT, -signal.SIGSEGV, -signal.SIGBUS)

Answer = Rendered | Detokenized | TableRead | ConstraintAccepted


class _ChildGone(TextChildFailed):
    """The child ended before it answered."""


class Exchange:
    """Questions and answers with one child. Owned by one event loop.

    When the child dies, the request it was working on fails and the next one starts a new
    child. None is started before the first request. ``niceness`` is what the child adds to ours:
    the higher, the less of a busy processor it gets.
    """

    def __init__(self, *, niceness: int = 0) -> None:
        self._niceness = niceness
        self._child: Child[FromChild] | None = None
        self._turn = asyncio.Lock()
        self._under_way: set[asyncio.Future[Answer]] = set()

    async def start(self) -> None:
        """Start the child early, so that the first request need not wait for it."""
        async with self._turn:
            await self._running()

    async def ask(self, request: FromGateway) -> Answer:
        """Raises what the child named, or `TextChildFailed`."""
        # A caller who leaves must not leave a half-read answer behind for the next one.
        exchange = asyncio.ensure_future(self._exchange(request))
        self._under_way.add(exchange)
        exchange.add_done_callback(self._retrieve)
        return await asyncio.shield(exchange)

    async def close(self) -> None:
        for exchange in self._under_way:
            exchange.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)
        child, self._child = self._child, None
        if child is not None:
            await child.stop(grace=1.0)

    def _retrieve(self, exchange: asyncio.Future[Answer]) -> None:
        """Look at the outcome, so that asyncio does not report one whose caller has left."""
        self._under_way.discard(exchange)
        if not exchange.cancelled():
            exchange.exception()

    async def _exchange(self, request: FromGateway) -> Answer:
        async with self._turn:
            try:
                return await self._once(request)
            except _ChildGone:  # killed by someone else, not by its own limits
                return await self._once(request)

    async def _once(self, request: FromGateway) -> Answer:
        child = await self._running()
        try:
            child.channel.send_soon(request)
            async with asyncio.timeout(ANSWER_SECONDS):
                reply = await child.channel.receive()
        except UnicodeEncodeError:
            raise InvalidRequest("The text has half a character in it, not Unicode.") from None
        except MessageTooLarge:
            raise TextChildFailed("The conversation is too large to be rendered.") from None
        except (TimeoutError, WireError) as error:
            self._child = None
            await child.discard()
            raise TextChildFailed(
                "The process that renders templates did not answer properly.",
                hint="Try again; it is started anew.",
            ) from error
        match reply:
            case Rendered() | Detokenized() | TableRead() | ConstraintAccepted():
                return reply
            case Failed():
                raise _named(reply)
            case _:
                raise await self._died(child, request)

    async def _running(self) -> Child[FromChild]:
        if self._child is not None:
            if self._child.running:
                return self._child
            died_idle, self._child = self._child, None
            await died_idle.discard()
        child = await Child[FromChild].start("text", "freehold.text.child", incoming=FromChild)
        if self._niceness:
            step_back(child.pid, self._niceness)
        try:
            async with asyncio.timeout(START_SECONDS):
                first = await child.channel.receive()
        except (TimeoutError, WireError) as error:
            await child.discard()
            raise TextChildFailed("The process that renders templates did not start.") from error
        except asyncio.CancelledError:
            await child.discard()
            raise
        if not isinstance(first, Ready):
            raise await self._died(child, None)
        self._child = child
        return child

    async def _died(self, child: Child[FromChild], request: FromGateway | None) -> FreeholdError:
        self._child = None
        returncode = await child.stop(grace=1.0)
        log.warning("the text child %s: %s", describe_exit(returncode), child.last_words())
        if isinstance(request, CheckConstraint):
            if returncode == _OUT_OF_TIME:
                return refused("The grammar takes too much processor time to compile.")
            if returncode in _OUT_OF_SPACE:
                return refused("The grammar takes too much memory to compile.")
        elif returncode == _OUT_OF_TIME:
            return TemplateFailed("The model's chat template used too much processor time.")
        return _ChildGone(
            f"The process that renders templates {describe_exit(returncode)}.",
            hint="Try again; it is started anew.",
        )


def refused(message: str) -> InvalidRequest:
    """A constraint that is not accepted."""
    return InvalidRequest(message, field="response_format")


def _named(failed: Failed) -> FreeholdError:
    if failed.code == InvalidRequest.code:
        return InvalidRequest(failed.message, field=failed.field, hint=failed.hint)
    kinds: dict[str, type[FreeholdError]] = {
        kind.code: kind for kind in (errors.TemplateFailed, errors.LoadFailed)
    }
    return kinds.get(failed.code, TextChildFailed)(failed.message, hint=failed.hint)
