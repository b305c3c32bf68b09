"""Calls as official templates write them are read back, and answers are told from them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from freehold.domain.chat import Conversation, Message, Role, Tool, ToolCall, ToolChoice, ToolUse
from freehold.domain.sampling import Constraint, Grammar
from freehold.text.answer import Call, ContentText, Piece, ReasoningText
from freehold.text.conversation import template_variables
from freehold.text.expectation import expectation
from freehold.text.reasoning import HARMONY, Opening, closing_of, marks_of, opening_of
from freehold.text.template import render
from freehold.text.tools.deepseek import DeepSeek
from freehold.text.tools.families import format_of
from freehold.text.tools.format import ToolFormat
from freehold.text.tools.mistral import Mistral, Way
from tests.support.templates import templates

pytestmark = pytest.mark.native  # needs the source archive of llama-cpp-python

_PARAMETERS = json.dumps(
    {
        "type": "object",
        "properties": {"city": {"type": "string", "description": "Where."}},
        "required": ["city"],
    }
)
TOOLS = (
    Tool("get_weather", "The weather.", _PARAMETERS),
    Tool("get", "Whatever.", _PARAMETERS),
)
WITH_TOOLS, WITHOUT = Conversation((), TOOLS), Conversation(())
CALLS = (
    Call(
        "get_weather",
        json.dumps(
            {
                "city": 'Zürich "mitte"\n</tool_call> } ] ; <|end|> ```',
                "deep": {"list": [1, -2.5e3, None, True, {"{": "}"}], "empty": {}},
            },
            ensure_ascii=False,
        ),
    ),
    Call("get", "{}"),
)


@dataclass(frozen=True)
class Official:
    """``opening`` and ``ending`` stand around the assistant's turn.

    ``most`` is how many calls the template writes in one turn. ``says``: with content before.
    ``told``: its description of tools can be rendered.
    """

    template: str
    family: str
    opening: str
    ending: str
    most: int = 2
    says: bool = True
    told: bool = True


_IM = ("<|im_start|>assistant", "<|im_end|>")
_EOT = ("<|start_header_id|>assistant<|end_header_id|>\n\n", "<|eot_id|>")
OFFICIAL = (
    Official("NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use", "hermes", *_IM, says=False),
    Official("NousResearch-Hermes-3-Llama-3.1-8B-tool_use", "hermes", *_IM, says=False),
    Official("Qwen-Qwen2.5-7B-Instruct", "hermes", *_IM),
    Official("Qwen-Qwen3-0.6B", "hermes", "</think>\n\n", "<|im_end|>"),
    Official("Qwen-QwQ-32B", "hermes", *_IM),
    Official("MiMo-VL", "hermes", *_IM),
    Official("Bielik-11B-v3.0-Instruct", "hermes", *_IM),
    Official(
        "ibm-granite-granite-4.0",
        "hermes",
        "<|start_of_role|>assistant<|end_of_role|>",
        "<|end_of_text|>",
    ),
    Official("meta-llama-Llama-3.1-8B-Instruct", "llama3", *_EOT, most=1, says=False),
    Official("meta-llama-Llama-3.2-3B-Instruct", "llama3", *_EOT, most=1, says=False),
    Official("meta-llama-Llama-3.3-70B-Instruct", "llama3", *_EOT, most=1, says=False),
    Official("mistralai-Mistral-Nemo-Instruct-2407", "mistral", "[/INST]", "</s>", says=False),
    Official("Mistral-Small-3.2-24B-Instruct-2506", "mistral", "[/INST]", "</s>", says=False),
    Official("mistralai-Ministral-3-14B-Reasoning-2512", "mistral", "[/INST]", "</s>"),
    Official("unsloth-mistral-Devstral-Small-2507", "mistral", "[/INST]", "</s>"),
    Official(
        "llama-cpp-deepseek-r1",
        "deepseek",
        "<｜Assistant｜>",
        "<｜end▁of",
        says=False,
        told=False,  # it makes JSON of what is none to Jinja proper
    ),
    Official("openai-gpt-oss-120b", "harmony", "<|start|>assistant", "", most=1, says=False),
)
# These know no tools, but what calls look like.
UNTOLD = (
    (
        Official(
            "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B",
            "deepseek",
            "<｜Assistant｜><｜tool▁calls▁begin｜>",
            "<｜end▁of",
            says=False,
        ),
        DeepSeek(fenced=True),
    ),
    (
        Official("deepseek-ai-DeepSeek-V3.1", "deepseek", "</think>", "<｜end▁of"),
        DeepSeek(fenced=False),
    ),
)


def written(official: Official, form: ToolFormat, said: str, calls: Sequence[Call]) -> str:
    """What the template writes for a turn of the assistant."""
    made = tuple(
        ToolCall(f"call_{number}", call.name, call.arguments) for number, call in enumerate(calls)
    )
    conversation = Conversation(
        (Message(Role.USER, "Go."), Message(Role.ASSISTANT, said, tool_calls=made)),
        TOOLS if official.told else (),
    )
    text = render(
        templates()[official.template],
        template_variables(conversation, lambda text, _: text, form),
        special_tokens={"bos_token": "<s>", "eos_token": "</s>"},
        generation_prompt=False,
    )
    _, found, turn = text.partition(official.opening)
    assert found
    if official.opening.endswith("begin｜>"):
        turn = "<｜tool▁calls▁begin｜>" + turn
    if official.ending:
        turn, found, _ = turn.partition(official.ending)
        assert found
    return turn


def read(form: ToolFormat, text: str, size: int) -> tuple[str, list[Call]]:
    """(content, calls) of a text that comes in pieces of ``size``."""
    parser = form.parser(TOOLS)
    pieces: list[Piece] = []
    for start in range(0, len(text), size):
        pieces += parser.feed(text[start : start + size])
    pieces += parser.finish()
    content = "".join(piece.text for piece in pieces if isinstance(piece, ContentText))
    return content, [piece for piece in pieces if isinstance(piece, Call)]


def check(official: Official, form: ToolFormat) -> None:
    calls = CALLS[: official.most]
    for said in ("", "I look.")[: 1 + official.says]:
        text = written(official, form, said, calls)
        for size in (1, 2, 7, len(text)):
            content, found = read(form, text, size)
            assert content.strip() == said
            assert [call.name for call in found] == [call.name for call in calls]
            for one, other in zip(found, calls, strict=True):
                assert json.loads(one.arguments) == json.loads(other.arguments)


@pytest.mark.parametrize("official", OFFICIAL, ids=lambda official: official.template)
def test_calls_that_a_template_writes_are_read(official: Official) -> None:
    form = format_of(templates()[official.template])
    assert form is not None
    assert form.name == official.family
    check(official, form)


@pytest.mark.parametrize(("official", "form"), UNTOLD, ids=["r1", "v3.1"])
def test_a_template_that_leaves_tools_out_knows_of_none(
    official: Official, form: ToolFormat
) -> None:
    assert format_of(templates()[official.template]) is None
    check(official, form)


def test_the_ways_of_mistral_are_told_apart() -> None:
    ways = {
        "mistralai-Mistral-Nemo-Instruct-2407": Way.ARRAY,
        "Mistral-Small-3.2-24B-Instruct-2506": Way.NUMBERED,
        "unsloth-mistral-Devstral-Small-2507": Way.NAMED,
    }
    for name, way in ways.items():
        assert format_of(templates()[name]) == Mistral(way)


@pytest.mark.parametrize(
    "name",
    [
        "google-gemma-2-2b-it",  # no tools
        "microsoft-Phi-3.5-mini-instruct",
        "Qwen3-Coder",  # Qwen's marks around something else
        "Qwen3.5-4B",
        "GLM-4.6",
        "MiniMax-M3",
        "unsloth-Apriel-1.5",
        "meetkai-functionary-medium-v3.1",  # Llama's marks around something else
        "fireworks-ai-llama-3-firefunction-v2",
        "deepseek-ai-DeepSeek-V3.2",
        "CohereForAI-c4ai-command-r-plus-tool_use",
    ],
)
def test_a_form_that_is_not_known_is_none(name: str) -> None:
    assert format_of(templates()[name]) is None


class TestHarmony:
    """gpt-oss writes reasoning, content and calls as messages in channels."""

    ANSWER = (
        "<|channel|>analysis<|message|>Hm, weather.<|end|>"
        "<|start|>assistant<|channel|>analysis<|message|> Still.<|end|>"
        "<|start|>assistant<|channel|>commentary<|message|>I look.<|end|>"
        "<|start|>assistant<|channel|>commentary to=functions.get "
        '<|constrain|>json<|message|>{"city": "Rome"}'
    )

    @property
    def template(self) -> str:
        return templates()["openai-gpt-oss-120b"]

    def prompt(self, *messages: Message, continues: bool = False) -> str:
        conversation = Conversation((Message(Role.USER, "Go."), *messages), TOOLS)
        text = render(
            self.template,
            template_variables(conversation, lambda text, _: text, format_of(self.template)),
            special_tokens={},
            generation_prompt=not continues,
        )
        return text.removesuffix("<|return|>") if continues else text

    @pytest.mark.parametrize("size", [1, 3, 1000])
    def test_an_answer_in_all_channels(self, size: int) -> None:
        expected = expectation(self.template, self.prompt(), WITH_TOOLS, ToolChoice(), None)
        parser = expected.parser()
        pieces: list[Piece] = []
        for start in range(0, len(self.ANSWER), size):
            pieces += parser.feed(self.ANSWER[start : start + size])
        pieces += parser.finish()
        kinds = {
            kind: "".join(piece.text for piece in pieces if isinstance(piece, kind))
            for kind in (ReasoningText, ContentText)
        }
        assert kinds[ReasoningText] == "Hm, weather. Still."
        assert kinds[ContentText] == "I look."
        assert [each for each in pieces if isinstance(each, Call)] == [
            Call("get", '{"city": "Rome"}')
        ]

    @pytest.mark.parametrize("use", [ToolUse.AUTO, ToolUse.NONE])
    def test_channels_come_without_tools_too(self, use: ToolUse) -> None:
        expected = expectation(self.template, self.prompt(), WITHOUT, ToolChoice(use), None)
        parser = expected.parser()
        text = (
            "<|channel|>analysis<|message|>Hm.<|end|>"
            "<|start|>assistant<|channel|>final<|message|>Yes."
        )
        pieces = (*parser.feed(text), *parser.finish())
        assert pieces == (ReasoningText("Hm."), ContentText("Yes."))

    def test_a_turn_that_goes_on_is_content(self) -> None:
        prompt = self.prompt(Message(Role.ASSISTANT, "On the one"), continues=True)
        assert prompt.endswith("final<|message|>On the one")
        parser = expectation(self.template, prompt, WITH_TOOLS, ToolChoice(), None).parser()
        assert (*parser.feed(" hand"), *parser.finish()) == (ContentText(" hand"),)

    def test_an_answer_in_a_certain_form_begins_in_its_channel(self) -> None:
        wanted = Constraint(Grammar.JSON_SCHEMA, "{}")
        made = expectation(self.template, self.prompt(), WITHOUT, ToolChoice(), wanted).constraint
        assert made is not None
        assert made.after == "<|channel|>final<|message|>"
        begun = self.prompt(Message(Role.ASSISTANT, "{"), continues=True)
        assert expectation(self.template, begun, WITHOUT, ToolChoice(), wanted).constraint == wanted

    def test_a_call_that_is_demanded_may_be_reasoned_about(self) -> None:
        choice = ToolChoice(ToolUse.REQUIRED)
        made = expectation(self.template, self.prompt(), WITH_TOOLS, choice, None).constraint
        assert made is not None
        assert made.after is None
        assert "analysis" in made.text

    def test_an_answer_without_reasoning_is_begun_by_closing_it(self) -> None:
        assert marks_of(self.template) == HARMONY
        prompt = self.prompt()
        assert opening_of(prompt, HARMONY) is Opening.UNSAID
        prompt += closing_of(prompt, HARMONY)
        assert prompt.endswith("<|start|>assistant<|channel|>analysis<|message|><|end|>")
        parser = expectation(self.template, prompt, WITH_TOOLS, ToolChoice(), None).parser()
        text = "<|start|>assistant<|channel|>final<|message|>Yes."
        assert (*parser.feed(text), *parser.finish()) == (ContentText("Yes."),)
