"""The gateway's face of the text child: start it, ask it, replace it when it dies."""

from __future__ import annotations

import asyncio
import logging
import signal
from dataclasses import dataclass

from freehold.domain import errors
from freehold.domain.chat import Message
from freehold.domain.errors import (
    FreeholdError,
    InvalidRequest,
    TemplateFailed,
    TextChildFailed,
)
from freehold.process.child import Child, describe_exit
from freehold.process.frames import MessageTooLarge, WireError
from freehold.text.messages import (
    Failed,
    FromChild,
    FromGateway,
    Ready,
    Render,
    Rendered,
    Tokenize,
    VocabularySource,
)

log = logging.getLogger(__name__)

# Loading a large vocabulary takes about a second; rendering is bounded in the child.
ANSWER_SECONDS = 60.0
START_SECONDS = 60.0


@dataclass(frozen=True)
class Prompt:
    """What the model will see, as text and as token ids."""

    text: str
    tokens: tuple[int, ...]


class _ChildGone(TextChildFailed):
    """The child ended before it answered."""


class TextService:
    """Renders and tokenises for every model and engine. Owned by one event loop.

    Requests are answered one at a time. When the child dies, the request it was
    working on fails and the next one starts a new child.
    """

    def __init__(self) -> None:
        self._child: Child[FromChild] | None = None
        self._turn = asyncio.Lock()
        self._exchanges: set[asyncio.Future[Prompt]] = set()

    async def start(self) -> None:
        """Start the child early, so that the first request need not wait for it."""
        async with self._turn:
            await self._running()

    async def render(self, source: VocabularySource, messages: tuple[Message, ...]) -> Prompt:
        """Raises `TemplateFailed`, `LoadFailed` or `TextChildFailed`."""
        return await self._ask(Render(source=source, messages=messages))

    async def tokenize(self, source: VocabularySource, text: str) -> Prompt:
        """Raises `LoadFailed` or `TextChildFailed`."""
        return await self._ask(Tokenize(source=source, text=text))

    async def close(self) -> None:
        for exchange in self._exchanges:
            exchange.cancel()
        await asyncio.gather(*self._exchanges, return_exceptions=True)
        child, self._child = self._child, None
        if child is not None:
            await child.stop(grace=1.0)

    async def _ask(self, request: FromGateway) -> Prompt:
        # A caller who leaves must not leave a half-read answer behind for the next one.
        exchange = asyncio.ensure_future(self._exchange(request))
        self._exchanges.add(exchange)
        exchange.add_done_callback(self._retrieve)
        return await asyncio.shield(exchange)

    def _retrieve(self, exchange: asyncio.Future[Prompt]) -> None:
        """Look at the outcome, so that asyncio does not report one whose caller has left."""
        self._exchanges.discard(exchange)
        if not exchange.cancelled():
            exchange.exception()

    async def _exchange(self, request: FromGateway) -> Prompt:
        async with self._turn:
            try:
                return await self._once(request)
            except _ChildGone:  # killed by someone else, not by its own limits
                return await self._once(request)

    async def _once(self, request: FromGateway) -> Prompt:
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
            case Rendered(prompt, tokens):
                return Prompt(prompt, tuple(tokens))
            case Failed(code, message, hint):
                raise _named(code, message, hint)
            case _:
                raise await self._died(child)

    async def _running(self) -> Child[FromChild]:
        if self._child is not None:
            if self._child.running:
                return self._child
            died_idle, self._child = self._child, None
            await died_idle.discard()
        child = await Child[FromChild].start("text", "freehold.text.child", incoming=FromChild)
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
            raise await self._died(child)
        self._child = child
        return child

    async def _died(self, child: Child[FromChild]) -> FreeholdError:
        self._child = None
        returncode = await child.stop(grace=1.0)
        log.warning("the text child %s: %s", describe_exit(returncode), child.last_words())
        if returncode == -signal.SIGPROF:
            return TemplateFailed("The model's chat template used too much processor time.")
        return _ChildGone(
            f"The process that renders templates {describe_exit(returncode)}.",
            hint="Try again; it is started anew.",
        )


def _named(code: str, message: str, hint: str | None) -> FreeholdError:
    kinds: dict[str, type[FreeholdError]] = {
        kind.code: kind for kind in (errors.TemplateFailed, errors.LoadFailed)
    }
    return kinds.get(code, TextChildFailed)(message, hint=hint)
