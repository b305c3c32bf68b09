"""How the answer to one prompt is to be read, and what holds it in its form. Pure.

What a model can do beside talking, reason and call tools, shows in its chat template alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from freehold.domain.chat import Conversation, Tool, ToolChoice, ToolUse
from freehold.domain.errors import InvalidRequest
from freehold.domain.sampling import Constraint, Grammar
from freehold.text.answer import AnswerParser, Plain
from freehold.text.reasoning import (
    Marks,
    Opening,
    ReasoningParser,
    before_answer,
    marks_of,
    opening_of,
)
from freehold.text.tools.families import format_of
from freehold.text.tools.format import ToolFormat
from freehold.text.tools.grammar import calls_or_json
from freehold.text.tools.harmony import Harmony
from freehold.text.tools.llama3 import Llama3

# Their calls cannot be told from an answer in JSON as it is written: in a channel of its own, or
# JSON as well.
_LIKE_ANSWERS = (Harmony, Llama3)


@dataclass(frozen=True)
class Expectation:
    """``marks`` None: no reasoning comes. ``form`` None: no calls come, nor other marks.

    ``inside``: the answer begins within reasoning.
    """

    marks: Marks | None
    inside: bool
    form: ToolFormat | None
    tools: tuple[Tool, ...]
    constraint: Constraint | None

    def parser(self) -> AnswerParser:
        """For one answer."""
        content = self.form.parser(self.tools) if self.form is not None else Plain()
        if self.marks is None:
            return content
        return ReasoningParser(self.marks, content, inside=self.inside)


def require_known(template: str, conversation: Conversation, choice: ToolChoice) -> None:
    """Raise `InvalidRequest` for what a model with this template cannot do."""
    wish = conversation.reasoning
    wants_reasoning = wish.enabled or wish.budget is not None
    if wants_reasoning and marks_of(template) is None:
        raise InvalidRequest("This model does not reason before it answers.", field="reasoning")
    if wish.effort is not None and "reasoning_effort" not in template:
        raise InvalidRequest(
            "This model's chat template knows no levels of reasoning effort.",
            field="reasoning_effort",
        )
    if conversation.tools and format_of(template) is None:
        raise InvalidRequest("This model's chat template does not know of tools.", field="tools")
    if choice.use is ToolUse.REQUIRED and not conversation.tools:
        raise InvalidRequest("A tool is to be called, and there are none.", field="tool_choice")
    names = [tool.name for tool in conversation.tools]
    if choice.name is not None and choice.name not in names:
        raise InvalidRequest(f"There is no tool {choice.name!r}.", field="tool_choice")


def _calls_or_answer(
    form: ToolFormat, tools: tuple[Tool, ...], choice: ToolChoice, answer: Constraint
) -> Constraint:
    """An answer of a certain form from a model that may call tools instead."""
    if answer.grammar is not Grammar.JSON_SCHEMA or isinstance(form, _LIKE_ANSWERS):
        raise InvalidRequest(
            "An answer of this form cannot be combined with tools; only a JSON schema can, and "
            "not with every model.",
            field="response_format",
        )
    return Constraint(Grammar.LARK, calls_or_json(form.grammar(tools, choice), answer.text))


def expectation(
    template: str,
    prompt: str,
    conversation: Conversation,
    choice: ToolChoice,
    constraint: Constraint | None,
) -> Expectation:
    """What comes after the rendered ``prompt`` of a conversation.

    Raises `InvalidRequest` where a call and an answer in a certain form are both demanded.
    """
    marks = marks_of(template)
    opening = opening_of(prompt, marks) if marks is not None else Opening.DONE
    if conversation.continues and opening is Opening.UNSAID:
        opening = Opening.DONE  # the answer has begun already
    tools = conversation.tools
    calls = bool(tools) and choice.use is not ToolUse.NONE
    form = format_of(template)
    channels = isinstance(form, Harmony)  # its marks come with or without calls
    if not calls and not channels:
        form = None
    after = None
    if marks is not None and (channels or opening is not Opening.DONE):
        after = before_answer(prompt, marks)
    if calls and choice.use is ToolUse.REQUIRED and form is not None:
        if constraint is not None:
            raise InvalidRequest(
                "A call is demanded, and an answer of a certain form; only one of them can be.",
                field="response_format",
            )
        constraint = Constraint(Grammar.LARK, form.grammar(tools, choice))
        after = None if channels else after  # its grammar begins with the reasoning
    elif calls and constraint is not None and form is not None:
        constraint = _calls_or_answer(form, tools, choice, constraint)
    if constraint is not None and after is not None:
        assert marks is not None
        # Who may leave its reasoning out is constrained at once when it does.
        begin = marks.begin if opening is Opening.UNSAID and not channels else None
        constraint = replace(constraint, after=after, begin=begin)
    return Expectation(
        marks=marks if opening is not Opening.DONE else None,
        inside=opening is Opening.INSIDE,
        form=form,
        tools=tools if calls else (),
        constraint=constraint,
    )
