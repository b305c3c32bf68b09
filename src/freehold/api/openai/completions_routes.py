"""OpenAI's route for completions without chat: parse once, lease, generate, answer."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Sequence

from fastapi import APIRouter, Request
from fastapi.responses import Response, StreamingResponse

from freehold.api.openai import completions_convert as convert
from freehold.api.openai.completions_convert import ReadPrompt, Scribes, Wish
from freehold.api.openai.completions_schema import (
    CompletionsRequest,
    TextChoice,
    TextCompletion,
)
from freehold.api.openai.convert import error_body
from freehold.api.openai.schema import ErrorResponse
from freehold.api.problem import problem_of
from freehold.api.routing import deadline_of, described_errors, reworded, runtime_of
from freehold.api.stream import EVENT_STREAM, event, until_client_leaves
from freehold.domain.answers import Part
from freehold.domain.chat import CompletionRequest
from freehold.domain.errors import FreeholdError, InvalidRequest
from freehold.runtime.answering import merged
from freehold.runtime.chat import Generation, vocabulary_source
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
        cache_scope="local",
        deadline=deadline_of(runtime),
    )
    wish = convert.wish(body)
    head = TextCompletion(
        id=f"cmpl-{uuid.uuid4().hex}", created=int(time.time()), model="", choices=[]
    )
    async with contextlib.AsyncExitStack() as stack:
        with reworded(convert.in_own_words):
            opened = await until_client_leaves(request, _open(runtime, asked, stack))
            read = await until_client_leaves(request, _read(runtime, opened, wish))
            scribes = Scribes(wish, read, body.n or 1)
            answers = tuple(answer for generation in opened for answer in generation.answers)
            parts = await stack.enter_async_context(contextlib.aclosing(merged(answers)))
            # The first part decides the status: until it comes, a failure is no stream's.
            first = await until_client_leaves(request, anext(parts))
            head = head.model_copy(update={"model": opened[0].model.name})
            if body.stream:
                counts = body.stream_options is not None and body.stream_options.include_usage
                return StreamingResponse(
                    _stream(first, parts, head, scribes, counts, stack.pop_all()),
                    media_type="text/event-stream",
                    headers={"Cache-Control": "no-cache"},
                )
            said = await until_client_leaves(request, _all(first, parts, scribes))
        whole = convert.completion(head.id, head.created, head.model, said, scribes.usage())
        return Response(whole.model_dump_json(), media_type="application/json")


async def _open(
    runtime: Runtime, asked: Sequence[CompletionRequest], stack: contextlib.AsyncExitStack
) -> list[Generation]:
    opened = []
    for one in asked:
        generation = await stack.enter_async_context(runtime.chat.open_completion(one))
        if not generation.prompt.tokens:
            raise InvalidRequest("The prompt is empty.", field="prompt")
        opened.append(generation)
    return opened


async def _read(
    runtime: Runtime, opened: Sequence[Generation], wish: Wish
) -> tuple[ReadPrompt, ...]:
    """The prompts as answers need them. The engine scores no first token, so it is asked for."""
    if not wish.scores_prompt:
        return tuple(ReadPrompt(generation.prompt.text) for generation in opened)
    source = vocabulary_source(opened[0].model)
    firsts = tuple(generation.prompt.tokens[0] for generation in opened)
    pieces = await runtime.text.detokenize(source, firsts)
    return tuple(
        ReadPrompt(generation.prompt.text, piece)
        for generation, piece in zip(opened, pieces, strict=True)
    )


async def _all(first: tuple[int, Part], parts: _Parts, scribes: Scribes) -> list[TextChoice]:
    said = scribes.of(*first)
    async for number, part in parts:
        said += scribes.of(number, part)
    return said


async def _stream(
    first: tuple[int, Part],
    parts: _Parts,
    head: TextCompletion,
    scribes: Scribes,
    counts: bool,
    held: contextlib.AsyncExitStack,
) -> AsyncIterator[bytes]:
    """The answers as they come. An error after the first byte is an event, then the end."""
    async with held:
        for choice in scribes.of(*first):
            yield _chunk(head, choice)
        try:
            with reworded(convert.in_own_words):
                async for number, part in parts:
                    for choice in scribes.of(number, part):
                        yield _chunk(head, choice)
        except FreeholdError as error:
            yield event(error_body(problem_of(error)).model_dump_json())
            return
        if counts:
            last = head.model_copy(update={"usage": scribes.usage()})
            yield event(last.model_dump_json())
        yield event("[DONE]")


def _chunk(head: TextCompletion, choice: TextChoice) -> bytes:
    return event(head.model_copy(update={"choices": [choice]}).model_dump_json())
