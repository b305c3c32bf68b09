"""An answer that was cut: what of it is gone on with, and its figures in one piece."""

from __future__ import annotations

import pytest

from freehold.domain.answers import AnswerUsage
from freehold.runtime.answer_figures import Stretch, figures_of
from freehold.runtime.kept import KeptMessage, pack, unpack
from freehold.text.answer import AnswerParser, Plain
from freehold.text.reasoning import FAMILIES, ReasoningParser
from freehold.text.resuming import Resumed, resumed

KANA = "あ".encode()


def pieces_of(text: str) -> list[bytes]:
    """Tokens of one byte each."""
    return [bytes([byte]) for byte in text.encode()]


def test_all_of_it_where_nothing_is_cut_in_the_middle() -> None:
    found = resumed((7, 8), [b"Hello ", KANA], Plain())
    assert found == Resumed((7, 8), "Hello あ", "", "Hello あ")


@pytest.mark.parametrize("cut", [1, 2])
def test_a_character_that_is_half_there_is_written_again(cut: int) -> None:
    pieces = [b"x", *(bytes([byte]) for byte in KANA[:cut])]
    assert resumed(range(len(pieces)), pieces, Plain()) == Resumed((0,), "x", "", "x")


def test_bytes_that_are_no_character_are_kept_as_they_were_shown() -> None:
    found = resumed((1, 2), [b"\xff", b"y"], Plain())
    assert found == Resumed((1, 2), "�y", "", "�y")


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("text", ["Hm, so", "Hm, so</think>\n\nFour", "Hm</think>\n\n"])
def test_the_text_of_both_parts_is_that_of_the_whole(text: str, *, inside: bool) -> None:
    marks = FAMILIES[0]
    whole = (text if inside else marks.begin + text) + " and more</think>\n\nThe end."

    def parser() -> AnswerParser:
        return ReasoningParser(marks, Plain(), inside=inside)

    pieces = pieces_of(whole)
    for cut in range(1, len(pieces)):
        found = resumed(range(cut), pieces[:cut], parser())
        rest = parser()
        rest.feed(found.raw)  # what is told before is not told again
        said = (*rest.feed(whole.removeprefix(found.raw)), *rest.finish())
        alone = parser()
        expected = (*alone.feed(whole), *alone.finish())
        told = found.reasoning + found.content + "".join(getattr(p, "text", "") for p in said)
        assert told == "".join(getattr(piece, "text", "") for piece in expected), cut


def test_tokens_are_kept_as_they_are() -> None:
    tokens = (0, 1, 255, 151_643, 2**31 - 1)
    assert unpack(pack(tokens)) == tokens
    assert unpack(pack(())) == ()


def stretch(written: int, decode: float, before: int = 0, end: str = "length") -> Stretch:
    return Stretch(AnswerUsage(20 + before, 5, written), before, 100, 0.5, None, decode, end)


def test_the_pace_of_two_stretches_is_that_of_all_tokens() -> None:
    first = figures_of(stretch(11, 1.0), None)
    assert (first.prompt_tokens, first.completion_tokens, first.decode) == (20, 11, 1.0)
    whole = figures_of(stretch(11, 1.0, before=11, end="stop"), first)
    assert (whole.prompt_tokens, whole.cached_tokens, whole.completion_tokens) == (20, 5, 22)
    assert (whole.completion_tokens - 1) / whole.decode == pytest.approx(10)
    assert (whole.first_token, whole.finish_reason) == (0.5, "stop")


@pytest.mark.parametrize(
    ("status", "end", "context", "tokens", "can"),
    [
        ("done", "stop", 100, b"", False),
        ("done", "length", 100, pack((1,)), True),
        ("done", "length", 31, pack((1,)), False),  # there is no room
        ("stopped", "stopped", 100, pack((1,)), True),
        ("stopped", "stopped", 100, b"", False),  # another server's
        ("failed", "failed", 100, pack((1,)), True),
        ("interrupted", "interrupted", 0, pack((1,)), True),
        ("running", "interrupted", 100, pack((1,)), False),
    ],
)
def test_what_can_be_gone_on_with(
    status: str, end: str, context: int, tokens: bytes, *, can: bool
) -> None:
    cut = Stretch(AnswerUsage(20, 5, 11), 0, context, 0.5, None, 1.0, end)
    message = KeptMessage(
        id="1",
        parent="0",
        role="assistant",
        content="x",
        created=1.0,
        status=status,
        figures=figures_of(cut, None),
        tokens=tokens,
    )
    assert message.resumable is can
