"""vLLM's answer in our words: events of `domain.events` from the lines of its stream. Pure.

The text is made from the token ids by the same rules as in our own worker: control tokens are seen
only where the prompt's template writes with them, characters are whole, a stop string ends it.
"""

from __future__ import annotations

import base64
import binascii
import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from freehold.domain.chat import GenerateRequest
from freehold.domain.errors import EngineError
from freehold.domain.events import Alternative, FinishReason, TokenLogprob
from freehold.engines.answer import Answer
from freehold.process.decoding import from_json, json_decoder
from freehold.text.token_table import TokenTable


class _Logprob(msgspec.Struct, frozen=True):
    token_id: int
    logprob: float


class _TokenLogprob(_Logprob, frozen=True):
    top_logprobs: tuple[_Logprob, ...] = ()


class _Logprobs(msgspec.Struct, frozen=True):
    content: tuple[_TokenLogprob, ...] | None = None


class Choice(msgspec.Struct, frozen=True):
    token_ids: tuple[int, ...] | None = None
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None

    def cut(self, count: int) -> Choice:
        """The first so many tokens; what ended it comes after them."""
        content = self.logprobs.content if self.logprobs is not None else None
        return Choice(
            token_ids=(self.token_ids or ())[:count],
            finish_reason=None,
            logprobs=None if content is None else _Logprobs(content[:count]),
        )


class _Ranked(msgspec.Struct, frozen=True):
    logprob: float


class _Read(msgspec.Struct, frozen=True):
    """An answer that was not streamed: of each token of the prompt the likeliest and its own."""

    prompt_logprobs: tuple[dict[str, _Ranked] | None, ...] | None = None


class _Vector(msgspec.Struct, frozen=True):
    index: int
    embedding: str


class _Vectors(msgspec.Struct, frozen=True):
    data: tuple[_Vector, ...]


class _Details(msgspec.Struct, frozen=True):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct, frozen=True):
    prompt_tokens_details: _Details | None = None


class _Error(msgspec.Struct, frozen=True):
    message: str = ""


class Chunk(msgspec.Struct, frozen=True):
    """One line of the stream, as far as it is read. ``error`` stands alone."""

    choices: tuple[Choice, ...] = ()
    usage: _Usage | None = None
    error: _Error | None = None

    @property
    def cached_tokens(self) -> int | None:
        details = self.usage.prompt_tokens_details if self.usage is not None else None
        return None if details is None else details.cached_tokens


_CHUNKS = json_decoder(Chunk)


def chunk_of(line: str) -> Chunk | None:
    """What a line of the stream says; None where it says nothing. Raises `EngineError`."""
    if not line.startswith("data:"):
        return None
    data = line[5:].strip()
    if data == "[DONE]":
        return None
    try:
        return _CHUNKS.decode(data)
    except msgspec.DecodeError as error:
        raise EngineError(f"vLLM said something that is not understood: {error}.") from error


def error_of(body: bytes) -> str:
    """The sentence in the body of a refusal. Raises `EngineError` where there is none."""
    try:
        said = from_json(body, Chunk).error
    except msgspec.DecodeError as error:
        raise EngineError("vLLM refused without a reason.") from error
    if said is None or not said.message:
        raise EngineError("vLLM refused without a reason.")
    return said.message[:300]


def prompt_logprobs_of(
    body: bytes, prompt: Sequence[int], table: TokenTable, top: int
) -> tuple[TokenLogprob, ...]:
    """Of every token of ``prompt`` but the first. Raises `EngineError` for anything less."""
    try:
        said = from_json(body, _Read).prompt_logprobs or ()
        return tuple(
            _of_token(token, found, table, top)
            for token, found in zip(prompt[1:], said[1:], strict=True)
        )
    except (msgspec.DecodeError, ValueError, KeyError) as error:
        raise EngineError(f"vLLM's words on the prompt are not understood: {error}.") from error


