"""Answers that are nothing but calls: what each family's grammar lets through."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from freehold.domain.chat import Tool, ToolChoice, ToolUse
from freehold.domain.errors import InvalidRequest
from freehold.domain.sampling import Constraint, Grammar
from freehold.engines.llamacpp.probe_model import END_OF_TEXT, byte_alphabet
from freehold.text.answer import Call, ContentText
from freehold.text.tools import deepseek, hermes
from freehold.text.tools.deepseek import DeepSeek
from freehold.text.tools.format import ToolFormat
from freehold.text.tools.grammar import MAX_CALLS, calls_or_json, for_vocabulary
from freehold.text.tools.harmony import Harmony
from freehold.text.tools.hermes import Hermes
from freehold.text.tools.llama3 import Llama3
from freehold.text.tools.mistral import Mistral, Way
from freehold.weights.gguf_types import ValueType
from freehold.weights.gguf_writer import Array
from tests.support.tiny_model import write_tiny_llama

if TYPE_CHECKING:
    from freehold.text.constraint import ConstraintCompiler, Mask
    from freehold.text.vocabulary import Vocabulary

pytestmark = pytest.mark.native

WEATHER = Tool(
    "get_weather",
    parameters=json.dumps(
        {
            "type": "object",
            "properties": {
                "city": {"$ref": "#/$defs/city"},
                "days": {"type": "integer", "minimum": 1, "maximum": 9},
            },
            "required": ["city"],
            "additionalProperties": False,
            "$defs": {"city": {"enum": ["Rome", "Zürich"]}},
        }
    ),
)
TIME = Tool("get", parameters='{"additionalProperties": false}')
TOOLS = (WEATHER, TIME)
ANY = ToolChoice(ToolUse.REQUIRED)
ONE = ToolChoice(ToolUse.REQUIRED, parallel=False)
GOOD = '{"city": "Zürich", "days": 3}'

_WRITTEN: dict[ToolFormat, str] = {
    Hermes(): '<tool_call>\n{"name": "NAME", "arguments": ARGUMENTS}\n</tool_call>',
    Llama3(): '{"name": "NAME", "parameters": ARGUMENTS}',
    Mistral(Way.ARRAY): '{"name": "NAME", "arguments": ARGUMENTS, "id": "abcDEF123"}',
    Mistral(Way.NAMED): "[TOOL_CALLS]NAME[ARGS]ARGUMENTS",
    Mistral(Way.NUMBERED): "[TOOL_CALLS]NAME[CALL_ID]abcDEF123[ARGS]ARGUMENTS",
    DeepSeek(fenced=True): (
        f"{deepseek.CALL}function{deepseek.SEPARATOR}NAME\n"
        f"```json\nARGUMENTS\n```{deepseek.END_OF_CALL}"
    ),
    DeepSeek(fenced=False): (
        f"{deepseek.CALL}NAME{deepseek.SEPARATOR}ARGUMENTS{deepseek.END_OF_CALL}"
    ),
    Harmony(): ("<|channel|>commentary to=functions.NAME <|constrain|>json<|message|>ARGUMENTS"),
}

FORMS = tuple(_WRITTEN)
each_form = pytest.mark.parametrize("form", FORMS, ids=lambda form: repr(form).split(", shown")[0])
MARKS = tuple(dict.fromkeys(mark for form in FORMS for mark in form.shown))


def call(form: ToolFormat, name: str, arguments: str) -> str:
    return _WRITTEN[form].replace("NAME", name).replace("ARGUMENTS", arguments)


def answer(form: ToolFormat, *calls: str) -> str:
    match form:
        case Hermes():
            return "\n".join(calls)
        case Llama3():
            return "; ".join(calls)
        case Mistral(way=Way.ARRAY):
            return f"[TOOL_CALLS][{', '.join(calls)}]"
        case DeepSeek(fenced=fenced):
            between = "\n" if fenced else ""
            return f"{deepseek.CALLS}{between.join(calls)}{deepseek.END_OF_CALLS}"
        case _:
            return "".join(calls)


@dataclasses.dataclass(frozen=True)
class Model:
    """A vocabulary, and what compiles for it."""

    vocabulary: Vocabulary
    compiler: ConstraintCompiler

    def compilable(self, grammar: str) -> Constraint:
        return Constraint(Grammar.LARK, for_vocabulary(grammar, self._control))

    def _control(self, spelling: str) -> int | None:
        token = self.vocabulary.token_of(spelling)
        hidden = token is not None and not self.vocabulary.piece(token)
        return token if hidden else None

    def fits(
        self, form: ToolFormat, text: str, choice: ToolChoice = ANY, *, special: bool = True
    ) -> bool:
        """Whether ``text`` is a whole answer, with control tokens or, not ``special``, without."""
        return self.takes(form.grammar(TOOLS, choice), text, special=special)

    def takes(self, grammar: str, text: str, *, special: bool = True) -> bool:
        matcher = self.compiler.compile(self.compilable(grammar))
        for token in self.vocabulary.tokenize(text, special=special):
            if matcher.finished or token not in allowed(matcher.mask()):
                return False
            matcher.accept(token)
        return matcher.finished or END_OF_TEXT in allowed(matcher.mask())

    def walk(self, form: ToolFormat, seed: int) -> str:
        """A random answer under the grammar's masks, as a client would see it."""
        chooser = random.Random(seed)
        matcher = self.compiler.compile(self.compilable(form.grammar(TOOLS, ANY)))
        said = b""
        for _ in range(3000):
            choices = sorted(allowed(matcher.mask()))
            if matcher.finished or END_OF_TEXT in choices:
                return said.decode()
            marks = [token for token in choices if token > 255]
            token = chooser.choice(marks if marks and chooser.random() < 0.3 else choices)
            matcher.accept(token)
            said += self.vocabulary.piece(token, special=True)
        raise AssertionError(f"no end after {said!r}")


