"""Between OpenAI's words for completions without chat and ours. Pure."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from freehold.api.openai import convert
from freehold.api.openai.completions_schema import (
    MAX_TOGETHER,
    CompletionsRequest,
    TextChoice,
    TextCompletion,
    TextLogprobs,
)
from freehold.api.openai.schema import Usage
from freehold.domain import answers
from freehold.domain.chat import CompletionRequest
from freehold.domain.errors import InvalidRequest
from freehold.domain.events import TokenLogprob

DEFAULT_MAX_TOKENS = 16

# Fields as deeper layers name them: they do not know how the prompt came.
_OWN_WORDS = {"tokens": "prompt", "messages": "prompt"}


@dataclass(frozen=True)
class Wish:
    """What is to be shown. ``answer`` False: nothing is to be generated."""

    echo: bool
    logprobs: bool
    answer: bool

    @property
    def scores_prompt(self) -> bool:
        return self.echo and self.logprobs


@dataclass(frozen=True)
class ReadPrompt:
    """A prompt as text, and the bytes of its first token."""

    text: str
    first_piece: bytes = b""


def wish(body: CompletionsRequest) -> Wish:
    return Wish(
        echo=bool(body.echo), logprobs=body.logprobs is not None, answer=body.max_tokens != 0
    )


def completion_requests(
    body: CompletionsRequest, *, cache_scope: str, deadline: float
) -> tuple[CompletionRequest, ...]:
    """One for each prompt. Raises `InvalidRequest` where fields contradict each other."""
    _require_sense(body)
    wanted = DEFAULT_MAX_TOKENS if body.max_tokens is None else body.max_tokens
    return tuple(
        CompletionRequest(
            model=body.model,
            prompt=prompt,
            suffix=body.suffix,
            sampling=convert.sampling(body),
            # No engine ends before it has chosen a token: where none is wanted, one is generated
            # and left out of the answer and of the count.
            max_tokens=max(wanted, 1),
            cache_scope=cache_scope,
            deadline=deadline,
            top_logprobs=body.logprobs,
            prompt_logprobs=body.logprobs if body.echo else None,
            answers=body.n or 1,
        )
        for prompt in body.prompt
    )


def _require_sense(body: CompletionsRequest) -> None:
    each = body.n or 1
    if body.stream_options is not None and not body.stream:
        raise InvalidRequest(
            "stream_options has a meaning only with stream: true.", field="stream_options"
        )
    if body.best_of is not None and body.best_of != each:
        raise InvalidRequest(
            "All answers are returned: best_of can only be as many as n.", field="best_of"
        )
    if len(body.prompt) * each > MAX_TOGETHER:
        raise InvalidRequest(
            f"{len(body.prompt)} prompts with {each} answers each are too many; "
            f"at most {MAX_TOGETHER} answers are given at once.",
            field="n",
        )
    if body.suffix is None:
        return
    if body.echo:
        raise InvalidRequest("A prompt around a hole cannot be echoed.", field="echo")
    if not all(isinstance(prompt, str) for prompt in body.prompt):
        raise InvalidRequest(
            "A suffix goes with a prompt that is text, not token ids.", field="suffix"
        )


def in_own_words(error: InvalidRequest) -> InvalidRequest:
    """The same complaint with the field as this route names it."""
    field = _OWN_WORDS.get(error.field or "", error.field)
    return InvalidRequest(error.message, field=field, hint=error.hint, values=error.values)


class _Scribe:
    """Words one answer: its text, and where its tokens stand in prompt and answer together."""

    def __init__(self, index: int, asked: Wish, prompt: ReadPrompt) -> None:
        self._index = index
        self._asked = asked
        self._prompt = prompt
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._at = len(prompt.text)

    def begin(self, found: Sequence[TokenLogprob]) -> list[TextChoice]:
        if not self._asked.echo:
            return []
        scored = self._scored_prompt(found) if self._asked.logprobs else None
        return [TextChoice(text=self._prompt.text, index=self._index, logprobs=scored)]

    def go_on(self, text: str, found: Sequence[TokenLogprob]) -> list[TextChoice]:
        if not self._asked.answer or not (text or found):
            return []
        scored = self._listed(found) if self._asked.logprobs else None
        return [TextChoice(text=text, index=self._index, logprobs=scored)]

    def end(self, ended: answers.Ended) -> list[TextChoice]:
        reason = ended.reason
        by_length = reason is answers.EndReason.LENGTH or not self._asked.answer
        scored = None
        if self._asked.scores_prompt and self._asked.answer and reason is answers.EndReason.STOP:
            # Whoever scores a prompt asks for one token and drops the last of the list; without
            # this entry that would be one of the prompt's own.
            scored = _logprobs([""], [None], [None], [self._at])
        return [
            TextChoice(
                text="",
                index=self._index,
                logprobs=scored,
                finish_reason="length" if by_length else "stop",
                timings=convert.timings(ended),
            )
        ]

    def _scored_prompt(self, found: Sequence[TokenLogprob]) -> TextLogprobs:
        pieces = [self._prompt.first_piece, *(one.chosen.piece for one in found)]
        spelled = b"".join(pieces).decode("utf-8", "replace")
        # Tokens may spell more than was given: a beginning mark, a space. Those stand at 0.
        self._at = len(self._prompt.text) - len(spelled)
        first = self._passed(self._prompt.first_piece)
        rest = self._listed(found)
        return joined(
            [_logprobs([spelling(self._prompt.first_piece)], [None], [None], [first]), rest]
        )

    def _listed(self, found: Sequence[TokenLogprob]) -> TextLogprobs:
        return _logprobs(
            [spelling(one.chosen.piece) for one in found],
            [convert.finite(one.chosen.logprob) for one in found],
            [_alternatives(one) for one in found],
            [self._passed(one.chosen.piece) for one in found],
        )

    def _passed(self, piece: bytes) -> int:
        """Where ``piece`` begins; the next one begins behind it."""
        begins = max(self._at, 0)
        self._at += len(self._decoder.decode(piece))
        return begins


class Scribes:
    """Words the parts of the answers to all prompts, ``each`` answers to each prompt."""

    def __init__(self, asked: Wish, prompts: Sequence[ReadPrompt], each: int) -> None:
        self._asked = asked
        self._prompts = len(prompts)
        self._scribes = [
            _Scribe(number, asked, prompts[number // each]) for number in range(len(prompts) * each)
        ]
        self._counted: dict[int, answers.AnswerUsage] = {}

    def of(self, number: int, part: answers.Part) -> list[TextChoice]:
        """What one part is to the client: nothing, or a part of a choice."""
        scribe = self._scribes[number]
        match part:
            case answers.Begun(logprobs=found):
                return scribe.begin(found)
            case answers.ContentDelta(text, found):
                return scribe.go_on(text, found)
            case answers.Ended():
                self._counted[number] = part.usage
                return scribe.end(part)
            case _:  # without a template there is neither reasoning nor a call
                return []

    def usage(self) -> Usage:
        """When all answers have ended."""
        counted = [self._counted[number] for number in range(len(self._scribes))]
        if not self._asked.answer:
            counted = [replace(each, completion_tokens=0) for each in counted]
        return convert.usage(counted, self._prompts)


def completion(head: TextCompletion, parts: Iterable[TextChoice], counted: Usage) -> TextCompletion:
    """All parts of all choices, put together. ``head`` is what every chunk would have."""
    by_index: dict[int, list[TextChoice]] = {}
    for part in parts:
        by_index.setdefault(part.index, []).append(part)
    choices = [_whole(by_index[index]) for index in sorted(by_index)]
    return head.model_copy(update={"choices": choices, "usage": counted})


def _whole(parts: Sequence[TextChoice]) -> TextChoice:
    scored = [part.logprobs for part in parts if part.logprobs is not None]
    return TextChoice(
        text="".join(part.text for part in parts),
        index=parts[0].index,
        logprobs=joined(scored) if scored else None,
        finish_reason=parts[-1].finish_reason,
        timings=parts[-1].timings,
    )


def joined(found: Iterable[TextLogprobs]) -> TextLogprobs:
    whole = _logprobs([], [], [], [])
    for more in found:
        whole.tokens.extend(more.tokens)
        whole.token_logprobs.extend(more.token_logprobs)
        whole.top_logprobs.extend(more.top_logprobs)
        whole.text_offset.extend(more.text_offset)
    return whole


def spelling(piece: bytes) -> str:
    """A token as text: no two tokens of different bytes look the same."""
    try:
        return piece.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in piece)


def _alternatives(one: TokenLogprob) -> dict[str, float]:
    """The likeliest, best first, and the token itself if it is none of them."""
    found: dict[str, float] = {}
    for alternative in (*one.top, one.chosen):
        found.setdefault(spelling(alternative.piece), convert.finite(alternative.logprob))
    return found


def _logprobs(
    tokens: list[str],
    own: Sequence[float | None],
    top: Sequence[dict[str, float] | None],
    offsets: list[int],
) -> TextLogprobs:
    return TextLogprobs(
        tokens=tokens, token_logprobs=list(own), top_logprobs=list(top), text_offset=offsets
    )
