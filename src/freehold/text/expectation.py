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
from freehold.text.tools.harmony import Harmony


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


def expectation(
    template: str,
    prompt: str,
    tools: tuple[Tool, ...],
    choice: ToolChoice,
    constraint: Constraint | None,
) -> Expectation:
    """What comes after a rendered ``prompt``.

    Raises `InvalidRequest` where a call and an answer in a certain form are both demanded.
    """
    marks = marks_of(template)
    opening = opening_of(prompt, marks) if marks is not None else Opening.DONE
    calls = bool(tools) and choice.use is not ToolUse.NONE
    form = format_of(template)
    channels = isinstance(form, Harmony)  # its marks come with or without calls
    if not calls and not channels:
        form = None
    after = before_answer(prompt, marks) if marks is not None else None
    if calls and choice.use is ToolUse.REQUIRED and form is not None:
        if constraint is not None:
            raise InvalidRequest(
                "A call is demanded, and an answer of a certain form; only one of them can be.",
                field="response_format",
            )
        constraint = Constraint(Grammar.LARK, form.grammar(tools, choice))
        after = None if channels else after  # its grammar begins with the reasoning
    if constraint is not None and after is not None:
        constraint = replace(constraint, after=after)
    return Expectation(
        marks=marks if opening is not Opening.DONE else None,
        inside=opening is Opening.INSIDE,
        form=form,
        tools=tools if calls else (),
        constraint=constraint,
    )
