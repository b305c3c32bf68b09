"""What of an answer is a call, and that nothing is lost that is none."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freehold.domain.chat import Tool
from freehold.text.answer import Call, ContentText, Piece, ReasoningText
from freehold.text.tools.deepseek import DeepSeek
from freehold.text.tools.families import format_of
from freehold.text.tools.format import ToolFormat
from freehold.text.tools.harmony import Harmony
from freehold.text.tools.hermes import Hermes
from freehold.text.tools.llama3 import Llama3
from freehold.text.tools.mistral import Mistral, Way

TOOLS = (Tool("look"), Tool("look_up"))
ARGUMENTS = '{"at": [1, "}"]}'


@dataclass(frozen=True)
class Family:
    """``call`` writes one. ``source``: an expression for what a call was, without whitespace.

    ``crumbs`` are what texts are made of that come close to calls. ``marks`` is what else is
    taken out of an answer.
    """

    name: str
    form: ToolFormat
    call: Callable[[str, str], str]
    source: str
    crumbs: tuple[str, ...]
    marks: str = ""


_OBJECT = r"\{[^{}<>]*ARGUMENTS[^{}<>]*\}"
_HEADER = (
    r"(?:<\|start\|>assistant)?(?:to=functions\.look(?:_up)?)?<\|channel\|>"
    r"(?:analysis|commentary|final)(?:to=functions\.look(?:_up)?)?(?:<\|constrain\|>)?(?:json)?"
    r"<\|message\|>"
)
FAMILIES = (
    Family(
        "hermes",
        Hermes(),
        lambda name, arguments: (
            f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'
        ),
        rf"(?:<tool_call>{_OBJECT}</tool_call>|```(?:json)?{_OBJECT}```|{_OBJECT})",
        ("<tool_call>", "</tool_call>", "```json\n", "```"),
    ),
    Family(
        "llama3",
        Llama3(),
        lambda name, arguments: f'{{"name": "{name}", "parameters": {arguments}}}',
        rf"(?:<\|python_tag\|>)?{_OBJECT};?",
        ("<|python_tag|>", ";", '{"parameters": {}, "name": "look"}', "; "),
    ),
    Family(
        "mistral array",
        Mistral(Way.ARRAY),
        lambda name, arguments: (
            f'[TOOL_CALLS][{{"name": "{name}", "arguments": {arguments}, "id": "123456789"}}]'
        ),
        rf"(?:\[TOOL_CALLS\]\[|,){_OBJECT}\]?",
        ("[TOOL_CALLS]", "[TOOL_CALLS][", "[", "]", ", "),
    ),
    Family(
        "mistral named",
        Mistral(Way.NAMED),
        lambda name, arguments: f"[TOOL_CALLS]{name}[ARGS]{arguments}",
        r"\[TOOL_CALLS\]look(?:_up)?(?:\[CALL_ID\][A-Za-z0-9]*)?\[ARGS\]ARGUMENTS",
        ("[TOOL_CALLS]", "[ARGS]", "[CALL_ID]", "look"),
    ),
    Family(
        "deepseek fenced",
        DeepSeek(fenced=True),
        lambda name, arguments: (
            "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>"
            f"{name}\n```json\n{arguments}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
        ),
        r"(?:<｜tool▁calls▁begin｜>)?<｜tool▁call▁begin｜>function<｜tool▁sep｜>look(?:_up)?"
        r"```jsonARGUMENTS```<｜tool▁call▁end｜>(?:<｜tool▁calls▁end｜>)?",
        ("<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>", "function<｜tool▁sep｜>look\n"),
    ),
    Family(
        "deepseek",
        DeepSeek(fenced=False),
        lambda name, arguments: (
            f"<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>{name}<｜tool▁sep｜>{arguments}"
            "<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
        ),
        r"(?:<｜tool▁calls▁begin｜>)?<｜tool▁call▁begin｜>look(?:_up)?<｜tool▁sep｜>ARGUMENTS"
        r"<｜tool▁call▁end｜>(?:<｜tool▁calls▁end｜>)?",
        ("<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>", "<｜tool▁sep｜>"),
    ),
    Family(
        "harmony",
        Harmony(),
        lambda name, arguments: (
            f"<|start|>assistant<|channel|>commentary to=functions.{name} "
            f"<|constrain|>json<|message|>{arguments}<|call|>"
        ),
        rf"{_HEADER}ARGUMENTS(?:<\|(?:end|call|return)\|>)?",
        (
            *("<|start|>assistant", "<|start|>", "<|channel|>", "<|message|>", "final", "<|end|>"),
            *("<|channel|>final<|message|>", "<|channel|>analysis<|message|>", "to=functions.look"),
        ),
        rf"(?:{_HEADER}|<\|(?:end|call|return)\|>)*",
    ),
)
each_family = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)


def pieces_of(form: ToolFormat, text: str, cuts: list[int] | None = None) -> list[Piece]:
    """The pieces of a text that is cut at ``cuts``, with neighbours of a kind put together."""
    parser = form.parser(TOOLS)
    places = sorted({0, len(text), *(cut for cut in cuts or () if cut <= len(text))})
    found: list[Piece] = []
    for start, end in itertools.pairwise(places):
        found += parser.feed(text[start:end])
    found += parser.finish()
    return list(together(found))


def together(pieces: list[Piece]) -> Iterator[Piece]:
    held: ContentText | ReasoningText | None = None
    for piece in pieces:
        match held, piece:
            case (ContentText(one), ContentText(other)):
                held = ContentText(one + other)
            case (ReasoningText(one), ReasoningText(other)):
                held = ReasoningText(one + other)
            case _:
                if held is not None:
                    yield held
                held = None
                if isinstance(piece, Call):
                    yield piece
                else:
                    held = piece
    if held is not None:
        yield held


def everywhere(text: str) -> list[int]:
    return list(range(len(text)))


@each_family
def test_a_call(family: Family) -> None:
    text = family.call("look_up", ARGUMENTS)
    for cuts in ([], everywhere(text)):
        assert pieces_of(family.form, text, cuts) == [Call("look_up", ARGUMENTS)]
        spaced = f" \n{text}\n "
        assert pieces_of(family.form, spaced, cuts) == [Call("look_up", ARGUMENTS)]


@each_family
@pytest.mark.parametrize("arguments", ["{}", '{"a": "\\u00e9\\"\\\\"}', '{ "a" :1.50 , "b":[ ] }'])
def test_arguments_are_as_the_model_wrote_them(family: Family, arguments: str) -> None:
    text = family.call("look", arguments)
    assert pieces_of(family.form, text) == [Call("look", arguments)]


@each_family
def test_a_call_is_there_when_it_is_complete(family: Family) -> None:
    parser = family.form.parser(TOOLS)
    assert Call("look", ARGUMENTS) in parser.feed(family.call("look", ARGUMENTS))


@each_family
def test_content_around_calls(family: Family) -> None:
    if family.name == "llama3":
        pytest.skip("calls come first")
    call = family.call("look", ARGUMENTS)
    text = f"I look.\n\n{call}\n{call}\nThen that."
    for cuts in ([], everywhere(text)):
        assert pieces_of(family.form, text, cuts) == [
            ContentText("I look."),
            *[Call("look", ARGUMENTS)] * 2,
            ContentText("\nThen that."),
        ]


@each_family
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("lookup", "{}"),  # no such tool
        ("loo", "{}"),
        ("look", '{"a": }'),
        ("look", '{"a": NaN}'),
        ("look", '{"a": "\n"}'),
        ("look", '{"a": tru}'),
        ("look", '{"a" 1}'),
        ("look", '{"a": [1}]'),
        ("look", "[]"),
        ("look", '"{}"'),
        ("look", "nothing"),
        ("look", '{"a": ' + "9" * 5000 + "}"),
        ("look", '{"a": ' + "[" * 100_000 + "]" * 100_000 + "}"),
    ],
)
def test_what_looks_like_a_call_and_is_none_is_content(
    family: Family, name: str, arguments: str
) -> None:
    text = family.call(name, arguments)
    assert pieces_of(family.form, text) == [ContentText(text)]
    if len(text) < 1000:
        assert pieces_of(family.form, text, everywhere(text)) == [ContentText(text)]
    if family.name != "llama3":
        good = family.call("look", ARGUMENTS)
        assert pieces_of(family.form, text + good)[-1] == Call("look", ARGUMENTS)


@each_family
def test_half_a_call_is_content(family: Family) -> None:
    text = family.call("look", ARGUMENTS)
    complete = next(end for end in range(len(text) + 1) if calls_in(family.form, text[:end]))
    for end in range(1, complete):
        assert pieces_of(family.form, text[:end]) == [ContentText(text[:end])]


def calls_in(form: ToolFormat, text: str) -> list[Call]:
    return [piece for piece in pieces_of(form, text) if isinstance(piece, Call)]


def texts(family: Family) -> st.SearchStrategy[str]:
    calls = [family.call(name, ARGUMENTS) for name in ("look", "look_up", "lookup")]
    near = ["{", "}", '"', '"name"', ": ", "{}", "\\", " ", "\n", "a", "é", '{"', "look", "[1]"]
    cut = st.sampled_from(calls).flatmap(
        lambda call: st.integers(1, len(call)).map(lambda end: call[:end])
    )
    crumbs = st.sampled_from([*calls, *family.crumbs, *near])
    return st.lists(crumbs | cut | st.text(max_size=3), max_size=10).map("".join)


@each_family
@given(st.data())
def test_where_a_text_is_cut_makes_no_difference(family: Family, data: st.DataObject) -> None:
    text = data.draw(texts(family))
    whole = pieces_of(family.form, text)
    assert pieces_of(family.form, text, everywhere(text)) == whole
    cuts = data.draw(st.lists(st.integers(0, len(text))))
    assert pieces_of(family.form, text, cuts) == whole


@each_family
@given(st.data())
def test_nothing_is_lost(family: Family, data: st.DataObject) -> None:
    text = data.draw(texts(family))
    pieces = pieces_of(family.form, text)
    if family.name != "harmony" and not any(isinstance(piece, Call) for piece in pieces):
        assert pieces == ([ContentText(text)] if text else [])
    parser = family.form.parser(TOOLS)
    parts = [part(family, piece) for piece in (*parser.feed(text), *parser.finish())]
    whole = family.marks + family.marks.join(parts) + family.marks
    assert re.fullmatch(whole, "".join(text.split()))


def part(family: Family, piece: Piece) -> str:
    if isinstance(piece, Call):
        arguments = re.escape("".join(piece.arguments.split()))
        return family.source.replace("ARGUMENTS", arguments)
    return re.escape("".join(piece.text.split()))


@each_family
def test_text_without_a_mark_comes_as_it_is_written(family: Family) -> None:
    parser = family.form.parser(TOOLS)
    assert parser.feed("One") == (ContentText("One"),)
    assert parser.feed(" two\n") == (ContentText(" two"),)
    assert parser.feed("three") == (ContentText("\nthree"),)
    assert parser.feed("\n") == ()
    assert parser.finish() == (ContentText("\n"),)


@each_family
def test_long_answers_take_no_longer_than_their_length(family: Family) -> None:
    began = time.process_time()
    for text in (family.call("look", '{"a": "')[:-20] * 5_000, family.call("look", "{") * 5_000):
        parser = family.form.parser(TOOLS)
        for start in range(0, len(text), 1000):
            parser.feed(text[start : start + 1000])
        parser.finish()
    assert time.process_time() - began < 10


_EXAMPLE = '<tool_call>\\n{\\"name\\": <name>, \\"arguments\\": <object>}\\n</tool_call>'


@pytest.mark.parametrize(
    ("template", "form"),
    [
        (f"{{% if tools %}}{{{{ '{_EXAMPLE}' }}}}{{% endif %}}", Hermes()),
        (f"{{{{ tools | tojson }}}}{{{{ '{_EXAMPLE}' }}}}", Hermes()),
        (f"{{# tools #}}{{{{ 'Your tools: {_EXAMPLE}' }}}}", None),
        ("{% if tools %}{{ '<tool_call>\\n<function=' }}{% endif %}", None),
        ("{% if tools %}{{ tools | tojson }}{% endif %}", None),
        ("", None),
        ("{% if tools %}" * 10_000, None),
    ],
)
def test_a_family_is_known_by_its_template(template: str, form: ToolFormat | None) -> None:
    assert format_of(template) == form


class TestLlama3:
    form = Llama3()
    call = '{"name": "look", "parameters": {"at": 1}}'

    @pytest.mark.parametrize("between", ["; ", ";", "\n", " ;\n", "", "<|python_tag|>"])
    def test_several_calls(self, between: str) -> None:
        text = f"<|python_tag|>{self.call}{between}{self.call}"
        for cuts in ([], everywhere(text)):
            assert pieces_of(self.form, text, cuts) == [Call("look", '{"at": 1}')] * 2

    def test_an_example_in_an_answer_is_no_call(self) -> None:
        text = f"You would write {self.call} for that."
        assert pieces_of(self.form, text) == [ContentText(text)]

    def test_a_tag_begins_a_call_anywhere(self) -> None:
        text = f"I look. <|python_tag|>{self.call}"
        assert pieces_of(self.form, text) == [ContentText("I look."), Call("look", '{"at": 1}')]

    def test_other_json_comes_as_it_is_written(self) -> None:
        parser = self.form.parser(TOOLS)
        assert parser.feed('{"city"') == (ContentText('{"city"'),)
        assert parser.feed(': "Rome"') == (ContentText(': "Rome"'),)

    def test_code_behind_the_tag_is_content(self) -> None:
        text = "<|python_tag|>print(1)"
        assert pieces_of(self.form, text) == [ContentText(text)]

    def test_arguments_by_their_other_name(self) -> None:
        text = '{"type": "function", "name": "look", "arguments": {}}'
        assert pieces_of(self.form, text) == [Call("look", "{}")]


class TestMistral:
    form = Mistral(Way.ARRAY)

    def test_several_calls_in_an_array(self) -> None:
        call = '{"name": "look", "arguments": {}}'
        text = f"[TOOL_CALLS] [{call}, {call}]"
        assert pieces_of(self.form, text) == [Call("look", "{}")] * 2

    def test_a_call_with_an_id_before_its_arguments(self) -> None:
        text = "[TOOL_CALLS]look_up[CALL_ID]abc123DEF[ARGS]{}"
        for cuts in ([], everywhere(text)):
            assert pieces_of(self.form, text, cuts) == [Call("look_up", "{}")]

    @given(st.text())
    def test_ids_are_such_as_templates_accept(self, identity: str) -> None:
        made = self.form.call_id(identity)
        assert re.fullmatch("[A-Za-z0-9]{9}", made)
        assert made == self.form.call_id(identity)
        assert self.form.call_id(made) == made


class TestHermes:
    form = Hermes()

    @pytest.mark.parametrize(
        "inside",
        [
            '{"name": "look"}',
            '{"arguments": {}}',
            '{"name": "look", "arguments": {}, "because": "I want to"}',
            '{"name": ["look"], "arguments": {}}',
            '{"name": "look", "arguments": {}} {}',
            "",
        ],
    )
    def test_what_is_not_just_a_name_and_arguments_is_content(self, inside: str) -> None:
        text = f"<tool_call>{inside}</tool_call>"
        assert pieces_of(self.form, text) == [ContentText(text)]

    def test_the_order_and_an_id_do_not_matter(self) -> None:
        text = '<tool_call>{"arguments":{},"id":7,"name":"look"}</tool_call>'
        assert pieces_of(self.form, text) == [Call("look", "{}")]

    def test_a_mark_that_begins_again(self) -> None:
        call = '<tool_call>{"name": "look", "arguments": {}}</tool_call>'
        text = f"<tool_call>\n<tool_c<{call}"
        assert pieces_of(self.form, text) == [
            ContentText("<tool_call>\n<tool_c<"),
            Call("look", "{}"),
        ]

    @pytest.mark.parametrize("end", ["", "\n", "\n\n"])
    @pytest.mark.parametrize(
        "around", ["{}", "```json\n{}\n```", "```\n{}\n```"], ids=["bare", "json", "fence"]
    )
    def test_small_models_leave_the_marks_out(self, around: str, end: str) -> None:
        text = around.replace("{}", '{"name": "look", "arguments": {"x": 1}}') + end
        for cuts in ([], everywhere(text)):
            assert pieces_of(self.form, text, cuts) == [Call("look", '{"x": 1}')]

    @pytest.mark.parametrize(
        "text",
        [
            '{"name": "look", "age": 7}',
            '{"name": "other", "arguments": {}}',
            "```python\nlook()\n```",
            '```json\n{"name": "look", "arguments": {}}',
            'So: {"name": "look", "arguments": {}}',
        ],
    )
    def test_other_json_and_code_is_content(self, text: str) -> None:
        assert pieces_of(self.form, text) == [ContentText(text)]


class TestHarmony:
    form = Harmony()

    @pytest.mark.parametrize(
        "text",
        [
            " to=functions.look<|channel|>commentary json<|message|>{}",
            " to=functions.look<|channel|>commentary <|constrain|>json<|message|>{}<|call|>",
            "<|channel|>commentary to=functions.look <|constrain|>json<|message|>{}<|call|>",
            "<|channel|>analysis to=functions.look code<|message|>{}<|call|>",
            "<|start|>assistant to=functions.look<|channel|>commentary<|message|>{}",
        ],
    )
    def test_where_the_recipient_stands(self, text: str) -> None:
        for cuts in ([], everywhere(text)):
            assert pieces_of(self.form, text, cuts) == [Call("look", "{}")]

    def test_channels(self) -> None:
        text = (
            "<|channel|>analysis<|message|>Hm < 3.<|end|>"
            "<|start|>assistant<|channel|>final<|message|>Yes.\n<|return|>"
        )
        for cuts in ([], everywhere(text)):
            assert pieces_of(self.form, text, cuts) == [
                ReasoningText("Hm < 3."),
                ContentText("Yes.\n"),
            ]

    def test_channels_come_as_they_are_written(self) -> None:
        parser = self.form.parser(TOOLS)
        assert parser.feed("<|channel|>final<|message|>One") == (ContentText("One"),)
        assert parser.feed(" two <") == (ContentText(" two"),)
        assert parser.feed(" three") == (ContentText(" < three"),)

    def test_a_recipient_that_is_not_ours_is_content(self) -> None:
        text = "<|channel|>analysis to=python code<|message|>print(1)<|call|>"
        assert pieces_of(self.form, text) == [ContentText(text)]