def allowed(mask: Mask) -> set[int]:
    return {i for i in range(32 * len(mask)) if int(mask[i // 32]) >> (i % 32) & 1}


def opened(path: Path) -> Iterator[Model]:
    from freehold.text.constraint import ConstraintCompiler
    from freehold.text.vocabulary import close_vocabulary, open_vocabulary

    vocabulary = open_vocabulary([path])
    yield Model(vocabulary, ConstraintCompiler(vocabulary))
    close_vocabulary(vocabulary)


@pytest.fixture(scope="module")
def marked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    """Every mark is a control token, but Hermes', which are user-defined as in Qwen's models."""
    control = [mark for mark in MARKS if mark not in (hermes.BEGIN, hermes.END)]
    own = [hermes.BEGIN, hermes.END, *control]
    unused = [f"unused{number}" for number in range(END_OF_TEXT - 256 - len(own))]
    tokens = [*byte_alphabet(), *unused, *own, "<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    types = [*[1] * (256 + len(unused)), 4, 4, *[3] * (len(control) + 3)]
    path = write_tiny_llama(
        tmp_path_factory.mktemp("models") / "marked.gguf",
        metadata={
            "tokenizer.ggml.tokens": Array(ValueType.STRING, tokens),
            "tokenizer.ggml.token_type": Array(ValueType.INT32, types),
            "tokenizer.ggml.merges": Array(ValueType.STRING, []),
        },
    )
    yield from opened(path)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    """No mark is a token."""
    yield from opened(write_tiny_llama(tmp_path_factory.mktemp("models") / "plain.gguf"))


@pytest.fixture(params=["marked", "plain"])
def model(request: pytest.FixtureRequest) -> Model:
    found: Model = request.getfixturevalue(request.param)
    return found


@each_form
def test_calls_that_fit_are_let_through(model: Model, form: ToolFormat) -> None:
    assert model.fits(form, answer(form, call(form, "get_weather", GOOD)))
    assert model.fits(form, answer(form, call(form, "get_weather", '{"city":"Rome"}')))
    assert model.fits(form, answer(form, call(form, "get", "{}")))


@each_form
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("get_weather", '{"city": "Paris"}'),
        ("get_weather", '{"days": 3}'),
        ("get_weather", '{"city": "Rome", "days": "3"}'),
        ("get_weather", '{"city": "Rome", "country": 1}'),
        ("get_weather", "{}"),
        ("get_weather", "[]"),
        ("get_weather", '{"city": "Rome"'),
        ("get", '{"city": "Rome"}'),
        ("gets", "{}"),
    ],
)
def test_others_are_not(model: Model, form: ToolFormat, name: str, arguments: str) -> None:
    assert not model.fits(form, answer(form, call(form, name, arguments)))


@each_form
def test_an_answer_is_nothing_but_calls(marked: Model, form: ToolFormat) -> None:
    good = answer(form, call(form, "get", "{}"))
    for text in ("", "Yes.", f"Yes. {good}", f"{good} Yes."):
        assert not marked.fits(form, text)


@each_form
def test_how_many_calls(model: Model, form: ToolFormat) -> None:
    one, other = call(form, "get", "{}"), call(form, "get_weather", GOOD)
    several = not isinstance(form, Harmony)  # its turn ends with a call
    assert model.fits(form, answer(form, one, other)) is several
    assert model.fits(form, answer(form, *[one] * MAX_CALLS)) is several
    assert not model.fits(form, answer(form, *[one] * (MAX_CALLS + 1)))
    assert model.fits(form, answer(form, one), ONE)
    assert not model.fits(form, answer(form, one, other), ONE)


@each_form
def test_a_certain_tool(marked: Model, form: ToolFormat) -> None:
    choice = ToolChoice(ToolUse.REQUIRED, name="get")
    one, other = call(form, "get", "{}"), call(form, "get_weather", GOOD)
    assert marked.fits(form, answer(form, one), choice)
    assert not marked.fits(form, answer(form, other), choice)
    assert not marked.fits(form, answer(form, one, one), choice)


@each_form
def test_marks_that_are_control_tokens_are_not_spelled(
    marked: Model, plain: Model, form: ToolFormat
) -> None:
    text = answer(form, call(form, "get", "{}"))
    assert plain.fits(form, text, special=False)
    spelled = isinstance(form, Hermes | Llama3 | Harmony)  # llama.cpp makes text of Harmony's
    assert marked.fits(form, text, special=False) is spelled


@each_form
def test_what_a_grammar_lets_through_are_calls(model: Model, form: ToolFormat) -> None:
    if model.vocabulary.token_of("<|end|>") is None and isinstance(form, Harmony):
        pytest.skip("at random, byte by byte, reasoning comes to no end")
    for seed in range(8):
        text = model.walk(form, seed)
        parser = form.parser(TOOLS)
        pieces = (*parser.feed(text), *parser.finish())
        calls = [piece for piece in pieces if isinstance(piece, Call)]
        assert not any(isinstance(piece, ContentText) for piece in pieces)
        assert 1 <= len(calls) <= MAX_CALLS
        for made in calls:
            arguments = json.loads(made.arguments)
            assert made.name in ("get_weather", "get")
            assert made.name == "get" or arguments["city"] in ("Rome", "Zürich")


class TestHarmony:
    def test_reasoning_may_come_first(self, marked: Model) -> None:
        made = call(Harmony(), "get", "{}")
        for text in (
            f"<|channel|>analysis<|message|>Hm.\n<|end|><|start|>assistant{made}",
            f"<|start|>assistant{made}",
            " to=functions.get<|channel|>commentary json<|message|>{}",
            "<|start|>assistant to=functions.get<|channel|>commentary "
            "<|constrain|>json<|message|>{}",
        ):
            assert marked.fits(Harmony(), text)
        assert not marked.fits(Harmony(), "<|channel|>analysis<|message|>Hm.\n<|end|>")
        assert not marked.fits(Harmony(), "<|channel|>final<|message|>Hm.")


@each_form
@pytest.mark.parametrize(
    "parameters", ["no JSON", "false", "[]", '{"type": "string"}', '{"x-guidance": {}}']
)
def test_parameters_that_no_arguments_fit_are_refused(form: ToolFormat, parameters: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        form.grammar((Tool("odd", parameters=parameters),), ANY)
    assert raised.value.field == "tools"
    assert "'odd'" in raised.value.message


@each_form
def test_names_and_schemas_cannot_break_out(marked: Model, form: ToolFormat) -> None:
    odd = Tool(
        'a"\\\n<b>| "', parameters='{"properties": {"\\"}\\nstart: \\"x\\"": {"type": "null"}}}'
    )
    marked.compiler.compile(marked.compilable(form.grammar((odd,), ANY)))


OK = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}},
    "required": ["ok"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    "form", [form for form in FORMS if not isinstance(form, Harmony | Llama3)], ids=repr
)
def test_calls_or_an_answer_in_json(model: Model, form: ToolFormat) -> None:
    """Where calls can be told from an answer in JSON; `expectation` refuses the other families."""
    grammar = calls_or_json(form.grammar(TOOLS, ANY), json.dumps(OK))
    assert model.takes(grammar, answer(form, call(form, "get_weather", GOOD)))
    assert model.takes(grammar, '{"ok": true}')
    assert not model.takes(grammar, '{"ok": 1}')
    assert not model.takes(grammar, answer(form, call(form, "get_weather", "[]")))
    assert not model.takes(grammar, "Hello.")
