"""Answers that belong to a conversation: they run on, and are kept, whoever watches.

    begin ──▶ running ──▶ done | stopped | failed          (interrupted: the server ended first)
              │ ▲  ▲                    │
              │ │  └────── go on ───────┘  behind the last token, where the end was not the model's
      saved every second; watchers get it whole, then what is new

A browser may be closed and come back: it asks to watch again. Only `stop`, deleting the
conversation or the end of the server ends an answer early. Used from one event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import msgspec

from freehold.domain.answers import (
    Begun,
    ContentDelta,
    Ended,
    EndReason,
    Part,
    ReasoningDelta,
    ToolCallBegun,
    ToolCallDelta,
)
from freehold.domain.chat import ChatRequest, Role
from freehold.domain.errors import FreeholdError, InvalidRequest, Unavailable
from freehold.domain.events import PromptRead
from freehold.runtime.answer_figures import Stretch, figures_of
from freehold.runtime.branches import branch_to, request
from freehold.runtime.chat import Chat
from freehold.runtime.conversations import Conversations
from freehold.runtime.kept import (
    ConversationNotFound,
    Figures,
    Heading,
    KeptMessage,
    pack,
    unpack,
)
from freehold.runtime.logs import RequestRecord, answering, current_request
from freehold.runtime.observing import Written
from freehold.text.resuming import Resumed

log = logging.getLogger(__name__)

SAVE_SECONDS = 1.0
# How often a watcher is told how far a prompt has been read.
READING_SECONDS = 0.5
MOST_RUNNING = 64


@dataclass
class _Running:
    """``changed`` is set, and replaced, whenever there is something new.

    ``earlier`` and ``said``: figures and tokens from before it was gone on with. ``seen``: what
    is written now, ``first`` and ``thought`` when that and its reasoning's end came, in seconds.
    """

    owner: str
    conversation: str
    message: KeptMessage
    content: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    earlier: Figures | None = None
    said: tuple[int, ...] = ()
    seen: Written | None = None
    context: int = 0
    first: float | None = None
    thought: float | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None
    ending: bool = False

    def now(self) -> KeptMessage:
        return msgspec.structs.replace(
            self.message, content="".join(self.content), reasoning="".join(self.reasoning)
        )

    def kept(self, end: str) -> KeptMessage:
        """With its figures so far, and what it takes to go on with it."""
        written = () if self.seen is None else self.seen.tokens
        tokens = () if end == EndReason.STOP else (*self.said, *written)
        return msgspec.structs.replace(self.now(), figures=self.figures(end), tokens=pack(tokens))

    @property
    def reading(self) -> PromptRead | None:
        return None if self.seen is None else self.seen.reading

    def figures(self, end: str) -> Figures | None:
        if self.seen is None or self.seen.first_token is None:
            return self.earlier
        thought = self.thought
        if thought is None and self.seen.usage.reasoning_tokens:
            thought = self.seen.writing
        stretch = Stretch(
            usage=self.seen.usage,
            before=len(self.said),
            context=self.context,
            first_token=self.first,
            reasoning=thought,
            decode=self.seen.writing,
            end=end,
        )
        return figures_of(stretch, self.earlier)

    def tell(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()


@dataclass(frozen=True)
class More:
    """What has come since the last look."""

    content: str
    reasoning: str


class KeptAnswers:
    """Runs answers through ``chat`` and keeps them in ``conversations``."""

    def __init__(self, chat: Chat, conversations: Conversations) -> None:
        self._chat = chat
        self._conversations = conversations
        self._running: dict[str, _Running] = {}

    async def begin(
        self, owner: str, identity: str, parent: str, model: str, *, scope: str, deadline: float
    ) -> KeptMessage:
        """Answer the question ``parent``. Raises `ConversationNotFound` and `InvalidRequest`; what
        the model cannot do is told by the message, which then has failed.
        """
        self._require_room()
        heading, messages = await self.opened(owner, identity)
        branch = branch_to(messages, parent)
        if branch[-1].role != Role.USER:
            raise InvalidRequest("Only a question can be answered.", field="parent")
        asked = request(heading, branch, model, scope=scope, deadline=deadline)
        answer = KeptMessage(
            id=uuid.uuid4().hex,
            parent=parent,
            role=Role.ASSISTANT,
            content="",
            created=time.time(),
            model=model,
            status="running",
        )
        await asyncio.to_thread(self._conversations.add_message, owner, identity, answer)
        self._start(_Running(owner, identity, answer), asked)
        return answer

    async def go_on(
        self, owner: str, identity: str, answer: str, *, scope: str, deadline: float
    ) -> KeptMessage:
        """Go on with an answer that was cut, behind its last token: as if it had not been, save
        that chance is thrown anew. Raises `ConversationNotFound` and `InvalidRequest`; else as
        `begin`.
        """
        self._require_room()
        heading, messages = await self.opened(owner, identity)
        kept = _named(messages, answer)
        last = all(message.parent != answer for message in messages)
        if not (kept.resumable and last) or kept.parent is None or kept.model is None:
            raise InvalidRequest(
                "This answer cannot be gone on with.",
                field="answer",
                hint="Only the last answer of a branch can, if something else than the model "
                "ended it. Ask again instead.",
            )
        said, branch = unpack(kept.tokens), branch_to(messages, kept.parent)
        asked = request(heading, branch, kept.model, scope=scope, deadline=deadline, said=said)
        going = msgspec.structs.replace(
            kept, status="running", error=None, error_code=None, error_values=None, figures=None
        )
        running = _Running(
            *(owner, identity, going, [kept.content], [kept.reasoning]),
            earlier=kept.figures,
            said=said,
        )
        if answer in self._running:  # somebody else was faster
            return self._running[answer].now()
        self._start(running, asked)
        return going

    def _require_room(self) -> None:
        if len(self._running) >= MOST_RUNNING:
            raise Unavailable(
                f"{MOST_RUNNING} answers are being written already.",
                hint="Stop one of them.",
                values={"most": MOST_RUNNING},
            )

    def _start(self, running: _Running, asked: ChatRequest) -> None:
        self._running[running.message.id] = running
        running.task = asyncio.create_task(self._run(running, asked), name="kept answer")

    async def opened(self, owner: str, identity: str) -> tuple[Heading, list[KeptMessage]]:
        """A conversation as it is this moment. Raises `ConversationNotFound`."""
        heading = await asyncio.to_thread(self._conversations.heading, owner, identity)
        messages = await asyncio.to_thread(self._conversations.messages, owner, identity)
        return heading, [self._present(message) for message in messages]

    def _present(self, message: KeptMessage) -> KeptMessage:
        if (running := self._running.get(message.id)) is not None:
            return running.now()
        if message.status == "running":  # whoever wrote it has ended
            return msgspec.structs.replace(message, status="interrupted")
        return message

    async def watch(
        self, owner: str, identity: str, answer: str
    ) -> AsyncIterator[KeptMessage | PromptRead | More]:
        """The answer as it is; how far its prompt has been read, as long as nothing comes; then
        what comes, then, if anything came, the answer as it ended.

        Raises `ConversationNotFound`.
        """
        running = self._running.get(answer)
        if running is None:
            _, messages = await self.opened(owner, identity)
            yield _named(messages, answer)
            return
        if (running.owner, running.conversation) != (owner, identity):
            raise ConversationNotFound(answer)
        content, reasoning = len(running.content), len(running.reasoning)
        yield running.now()
        reading: PromptRead | None = None
        while True:
            changed = running.changed  # before looking: what comes after this is not missed
            more = More("".join(running.content[content:]), "".join(running.reasoning[reasoning:]))
            content, reasoning = len(running.content), len(running.reasoning)
            if more.content or more.reasoning:
                yield more
            elif running.message.status != "running":
                break
            elif running.first is not None:
                await changed.wait()
            elif not await _comes(changed) and running.reading not in (None, reading):
                reading = running.reading
                yield reading
        yield running.now()

    async def stop(self, owner: str, identity: str, answer: str) -> KeptMessage:
        """End it here; one that has ended stays as it is. Raises `ConversationNotFound`."""
        running = self._running.get(answer)
        if running is not None and (running.owner, running.conversation) == (owner, identity):
            await self._end(running)
        _, messages = await self.opened(owner, identity)
        return _named(messages, answer)

    async def stop_all(self, owner: str, identity: str) -> None:
        """All of one conversation."""
        for running in list(self._running.values()):
            if (running.owner, running.conversation) == (owner, identity):
                await self._end(running)

    async def close(self) -> None:
        """End them all; what they have said is kept."""
        for running in list(self._running.values()):
            await self._end(running)
        await asyncio.to_thread(self._conversations.close)

    async def _end(self, running: _Running) -> None:
        assert running.task is not None
        self._cancel(running)
        await asyncio.wait({running.task})

    def _cancel(self, running: _Running) -> None:
        if not running.ending:  # once: a second time would cut off what ends it
            assert running.task is not None
            running.ending = True
            running.task.cancel()

    async def _run(self, running: _Running, asked: ChatRequest) -> None:
        """As a request of its own: the one that began it is over when it is answered."""
        begun_by = current_request()
        record = RequestRecord(running.message.id if begun_by is None else begun_by.id)
        with answering(record), record.stop.ending(lambda: self._cancel(running)):
            await self._answer(running, asked)

    async def _answer(self, running: _Running, asked: ChatRequest) -> None:
        saving = asyncio.create_task(self._save_now_and_then(running), name="save answer")
        status, error, code, values, end = "done", None, None, None, None
        try:
            end = await self._follow(running, asked)
        except asyncio.CancelledError:
            status = "stopped"
        except FreeholdError as failure:
            status, code, values = "failed", failure.code, failure.values
            error = failure.message if failure.hint is None else f"{failure} {failure.hint}"
        except Exception:
            log.exception("an answer of a conversation failed")
            status, code = "failed", "internal_error"
            error = "The server made a mistake; its log has the details."
        saving.cancel()
        await asyncio.wait({saving})
        running.message = msgspec.structs.replace(
            running.kept(end or status),
            status=status,
            error=error,
            error_code=code,
            error_values=values,
        )
        try:
            await asyncio.to_thread(self._conversations.save_message, running.message)
        except FreeholdError as failure:
            log.warning("an answer is not kept: %s", failure)
        finally:
            del self._running[running.message.id]
            running.tell()

    async def _follow(self, running: _Running, asked: ChatRequest) -> str | None:
        """How it ended; what there is of it is in ``running`` at any time."""
        began, end = time.monotonic(), None
        async with self._chat.open(asked) as generation:
            running.message = msgspec.structs.replace(running.message, model=generation.name)
            if generation.resumed is not None:
                _require_same(running, generation.resumed)
            running.seen, running.context = generation.answers[0].seen, generation.context or 0
            async with contextlib.aclosing(generation.parts()) as parts:
                async for _, part in parts:
                    self._take(running, part, time.monotonic() - began)
                    if isinstance(part, Ended):
                        end = part.reason.value
        return end

    def _take(self, running: _Running, part: Part, since: float) -> None:
        if running.first is None and isinstance(part, ReasoningDelta | ContentDelta):
            running.first = since
        match part:
            case ReasoningDelta(text):
                running.reasoning.append(text)
            case ContentDelta(text):
                if running.thought is None and any(running.reasoning):
                    running.thought = since - (running.first or 0.0)
                running.content.append(text)
            case Ended() | Begun() | ToolCallBegun() | ToolCallDelta():
                pass  # no tools are offered, so none is called
        running.tell()

    async def _save_now_and_then(self, running: _Running) -> None:
        """So that a crash of the whole server costs the last second, not the answer."""
        saved = 0
        while True:
            await asyncio.sleep(SAVE_SECONDS)
            size = len(running.content) + len(running.reasoning)
            if size == saved:
                continue
            try:
                kept = running.kept("interrupted")  # if nobody says otherwise later
                await asyncio.to_thread(self._conversations.save_message, kept)
                saved = size
            except FreeholdError as failure:
                log.warning("a running answer could not be saved: %s", failure)


async def _comes(changed: asyncio.Event) -> bool:
    """Whether something comes soon."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(READING_SECONDS):
            await changed.wait()
            return True
    return False


def _require_same(running: _Running, resumed: Resumed) -> None:
    """Raise `InvalidRequest` if the tokens that were kept do not say what was kept."""
    pairs = (("".join(running.content), resumed.content), (running.reasoning[0], resumed.reasoning))
    if not all(kept.startswith(told) or told.startswith(kept) for kept, told in pairs):
        raise InvalidRequest(
            "This answer cannot be gone on with: its model is not the one that began it.",
            field="answer",
            hint="Ask again instead.",
        )
    running.said = resumed.tokens
    # In place: who watches has been told the rest of it.
    running.content[0], running.reasoning[0] = resumed.content, resumed.reasoning


def _named(messages: Sequence[KeptMessage], identity: str) -> KeptMessage:
    for message in messages:
        if message.id == identity:
            return message
    raise ConversationNotFound(identity)
