"""OpenAI's route for completions without chat: parse once, lease, generate, answer."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from fastapi import APIRouter, Request
from fastapi.responses import Response

from freehold.api.openai import completions_convert as convert
from freehold.api.openai.completions_convert import ReadPrompt, Scribes, Wish
from freehold.api.openai.completions_schema import (
    CompletionsRequest,
    TextChoice,
    TextCompletion,
)
from freehold.api.openai.convert import error_body
from freehold.api.openai.schema import ErrorResponse
from freehold.api.problem import Problem
from freehold.api.routing import deadline_of, described_errors, reworded, runtime_of, scope_of
from freehold.api.stream import EVENT_STREAM, EVENTS, event, streamed, until_client_leaves
from freehold.domain.answers import Part
from freehold.domain.chat import CompletionRequest
from freehold.domain.errors import InvalidRequest
from freehold.runtime.answering import merged
from freehold.runtime.chat import Rendered
from freehold.runtime.wiring import Runtime

router = APIRouter(prefix="/v1")

_ERRORS = described_errors(ErrorResponse)

_Parts = AsyncGenerator[tuple[int, Part], None]


@router.post("/completions", response_model=TextCompletion, responses={**_ERRORS, **EVENT_STREAM})
async def completions(body: CompletionsRequest, request: Request) -> Response:
    """Go on with texts, whole or as server-sent events."""
    runtime = runtime_of(request)
    asked = convert.completion_requests(
        body,
        cache_scope=scope_of(),
        deadline=deadline_of(runtime),
    )
    wish = convert.wish(body)
    opening = _open(runtime, asked, wish)
    if body.stream:
        counts = body.stream_options is not None and body.stream_options.include_usage
        told = _told(opening, include_usage=counts)
        return await streamed(request, told, EVENTS, _failed, model=body.model)
    whole = await until_client_leaves(request, _whole(opening))
    return Response(whole.model_dump_json(), media_type="application/json")


@dataclass(frozen=True)
class _Opened:
    """The prompts of one request, ready to be gone on with. ``head``: what all chunks have."""

    head: TextCompletion
    scribes: Scribes
    parts: _Parts


@contextlib.asynccontextmanager
async def _open(
    runtime: Runtime, asked: Sequence[CompletionRequest], wish: Wish
) -> AsyncIterator[_Opened]:
    async with contextlib.AsyncExitStack() as held:
        held.enter_context(reworded(convert.in_own_words))
        opened = await held.enter_async_context(runtime.chat.open_completions(asked))
        if not all(generation.prompt.tokens for generation in opened):
            raise InvalidRequest("The prompt is empty.", field="prompt")
        scribes = Scribes(wish, await _read(runtime, opened, wish), asked[0].answers)
        answers = tuple(answer for generation in opened for answer in generation.answers)
        parts = await held.enter_async_context(contextlib.aclosing(merged(answers)))
        yield _Opened(_head(opened[0]), scribes, parts)


def _head(first: Rendered) -> TextCompletion:
    return TextCompletion(
        id=f"cmpl-{first.request_id}",
        created=int(time.time()),
        model=first.name,
        choices=[],
    )


async def _read(runtime: Runtime, opened: Sequence[Rendered], wish: Wish) -> tuple[ReadPrompt, ...]:
    """The prompts as answers need them. The engine scores no first token, so it is asked for."""
    if not wish.scores_prompt:
        return tuple(ReadPrompt(generation.prompt.text) for generation in opened)
    firsts = tuple(generation.prompt.tokens[0] for generation in opened)
    pieces = await runtime.text.detokenize(opened[0].source, firsts)
    return tuple(
        ReadPrompt(generation.prompt.text, piece)
        for generation, piece in zip(opened, pieces, strict=True)
    )


async def _whole(opening: AbstractAsyncContextManager[_Opened]) -> TextCompletion:
    async with opening as opened:
        said: list[TextChoice] = []
        async for number, part in opened.parts:
            said += opened.scribes.of(number, part)
    return convert.completion(opened.head, said, opened.scribes.usage())


async def _told(
    opening: AbstractAsyncContextManager[_Opened], *, include_usage: bool
) -> AsyncGenerator[bytes, None]:
    """The answers as they come."""
    async with opening as opened:
        async for number, part in opened.parts:
            for choice in opened.scribes.of(number, part):
                yield _chunk(opened.head, choice)
    if include_usage:
        last = opened.head.model_copy(update={"usage": opened.scribes.usage()})
        yield event(last.model_dump_json())
    yield event("[DONE]")


def _failed(problem: Problem) -> list[bytes]:
    return [event(error_body(problem).model_dump_json())]


def _chunk(head: TextCompletion, choice: TextChoice) -> bytes:
    return event(head.model_copy(update={"choices": [choice]}).model_dump_json())