def _of_token(
    token: int, found: Mapping[str, _Ranked] | None, table: TokenTable, top: int
) -> TokenLogprob:
    known = {int(text): each.logprob for text, each in (found or {}).items()}
    best = sorted(known.items(), key=lambda each: (-each[1], each[0]))[:top]
    return TokenLogprob(
        Alternative(token, spelled(table, token), known[token]),
        tuple(Alternative(one, spelled(table, one), value) for one, value in best),
    )


def vectors_of(body: bytes, count: int) -> list[tuple[float, ...]]:
    """So many vectors, each of length 1, in the order asked. Raises `EngineError`."""
    try:
        said = sorted(from_json(body, _Vectors).data, key=lambda each: each.index)
        found = [_floats(base64.b64decode(each.embedding, validate=True)) for each in said]
    except (msgspec.DecodeError, binascii.Error, struct.error) as error:
        raise EngineError(f"vLLM's vectors are not understood: {error}.") from error
    if [each.index for each in said] != list(range(count)):
        raise EngineError("vLLM gave other vectors than were asked for.")
    return [_normalised(vector) for vector in found]


def _floats(data: bytes) -> tuple[float, ...]:
    return struct.unpack(f"<{len(data) // 4}f", data)


def _normalised(vector: tuple[float, ...]) -> tuple[float, ...]:
    """vLLM scales them in bfloat16, which is not quite length 1."""
    length = math.hypot(*vector)
    if not math.isfinite(length) or length == 0.0:
        raise EngineError("vLLM gave a vector that has no direction.")
    return tuple(number / length for number in vector)


def spelled(table: TokenTable, token: int) -> bytes:
    """The rows of the output may be padded beyond the vocabulary."""
    return table.pieces[token] if token < len(table.pieces) else b""


@dataclass(frozen=True)
class Heard:
    """What a chunk adds. ``reason`` is set when the answer is over."""

    text: str
    tokens: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...]
    reason: FinishReason | None = None


class Listener:
    """Reads one answer, or one phase of it. ``answer`` is shared by the phases."""

    def __init__(self, request: GenerateRequest, table: TokenTable, answer: Answer) -> None:
        self._wanted = request.top_logprobs
        self._table = table
        self._shown = frozenset(request.shown)
        self._answer = answer

    def hear(self, choice: Choice) -> Heard:
        """A token that ends the turn is no part of the answer."""
        tokens = list(choice.token_ids or ())
        logprobs = list(self._logprobs(choice)) if self._wanted is not None else []
        if choice.finish_reason == "stop" and tokens and tokens[-1] in self._table.ends:
            tokens.pop()
            del logprobs[len(tokens) :]
        text, kept = "", 0
        for token in tokens:
            spoken = self._answer.speak(self.piece(token))
            text, kept = text + spoken.text, kept + 1
            if spoken.reason is not None:
                return Heard(text, tuple(tokens[:kept]), tuple(logprobs[:kept]), spoken.reason)
        return Heard(text, tuple(tokens), tuple(logprobs), _reason(choice.finish_reason))

    def piece(self, token: int) -> bytes:
        """What a token adds to the answer."""
        if token in self._table.unseen and token not in self._shown:
            return b""
        return spelled(self._table, token)

    def _logprobs(self, choice: Choice) -> Iterable[TokenLogprob]:
        content = choice.logprobs.content if choice.logprobs is not None else None
        for each in content or ():
            # vLLM puts the chosen token first, whatever its rank.
            best = sorted(each.top_logprobs, key=lambda one: (-one.logprob, one.token_id))
            yield TokenLogprob(
                self._alternative(each),
                tuple(self._alternative(one) for one in best[: self._wanted]),
            )

    def _alternative(self, said: _Logprob) -> Alternative:
        return Alternative(said.token_id, spelled(self._table, said.token_id), said.logprob)


def _reason(said: str | None) -> FinishReason | None:
    """Raises `EngineError` for an answer that was broken off."""
    match said:
        case None:
            return None
        case "stop":
            return FinishReason.STOP
        case "length":
            return FinishReason.LENGTH
        case _:
            raise EngineError(f"vLLM ended the answer: {said}.")
