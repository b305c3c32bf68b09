"""Answers that belong to a conversation: they run on, and are kept, whoever watches.

    begin ──▶ running ──▶ done | stopped | failed          (interrupted: the server ended first)
                │ ▲
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
    Part,
    ReasoningDelta,
    ToolCallBegun,
    ToolCallDelta,
)
from freehold.domain.chat import ChatRequest, Conversation, Message, ReasoningWish, Role
from freehold.domain.errors import FreeholdError, InvalidRequest, Unavailable
from freehold.domain.sampling import Sampling
from freehold.runtime.chat import Chat
from freehold.runtime.conversations import (
    AttachedFile,
    ConversationNotFound,
    Conversations,
    Figures,
    Heading,
    KeptMessage,
    Wishes,
)
from freehold.runtime.logs import RequestRecord, answering, current_request

log = logging.getLogger(__name__)

SAVE_SECONDS = 1.0
MOST_RUNNING = 64


@dataclass
class _Running:
    """``changed`` is set, and replaced, whenever there is something new."""

    owner: str
    conversation: str
    message: KeptMessage
    content: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None
    ending: bool = False

    def now(self) -> KeptMessage:
        return msgspec.structs.replace(
            self.message, content="".join(self.content), reasoning="".join(self.reasoning)
        )

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
        if len(self._running) >= MOST_RUNNING:
            raise Unavailable(
                f"{MOST_RUNNING} answers are being written already.",
                hint="Stop one of them.",
                values={"most": MOST_RUNNING},
            )
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
        running = _Running(owner, identity, answer)
        self._running[answer.id] = running
        running.task = asyncio.create_task(self._run(running, asked), name="kept answer")
        return answer

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
    ) -> AsyncIterator[KeptMessage | More]:
        """The answer as it is, then what comes, then, if anything came, the answer as it ended.

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
        while True:
            changed = running.changed  # before looking: what comes after this is not missed
            more = More("".join(running.content[content:]), "".join(running.reasoning[reasoning:]))
            content, reasoning = len(running.content), len(running.reasoning)
            if more.content or more.reasoning:
                yield more
            elif running.message.status != "running":
                break
            else:
                await changed.wait()
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
        status, error, code, values = "done", None, None, None
        try:
            await self._follow(running, asked)
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
            running.message, status=status, error=error, error_code=code, error_values=values
        )
        try:
            await asyncio.to_thread(self._conversations.save_message, running.now())
        except FreeholdError as failure:
            log.warning("an answer is not kept: %s", failure)
        finally:
            del self._running[running.message.id]
            running.tell()

    async def _follow(self, running: _Running, asked: ChatRequest) -> None:
        began, first, thought = time.monotonic(), None, None
        async with self._chat.open(asked) as generation:
            running.message = msgspec.structs.replace(running.message, model=generation.name)
            async with contextlib.aclosing(generation.parts()) as parts:
                async for _, part in parts:
                    since = time.monotonic() - began
                    if first is None and isinstance(part, ReasoningDelta | ContentDelta):
                        first = since
                    if thought is None and running.reasoning and isinstance(part, ContentDelta):
                        thought = since - (first or 0.0)
                    self._take(running, part, generation.context or 0, first, thought)

    def _take(
        self,
        running: _Running,
        part: Part,
        context: int,
        first: float | None,
        thought: float | None,
    ) -> None:
        match part:
            case ReasoningDelta(text):
                running.reasoning.append(text)
            case ContentDelta(text):
                running.content.append(text)
            case Ended():
                figures = figures_of(part, context, first, thought)
                running.message = msgspec.structs.replace(running.message, figures=figures)
            case Begun() | ToolCallBegun() | ToolCallDelta():
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
                await asyncio.to_thread(self._conversations.save_message, running.now())
                saved = size
            except FreeholdError as failure:
                log.warning("a running answer could not be saved: %s", failure)


def figures_of(ended: Ended, context: int, first: float | None, thought: float | None) -> Figures:
    """``context`` 0: not known."""
    return Figures(
        prompt_tokens=ended.usage.prompt_tokens,
        cached_tokens=ended.usage.cached_tokens,
        completion_tokens=ended.usage.completion_tokens,
        reasoning_tokens=ended.usage.reasoning_tokens,
        context=context,
        first_token=first,
        reasoning_seconds=thought,
        decode=ended.timings.decode,
        finish_reason=ended.reason.value,
    )


def _named(messages: Sequence[KeptMessage], identity: str) -> KeptMessage:
    for message in messages:
        if message.id == identity:
            return message
    raise ConversationNotFound(identity)


def branch_to(messages: Sequence[KeptMessage], leaf: str) -> list[KeptMessage]:
    """From the first message down to ``leaf``. Raises `ConversationNotFound`."""
    known = {message.id: message for message in messages}
    branch: list[KeptMessage] = []
    at: str | None = leaf
    while at is not None:
        if at not in known:
            raise ConversationNotFound(at)
        branch.append(known[at])
        at = known[at].parent
    return branch[::-1]


def request(
    heading: Heading,
    branch: Sequence[KeptMessage],
    model: str,
    *,
    scope: str,
    deadline: float | None,
) -> ChatRequest:
    """What the model is asked for a branch that ends with a question."""
    system = (Message(Role.SYSTEM, heading.system),) if heading.system else ()
    wishes = heading.wishes
    return ChatRequest(
        model=model,
        conversation=Conversation(
            messages=(*system, *(_as_told(message) for message in branch)),
            reasoning=_reasoning(wishes),
        ),
        sampling=_sampling(wishes),
        max_tokens=wishes.max_tokens,
        cache_scope=scope,
        deadline=deadline,
    )


def _reasoning(wishes: Wishes) -> ReasoningWish:
    if wishes.reasoning_effort == "none":
        return ReasoningWish(enabled=False)
    return ReasoningWish(effort=wishes.reasoning_effort, budget=wishes.reasoning_budget)


def _sampling(wishes: Wishes) -> Sampling:
    names = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "seed")
    said = {name: value for name in names if (value := getattr(wishes, name)) is not None}
    return Sampling(**said)


def _as_told(message: KeptMessage) -> Message:
    files = "".join(_fenced(file) for file in message.files)
    return Message(Role(message.role), files + message.content, reasoning=message.reasoning or None)


def _fenced(file: AttachedFile) -> str:
    """Its name, and its text between fences longer than any in it."""
    fence = "```"
    while fence in file.text:
        fence += "`"
    end = "" if file.text.endswith("\n") else "\n"
    return f"{file.name}\n{fence}\n{file.text}{end}{fence}\n\n"
