"""Stop strings and half characters, streamed in any pieces."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freehold.domain.chat import GenerateRequest
from freehold.domain.events import FinishReason
from freehold.domain.sampling import Sampling
from freehold.engines.answer import Answer, Spoken
from freehold.text.stops import Shown, StopMatcher, Utf8Assembler

letters = st.text("abc", max_size=40)
stop_strings = st.lists(st.text("abc", min_size=1, max_size=5), max_size=4).map(tuple)


def split(text: str, cuts: list[int]) -> list[str]:
    places = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    return [text[a:b] for a, b in itertools.pairwise(places)]


def streamed(pieces: list[str], stops: tuple[str, ...]) -> tuple[str, bool]:
    """Everything shown, and whether a stop string was met."""
    matcher = StopMatcher(stops)
    shown = ""
    for piece in pieces:
        step = matcher.feed(piece)
        shown += step.text
        if step.stop:
            return shown, True
    return shown + matcher.flush(), False


def expected(text: str, stops: tuple[str, ...]) -> tuple[str, bool]:
    """The text before the stop string that is complete first; the longest if several are."""
    for end in range(len(text) + 1):
        ending = [stop for stop in stops if text[:end].endswith(stop)]
        if ending:
            return text[: end - max(map(len, ending))], True
    return text, False


@given(letters, stop_strings, st.lists(st.integers(0, 40), max_size=10))
def test_any_split_shows_what_the_whole_text_shows(
    text: str, stops: tuple[str, ...], cuts: list[int]
) -> None:
    assert streamed(split(text, cuts), stops) == streamed([text], stops) == expected(text, stops)


@given(letters, stop_strings)
def test_nothing_shown_is_ever_part_of_a_stop_string(text: str, stops: tuple[str, ...]) -> None:
    shown, stopped = streamed(list(text), stops)
    assert text.startswith(shown)
    assert not any(stop in shown for stop in stops)
    assert stopped or shown == text


def test_a_stop_string_across_pieces() -> None:
    matcher = StopMatcher(("\n\nUser:",))
    assert matcher.feed("Hello.\n") == Shown("Hello.")
    assert matcher.feed("\nUs") == Shown("")
    assert matcher.feed("er: and more") == Shown("", stop="\n\nUser:")
    assert matcher.flush() == ""


def test_a_beginning_that_goes_another_way_is_shown() -> None:
    matcher = StopMatcher(("STOP",))
    assert matcher.feed("ST") == Shown("")
    assert matcher.feed("AY") == Shown("STAY")


def test_only_what_can_still_become_a_stop_is_held() -> None:
    matcher = StopMatcher(("aab",))
    assert matcher.feed("aa") == Shown("")
    assert matcher.feed("a") == Shown("a")
    assert matcher.flush() == "aa"
    assert matcher.flush() == ""


@pytest.mark.parametrize("stops", [(), ("",)])
def test_without_stop_strings_nothing_is_held(stops: tuple[str, ...]) -> None:
    assert StopMatcher(stops).feed("any text") == Shown("any text")


@given(st.text(max_size=20), st.data())
def test_characters_split_anywhere_arrive_whole(text: str, data: st.DataObject) -> None:
    encoded = text.encode()
    at = data.draw(st.integers(0, len(encoded)))
    assembler = Utf8Assembler()
    first, second = assembler.feed(encoded[:at]), assembler.feed(encoded[at:])
    assert text.startswith(first)
    assert first + second + assembler.flush() == text


@pytest.mark.parametrize("character", ["é", "€", "漢", "😀", "👩‍👩‍👧"])
def test_every_byte_by_itself(character: str) -> None:
    assembler = Utf8Assembler()
    pieces = [assembler.feed(bytes([byte])) for byte in character.encode()]
    assert "".join(pieces) == character
    assert pieces[0] == ""
    assert assembler.flush() == ""


@given(st.binary(max_size=30))
def test_no_bytes_are_an_error(data: bytes) -> None:
    assembler = Utf8Assembler()
    parts = [assembler.feed(bytes([byte])) for byte in data] + [assembler.flush()]
    assert "".join(parts) == data.decode("utf-8", "replace")


# Both at once: the answer of one request


def answer(*stop: str) -> Answer:
    return Answer(GenerateRequest("id", (1,), 10, Sampling(stop=stop)))


def test_a_stop_string_of_half_characters() -> None:
    speaking = answer("終")
    spoken = [speaking.speak(bytes([byte])) for byte in "最終".encode()]
    assert "".join(each.text for each in spoken) == "最"
    assert [each.reason for each in spoken] == [None] * 5 + [FinishReason.STOP]


def test_the_end_shows_what_was_held() -> None:
    speaking = answer("STOP")
    assert speaking.speak(b"go ST") == Spoken("go ")
    assert speaking.end(FinishReason.LENGTH) == Spoken("ST", FinishReason.LENGTH)


def test_the_end_of_a_broken_character_can_complete_a_stop_string() -> None:
    speaking = answer("\ufffd")
    assert speaking.speak("é".encode()[:1]) == Spoken("")
    assert speaking.end(FinishReason.LENGTH) == Spoken("", FinishReason.STOP)
