"""`/freehold/v1/conversations`: kept on this machine, each key its own."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response

from freehold.api.openai.schema import ErrorResponse
from freehold.api.problem import Problem
from freehold.api.routing import deadline_of, described_errors, runtime_of, scope_of
from freehold.api.stream import EVENT_STREAM, EVENTS, event, streamed, until_client_leaves
from freehold.api.web import conversations_schema as schema
from freehold.domain.events import PromptRead
from freehold.runtime.branches import branch_to
from freehold.runtime.branches import request as chat_request
from freehold.runtime.chat import told_of, vocabulary_source
from freehold.runtime.kept import AttachedFile, Heading, KeptMessage, Wishes
from freehold.runtime.kept_answers import KeptAnswers, More
from freehold.text.expectation import require_known

router = APIRouter(prefix="/freehold/v1/conversations")

_ERRORS = described_errors(ErrorResponse)
_Id = Annotated[str, Path(pattern=r"^[0-9a-f]{32}$")]


def _answers(request: Request) -> KeptAnswers:
    return runtime_of(request).kept_answers


@router.get("", responses=_ERRORS)
async def list_conversations(
    request: Request,
    containing: Annotated[str, Query(max_length=200)] = "",
    limit: Annotated[int, Query(ge=1, le=1000)] = 200,
) -> schema.ConversationList:
    """Those of this key, or those that contain a text in their title or messages."""
    conversations = runtime_of(request).conversations
    found, total = await asyncio.to_thread(conversations.headings, scope_of(), containing, limit)
    return schema.ConversationList(
        data=[schema.Heading(**_data(heading)) for heading in found],
        total=total,
        kept=conversations.kept,
    )


@router.post("", responses=_ERRORS)
async def begin_conversation(body: schema.NewConversation, request: Request) -> schema.Conversation:
    """An empty one."""
    made = await asyncio.to_thread(
        runtime_of(request).conversations.add,
        scope_of(),
        body.title,
        body.model,
        body.system,
        _wishes(body.wishes),
    )
    return _conversation(made, [])


@router.get("/{identity}", responses=_ERRORS)
async def get_conversation(identity: _Id, request: Request) -> schema.Conversation:
    """With all its messages, those being written too."""
    return _conversation(*await _answers(request).opened(scope_of(), identity))


@router.patch("/{identity}", responses=_ERRORS)
async def change_conversation(
    identity: _Id, body: schema.ChangedConversation, request: Request
) -> schema.Conversation:
    """Rename it, choose its branch, or say how it goes on."""
    owner, conversations = scope_of(), runtime_of(request).conversations
    heading = await asyncio.to_thread(conversations.heading, owner, identity)
    changed: dict[str, Any] = {
        name: getattr(body, name)
        for name in ("title", "model", "system", "leaf")
        if getattr(body, name) is not None
    }
    if body.wishes is not None:
        changed["wishes"] = _wishes(body.wishes)
    await asyncio.to_thread(
        conversations.change, owner, msgspec.structs.replace(heading, **changed)
    )
    return _conversation(*await _answers(request).opened(owner, identity))


@router.delete("/{identity}", status_code=204, responses=_ERRORS)
async def delete_conversation(identity: _Id, request: Request) -> None:
    """With its messages; what is being written is stopped."""
    owner = scope_of()
    await _answers(request).stop_all(owner, identity)
    await asyncio.to_thread(runtime_of(request).conversations.delete, owner, identity)


@router.post("/{identity}/messages", responses=_ERRORS)
async def add_message(identity: _Id, body: schema.NewMessage, request: Request) -> schema.Message:
    """Ask something. Nothing is answered before an answer is begun."""
    message = KeptMessage(
        id=uuid.uuid4().hex,
        parent=body.parent,
        role="user",
        content=body.content,
        created=time.time(),
        files=tuple(AttachedFile(file.name, file.text) for file in body.files),
    )
    await asyncio.to_thread(
        runtime_of(request).conversations.add_message, scope_of(), identity, message
    )
    return _message(message)


@router.post("/{identity}/answers", responses=_ERRORS)
async def begin_answer(identity: _Id, body: schema.NewAnswer, request: Request) -> schema.Message:
    """Have a question answered; once more where it has an answer. Watch it under its ``events``."""
    runtime, owner = runtime_of(request), scope_of()
    answer = await runtime.kept_answers.begin(
        owner, identity, body.parent, body.model, scope=owner, deadline=deadline_of(runtime)
    )
    return _message(answer)


@router.get(
    "/{identity}/messages/{answer}/events",
    response_model=schema.Whole,
    responses={**_ERRORS, **EVENT_STREAM},
)
async def watch_answer(identity: _Id, answer: _Id, request: Request) -> Response:
    """An answer as it is written, as server-sent events: what there is of it, what comes, and how
    it ended. Leaving does not stop it; whoever comes again misses nothing.
    """
    told = _told(_answers(request), scope_of(), identity, answer)
    return await streamed(request, told, EVENTS, _failed)


async def _told(
    answers: KeptAnswers, owner: str, identity: str, answer: str
) -> AsyncGenerator[bytes, None]:
    async for news in answers.watch(owner, identity, answer):
        if isinstance(news, More):
            more = schema.More(content=news.content, reasoning=news.reasoning)
            yield event(more.model_dump_json())
        elif isinstance(news, PromptRead):
            reading = schema.Reading(tokens=news.read, prompt_tokens=news.prompt_tokens)
            yield event(reading.model_dump_json())
        else:
            yield event(schema.Whole(message=_message(news)).model_dump_json())


def _failed(problem: Problem) -> list[bytes]:
    return [
        event(
            schema.Failed(
                message=problem.message, code=problem.code, values=problem.told
            ).model_dump_json()
        )
    ]


@router.post("/{identity}/messages/{answer}/stop", responses=_ERRORS)
async def stop_answer(identity: _Id, answer: _Id, request: Request) -> schema.Message:
    """End an answer where it is; what has been written is kept. The body is an empty object."""
    return _message(await _answers(request).stop(scope_of(), identity, answer))


@router.post("/{identity}/messages/{answer}/continue", responses=_ERRORS)
async def continue_answer(identity: _Id, answer: _Id, request: Request) -> schema.Message:
    """Go on with an answer that is `resumable`, in its place: the model goes on behind the last
    token it wrote, with the conversation's settings as they are now. Watch it as before. The body
    is an empty object.
    """
    runtime, owner = runtime_of(request), scope_of()
    return _message(
        await runtime.kept_answers.go_on(
            owner, identity, answer, scope=owner, deadline=deadline_of(runtime)
        )
    )


@router.get("/{identity}/messages/{message}/prompt", responses=_ERRORS)
async def seen_prompt(identity: _Id, message: _Id, request: Request) -> schema.SeenPrompt:
    """Exactly what the model sees for a question, or saw for an answer."""
    return await until_client_leaves(request, _seen(request, identity, message))


async def _seen(request: Request, identity: str, identified: str) -> schema.SeenPrompt:
    runtime, owner = runtime_of(request), scope_of()
    heading, messages = await runtime.kept_answers.opened(owner, identity)
    branch = branch_to(messages, identified)
    model = branch[-1].model or heading.model
    if model is None:
        model = await asyncio.to_thread(runtime.manager.sole)
    if branch[-1].role == "assistant":
        branch.pop()
    asked = chat_request(heading, branch, model, scope=owner, deadline=None)
    source = vocabulary_source(await runtime.manager.local(model))
    told = told_of(asked)
    require_known(source.template, told, asked.tool_choice)
    prompt = await runtime.text.render(source, told)
    return schema.SeenPrompt(prompt=prompt.text, token_count=len(prompt.tokens))


def _wishes(body: schema.Wishes) -> Wishes:
    return Wishes(**body.model_dump())


def _data(value: Heading | KeptMessage) -> dict[str, Any]:
    data: dict[str, Any] = msgspec.to_builtins(value)
    return data


def _message(message: KeptMessage) -> schema.Message:
    shown = msgspec.structs.replace(message, tokens=b"")
    return schema.Message(**_data(shown), resumable=message.resumable)


def _conversation(heading: Heading, messages: list[KeptMessage]) -> schema.Conversation:
    return schema.Conversation(
        **_data(heading), messages=[_message(message) for message in messages]
    )
