"""The gateway's face of the text child: start it, ask it, replace it when it dies."""

from __future__ import annotations

import asyncio
import collections
import hashlib
import logging
import signal
from dataclasses import dataclass

from freehold.domain import errors
from freehold.domain.chat import Conversation
from freehold.domain.errors import (
    FreeholdError,
    InvalidRequest,
    TemplateFailed,
    TextChildFailed,
)
from freehold.domain.sampling import Constraint
from freehold.process.child import Child, describe_exit
from freehold.process.frames import MessageTooLarge, WireError
from freehold.text.messages import (
    MAX_CONSTRAINT_BYTES,
    CheckConstraint,
    ConstraintAccepted,
    Detokenize,
    Detokenized,
    Failed,
    FromChild,
    FromGateway,
    ReadTable,
    Ready,
    Render,
    Rendered,
    TableRead,
    Tokenize,
    VocabularySource,
)
from freehold.text.token_table import TokenTable

log = logging.getLogger(__name__)

# Loading a large vocabulary takes about a second; rendering is bounded in the child.
ANSWER_SECONDS = 60.0
START_SECONDS = 60.0

CONSTRAINTS_REMEMBERED = 256

# What ends a child whose request was too much for it: the limit of processor time; and, in
# native code, a refused allocation or the end of the stack.
_OUT_OF_TIME = -signal.SIGPROF
_OUT_OF_SPACE = (-signal.SIGABRT, -signal.SIGSEGV, -signal.SIGBUS)

_Answer = Rendered | Detokenized | TableRead | ConstraintAccepted


@dataclass(frozen=True)
class Prompt:
    """What the model will see, as text and as token ids; the rest as in `Rendered`."""

    text: str
    tokens: tuple[int, ...]
    shown: tuple[int, ...] = ()
    reasoning_end: int | None = None


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
        self._exchanges: set[asyncio.Future[_Answer]] = set()
        self._accepted: collections.OrderedDict[bytes, None] = collections.OrderedDict()

    async def start(self) -> None:
        """Start the child early, so that the first request need not wait for it."""
        async with self._turn:
            await self._running()

    async def render(self, source: VocabularySource, conversation: Conversation) -> Prompt:
        """Raises `TemplateFailed`, `LoadFailed` or `TextChildFailed`."""
        return _prompt(await self._ask(Render(source=source, conversation=conversation)))

    async def tokenize(
        self,
        source: VocabularySource,
        text: str,
        *,
        special: bool = False,
        beginning: bool = True,
        ending: bool = False,
        suffix: str | None = None,
    ) -> Prompt:
        """As `Tokenize` says. Raises `InvalidRequest`, `LoadFailed` or `TextChildFailed`."""
        asked = Tokenize(
            source=source,
            text=text,
            special=special,
            beginning=beginning,
            ending=ending,
            suffix=suffix,
        )
        return _prompt(await self._ask(asked))

    async def detokenize(
        self, source: VocabularySource, tokens: tuple[int, ...]
    ) -> tuple[bytes, ...]:
        """The bytes of each token. Raises `InvalidRequest`, `LoadFailed` or `TextChildFailed`."""
        answer = await self._ask(Detokenize(source=source, tokens=tokens))
        assert isinstance(answer, Detokenized)
        return tuple(answer.pieces)

    async def table(self, source: VocabularySource) -> TokenTable:
        """The whole vocabulary. Raises `LoadFailed` or `TextChildFailed`."""
        answer = await self._ask(ReadTable(source=source))
        assert isinstance(answer, TableRead)
        return TokenTable(answer.pieces, frozenset(answer.unseen), answer.ends)

    async def check_constraint(self, source: VocabularySource, constraint: Constraint) -> None:
        """Raises `InvalidRequest` with the reason, `LoadFailed` or `TextChildFailed`.

        What has been accepted is remembered, by its digest.
        """
        if len(constraint.text) > MAX_CONSTRAINT_BYTES:
            raise _refused(
                f"The grammar has {len(constraint.text)} characters; "
                f"at most {MAX_CONSTRAINT_BYTES} bytes are accepted."
            )
        key = _digest(source, constraint)
        if key not in self._accepted:
            await self._ask(CheckConstraint(source=source, constraint=constraint))
            self._accepted[key] = None
        self._accepted.move_to_end(key)
        if len(self._accepted) > CONSTRAINTS_REMEMBERED:
            self._accepted.popitem(last=False)

    async def close(self) -> None:
        for exchange in self._exchanges:
            exchange.cancel()
        await asyncio.gather(*self._exchanges, return_exceptions=True)
        child, self._child = self._child, None
        if child is not None:
            await child.stop(grace=1.0)

    async def _ask(self, request: FromGateway) -> _Answer:
        # A caller who leaves must not leave a half-read answer behind for the next one.
        exchange = asyncio.ensure_future(self._exchange(request))
        self._exchanges.add(exchange)
        exchange.add_done_callback(self._retrieve)
        return await asyncio.shield(exchange)

    def _retrieve(self, exchange: asyncio.Future[_Answer]) -> None:
        """Look at the outcome, so that asyncio does not report one whose caller has left."""
        self._exchanges.discard(exchange)
        if not exchange.cancelled():
            exchange.exception()

    async def _exchange(self, request: FromGateway) -> _Answer:
        async with self._turn:
            try:
                return await self._once(request)
            except _ChildGone:  # killed by someone else, not by its own limits
                return await self._once(request)

    async def _once(self, request: FromGateway) -> _Answer:
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
                return _refused("The grammar takes too much processor time to compile.")
            if returncode in _OUT_OF_SPACE:
                return _refused("The grammar takes too much memory to compile.")
        elif returncode == _OUT_OF_TIME:
            return TemplateFailed("The model's chat template used too much processor time.")
        return _ChildGone(
            f"The process that renders templates {describe_exit(returncode)}.",
            hint="Try again; it is started anew.",
        )


def _prompt(answer: _Answer) -> Prompt:
    assert isinstance(answer, Rendered)
    return Prompt(answer.prompt, tuple(answer.tokens), tuple(answer.shown), answer.reasoning_end)


def _digest(source: VocabularySource, constraint: Constraint) -> bytes:
    parts = (source.digest, constraint.grammar.value, constraint.text, repr(constraint))
    whole = "".join(f"{len(part)}:{part}" for part in parts)
    return hashlib.sha256(whole.encode("utf-8", "surrogatepass")).digest()


def _refused(message: str) -> InvalidRequest:
    return InvalidRequest(message, field="response_format")


def _named(failed: Failed) -> FreeholdError:
    if failed.code == InvalidRequest.code:
        return InvalidRequest(failed.message, field=failed.field, hint=failed.hint)
    kinds: dict[str, type[FreeholdError]] = {
        kind.code: kind for kind in (errors.TemplateFailed, errors.LoadFailed)
    }
    return kinds.get(failed.code, TextChildFailed)(failed.message, hint=failed.hint)
