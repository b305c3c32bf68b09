"""Completions without chat: what is asked for, and how parts become choices."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import pytest
from pydantic import ValidationError

from freehold.api.openai import completions_convert as convert
from freehold.api.openai.completions_convert import ReadPrompt, Scribes, Wish
from freehold.api.openai.completions_schema import CompletionsRequest, TextChoice, TextCompletion
from freehold.domain.answers import AnswerUsage, Begun, ContentDelta, Ended, EndReason, Part
from freehold.domain.chat import CompletionRequest
from freehold.domain.errors import InvalidRequest
from freehold.domain.events import Alternative, Timings, TokenLogprob


def body(**fields: Any) -> CompletionsRequest:
    return CompletionsRequest.model_validate({"model": "m", "prompt": "Once", **fields})


def asked(**fields: Any) -> tuple[CompletionRequest, ...]:
    return convert.completion_requests(body(**fields), cache_scope="local", deadline=1.0)


def scored(piece: bytes, logprob: float = -1.0, *others: tuple[bytes, float]) -> TokenLogprob:
    top = tuple(Alternative(number, *other) for number, other in enumerate(others))
    return TokenLogprob(Alternative(99, piece, logprob), top)


def ended(reason: EndReason = EndReason.STOP, *, generated: int = 1, prompt: int = 3) -> Ended:
    return Ended(reason, AnswerUsage(prompt, 1, generated), Timings(0, 0, 0), seed=1)


def told(
    parts: Iterable[tuple[int, Part]], wish: Wish, *prompts: ReadPrompt, each: int = 1
) -> TextCompletion:
    scribes = Scribes(wish, prompts, each)
    choices: list[TextChoice] = []
    for number, part in parts:
        choices += scribes.of(number, part)
    head = TextCompletion(id="id", created=0, model="m", choices=[])
    return convert.completion(head, choices, scribes.usage())


@pytest.mark.parametrize(
    ("prompt", "read"),
    [
        ("Once", ("Once",)),
        (["Once", "Twice"], ("Once", "Twice")),
        ([1, 2, 3], ((1, 2, 3),)),
        ([[1, 2], [3]], ((1, 2), (3,))),
        (["Once", [3]], ("Once", (3,))),
        ("", ("",)),
    ],
)
def test_a_prompt_has_four_forms(prompt: Any, read: Any) -> None:
    assert tuple(request.prompt for request in asked(prompt=prompt)) == read


@pytest.mark.parametrize("prompt", [[], [[]], [1.5], [True], 7, None, [[1], 2], [-1], ["x"] * 65])
def test_other_prompts_are_none(prompt: Any) -> None:
    with pytest.raises(ValidationError):
        body(prompt=prompt)


def test_sixteen_tokens_unless_said() -> None:
    assert asked()[0].max_tokens == 16
    assert asked(max_tokens=None)[0].max_tokens == 16
    assert asked(max_tokens=3)[0].max_tokens == 3


def test_prompts_are_scored_only_where_they_are_shown() -> None:
    assert (asked(logprobs=2)[0].top_logprobs, asked(logprobs=2)[0].prompt_logprobs) == (2, None)
    both = asked(logprobs=0, echo=True)[0]
    assert (both.top_logprobs, both.prompt_logprobs) == (0, 0)
    assert asked(echo=True)[0].prompt_logprobs is None


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"n": 2, "best_of": 3}, "best_of"),
        ({"best_of": 2}, "best_of"),
        ({"prompt": ["x"] * 33, "n": 2}, "n"),
        ({"suffix": "end", "echo": True}, "echo"),
        ({"suffix": "end", "prompt": [1]}, "suffix"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
    ],
)
def test_contradictions_are_named(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        asked(**fields)
    assert raised.value.field == field


def test_as_many_as_allowed() -> None:
    assert len(asked(prompt=["x"] * 32, n=2, best_of=2)) == 32


def test_answers_are_numbered_through_all_prompts() -> None:
    parts: list[tuple[int, Part]] = []
    for number in (3, 0, 2, 1):
        parts += [(number, Begun(3, 1)), (number, ContentDelta(f"answer {number}"))]
        parts += [(number, ended(generated=number))]
    wish = Wish(echo=True, logprobs=False, answer=True)
    whole = told(parts, wish, ReadPrompt("A: "), ReadPrompt("B: "), each=2)
    assert [choice.text for choice in whole.choices] == [
        *("A: answer 0", "A: answer 1", "B: answer 2", "B: answer 3")
    ]
    assert [choice.index for choice in whole.choices] == [0, 1, 2, 3]
    assert whole.usage is not None
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (6, 6)
    assert whole.usage.prompt_tokens_details.cached_tokens == 2


def test_echo_with_logprobs_lists_prompt_and_answer() -> None:
    begun = Begun(3, 0, (scored(b" upon", -2.0, (b" more", -0.5)), scored(b" a", -0.25)))
    parts: list[tuple[int, Part]] = [
        (0, begun),
        (0, ContentDelta(" time", (scored(b" time", -0.125, (b" time", -0.125)),))),
        (0, ended(EndReason.LENGTH)),
    ]
    wish = Wish(echo=True, logprobs=True, answer=True)
    (choice,) = told(parts, wish, ReadPrompt("Once upon a", b"Once")).choices
    assert choice.text == "Once upon a time"
    assert choice.finish_reason == "length"
    assert choice.logprobs is not None
    assert choice.logprobs.tokens == ["Once", " upon", " a", " time"]
    assert choice.logprobs.token_logprobs == [None, -2.0, -0.25, -0.125]
    assert choice.logprobs.top_logprobs == [
        None,
        {" more": -0.5, " upon": -2.0},
        {" a": -0.25},
        {" time": -0.125},
    ]
    assert choice.logprobs.text_offset == [0, 4, 9, 11]


def test_offsets_count_from_the_beginning_of_a_prompt_that_is_not_shown() -> None:
    parts: list[tuple[int, Part]] = [
        (0, Begun(3, 0)),
        (0, ContentDelta(" time", (scored(b" ti"), scored(b"me")))),
        (0, ended()),
    ]
    wish = Wish(echo=False, logprobs=True, answer=True)
    (choice,) = told(parts, wish, ReadPrompt("Once")).choices
    assert choice.logprobs is not None
    assert choice.logprobs.text_offset == [4, 7]
    assert choice.text == " time"


def test_a_beginning_mark_stands_in_front_of_the_text() -> None:
    parts: list[tuple[int, Part]] = [
        (0, Begun(3, 0, (scored(b" Once"), scored(b" more")))),
        (0, ended(EndReason.LENGTH)),
    ]
    wish = Wish(echo=True, logprobs=True, answer=False)
    (choice,) = told(parts, wish, ReadPrompt("Once more", b"<s>")).choices
    assert choice.text == "Once more"
    assert choice.logprobs is not None
    assert choice.logprobs.tokens == ["<s>", " Once", " more"]
    assert choice.logprobs.text_offset == [0, 0, 4]


def test_parts_of_characters_are_spelled_by_their_bytes() -> None:
    euro = "€".encode()
    parts: list[tuple[int, Part]] = [
        (0, Begun(1, 0)),
        (0, ContentDelta("", (scored(euro[:1]),))),
        (0, ContentDelta("€!", (scored(euro[1:]), scored(b"!")))),
        (0, ended()),
    ]
    wish = Wish(echo=False, logprobs=True, answer=True)
    (choice,) = told(parts, wish, ReadPrompt("")).choices
    assert choice.logprobs is not None
    assert choice.logprobs.tokens == ["bytes:\\xe2", "bytes:\\x82\\xac", "!"]
    assert choice.logprobs.text_offset == [0, 0, 1]


def test_max_tokens_0_shows_the_prompt_alone() -> None:
    assert asked(max_tokens=0, echo=True, logprobs=1)[0].max_tokens == 1
    parts: list[tuple[int, Part]] = [
        (0, Begun(2, 0, (scored(b" upon"),))),
        (0, ContentDelta(" a", (scored(b" a"),))),
        (0, ended(EndReason.LENGTH)),
    ]
    wish = convert.wish(body(max_tokens=0, echo=True, logprobs=1))
    whole = told(parts, wish, ReadPrompt("Once upon", b"Once"))
    (choice,) = whole.choices
    assert (choice.text, choice.finish_reason) == ("Once upon", "length")
    assert choice.logprobs is not None
    assert choice.logprobs.tokens == ["Once", " upon"]
    assert whole.usage is not None
    assert (whole.usage.completion_tokens, whole.usage.total_tokens) == (0, 3)


def test_after_an_echoed_prompt_the_end_is_a_token_too() -> None:
    """Who scores prompts drops the last token as the generated one, whatever it was."""
    parts: list[tuple[int, Part]] = [
        (0, Begun(2, 0, (scored(b" upon", -0.5),))),
        (0, ended(generated=0)),
    ]
    wish = Wish(echo=True, logprobs=True, answer=True)
    (choice,) = told(parts, wish, ReadPrompt("Once upon", b"Once")).choices
    assert choice.logprobs is not None
    assert choice.logprobs.tokens[:-1] == ["Once", " upon"]
    assert choice.logprobs.token_logprobs == [None, -0.5, None]
    assert len(set(map(len, choice.logprobs.model_dump().values()))) == 1


def test_minus_infinity_is_a_number() -> None:
    parts: list[tuple[int, Part]] = [
        (0, Begun(1, 0)),
        (0, ContentDelta("x", (scored(b"x", -math.inf),))),
        (0, ended()),
    ]
    wish = Wish(echo=False, logprobs=True, answer=True)
    (choice,) = told(parts, wish, ReadPrompt("")).choices
    assert choice.logprobs is not None
    assert choice.logprobs.token_logprobs == [-9999.0]


def test_errors_name_the_field_that_was_sent() -> None:
    assert convert.in_own_words(InvalidRequest("No.", field="tokens")).field == "prompt"
    assert convert.in_own_words(InvalidRequest("No.", field="seed")).field == "seed"
    assert convert.in_own_words(InvalidRequest("No.", hint="Why?")).hint == "Why?"
