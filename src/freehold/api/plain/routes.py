"""Our own small routes. No model is loaded for them: its vocabulary and template are enough."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Query, Request

from freehold.api.openai import convert
from freehold.api.openai.schema import ErrorResponse
from freehold.api.plain.schema import (
    AppliedTemplate,
    ApplyTemplateRequest,
    DetokenizeRequest,
    Piece,
    Spelled,
    TokenizeRequest,
    TokenizerInfo,
    Tokens,
)
from freehold.api.routing import deadline_of, described_errors, runtime_of
from freehold.api.stream import until_client_leaves
from freehold.domain.chat import ChatRequest, Conversation
from freehold.engines.base import begun_before
from freehold.runtime.chat import told_of, vocabulary_source
from freehold.runtime.wiring import Runtime
from freehold.text.expectation import require_known
from freehold.weights.library import LocalModel

router = APIRouter()

# As the template's variables are called → where the file has the token's id.
_SPECIAL = {
    "bos_token": "tokenizer.ggml.bos_token_id",
    "eos_token": "tokenizer.ggml.eos_token_id",
    "pad_token": "tokenizer.ggml.padding_token_id",
}

_ERRORS = described_errors(ErrorResponse)


@router.post("/tokenize", responses=_ERRORS)
async def tokenize(body: TokenizeRequest, request: Request) -> Tokens:
    """A text as the model's tokens."""
    return await until_client_leaves(request, _tokenize(runtime_of(request), body))


@router.post("/detokenize", responses=_ERRORS)
async def detokenize(body: DetokenizeRequest, request: Request) -> Spelled:
    """The text that tokens spell."""
    return await until_client_leaves(request, _detokenize(runtime_of(request), body))


@router.get("/tokenizer_info", responses=_ERRORS)
async def tokenizer_info(
    request: Request, model: Annotated[str | None, Query(max_length=1024)] = None
) -> TokenizerInfo:
    """What a client needs to know of a tokeniser it asks for everything else."""
    return await _tokenizer_info(runtime_of(request), model or None)


@router.post("/apply-template", responses=_ERRORS)
async def apply_template(body: ApplyTemplateRequest, request: Request) -> AppliedTemplate:
    """The prompt that the model's chat template makes of a conversation."""
    return await until_client_leaves(request, _apply_template(runtime_of(request), body))


async def _tokenize(runtime: Runtime, body: TokenizeRequest) -> Tokens:
    async with begun_before(deadline_of(runtime)):
        source = vocabulary_source(await _local(runtime, body.model))
        found = await runtime.text.tokenize(
            source,
            body.content,
            special=body.parse_special,
            beginning=body.add_special,
            ending=body.add_special,
        )
        if not body.with_pieces:
            return Tokens(tokens=list(found.tokens), count=len(found.tokens))
        pieces = await runtime.text.detokenize(source, found.tokens)
    return Tokens(
        tokens=[
            Piece(id=token, piece=_shown(piece))
            for token, piece in zip(found.tokens, pieces, strict=True)
        ],
        count=len(found.tokens),
    )


def _shown(piece: bytes) -> str | list[int]:
    try:
        return piece.decode("utf-8")
    except UnicodeDecodeError:
        return list(piece)


async def _detokenize(runtime: Runtime, body: DetokenizeRequest) -> Spelled:
    async with begun_before(deadline_of(runtime)):
        source = vocabulary_source(await _local(runtime, body.model))
        pieces = await runtime.text.detokenize(source, tuple(body.tokens))
    content = b"".join(pieces).decode("utf-8", "replace")
    return Spelled(content=content, prompt=content)


async def _tokenizer_info(runtime: Runtime, model: str | None) -> TokenizerInfo:
    async with begun_before(deadline_of(runtime)):
        local = await _local(runtime, model)
        ids = {
            name: token
            for name, key in _SPECIAL.items()
            if (token := local.header.integer(key)) is not None
        }
        pieces = await runtime.text.detokenize(vocabulary_source(local), tuple(ids.values()))
    spelled = [piece.decode("utf-8", "replace") for piece in pieces]
    known = dict(zip(ids, spelled, strict=True))
    return TokenizerInfo(
        model=local.name,
        bos_token=known.get("bos_token"),
        eos_token=known.get("eos_token"),
        pad_token=known.get("pad_token"),
        chat_template=local.header.chat_template,
    )


async def _local(runtime: Runtime, model: str | None) -> LocalModel:
    if model is None:
        model = await asyncio.to_thread(runtime.manager.sole)
    return await runtime.manager.local(model)


async def _apply_template(runtime: Runtime, body: ApplyTemplateRequest) -> AppliedTemplate:
    asked = ChatRequest(
        model=body.model,
        conversation=Conversation(
            messages=convert.messages(body.messages),
            tools=convert.tools(body.tools or ()),
            reasoning=convert.reasoning_wish(body.reasoning_effort, None),
        ),
        tool_choice=convert.tool_choice(body.tool_choice, None),
    )
    async with begun_before(deadline_of(runtime)):
        source = vocabulary_source(await runtime.manager.local(body.model))
        told = told_of(asked)
        require_known(source.template, told, asked.tool_choice)
        prompt = await runtime.text.render(source, told)
    return AppliedTemplate(prompt=prompt.text, token_count=len(prompt.tokens))
