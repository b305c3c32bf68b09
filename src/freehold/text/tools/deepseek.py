# ruff: noqa: RUF001, RUF002 - the bars in these marks are wide ones
"""DeepSeek V3 and R1, and V3.1, which leaves out the fence.

<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>look
```json
{"where": "there"}
```<｜tool▁call▁end｜><｜tool▁calls▁end｜>

<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>look<｜tool▁sep｜>{"where": "there"}<｜tool▁call▁end｜>…
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from freehold.domain.chat import Tool, ToolChoice
from freehold.text.answer import AnswerParser
from freehold.text.tools import grammar
from freehold.text.tools.format import ToolFormat
from freehold.text.tools.jsontext import direct_call, take_object
from freehold.text.tools.reading import CallParser, Cursor, Reading

CALLS: Final = "<｜tool▁calls▁begin｜>"
CALL: Final = "<｜tool▁call▁begin｜>"
SEPARATOR: Final = "<｜tool▁sep｜>"
END_OF_CALL: Final = "<｜tool▁call▁end｜>"
END_OF_CALLS: Final = "<｜tool▁calls▁end｜>"
FENCE: Final = "```"
_OPENED: Final = f"\n{FENCE}json\n"
_CLOSED: Final = f"\n{FENCE}"


@dataclass(frozen=True)
class DeepSeek:
    """``fenced``: the arguments are in a block of Markdown."""

    fenced: bool
    takes_text: bool = False
    name: str = "deepseek"

    @property
    def shown(self) -> tuple[str, ...]:
        return CALLS, CALL, SEPARATOR, END_OF_CALL, END_OF_CALLS

    def call_id(self, identity: str) -> str:
        return identity

    def parser(self, tools: Sequence[Tool]) -> AnswerParser:
        heads = {self._head(tool.name): tool.name for tool in tools}

        def read(cursor: Cursor) -> Reading:
            begun = yield from cursor.take(CALLS, CALL)
            while begun != END_OF_CALLS:
                if begun == CALLS:
                    yield from cursor.space()
                    yield from cursor.take(CALL)
                yield from cursor.space()
                head = yield from cursor.take(*heads)
                yield from cursor.space()
                arguments = yield from take_object(cursor)
                yield from cursor.space()
                if self.fenced:
                    yield from cursor.take(FENCE)
                    yield from cursor.space()
                yield from cursor.take(END_OF_CALL)
                yield direct_call(heads[head], arguments)
                yield from cursor.space()
                begun = yield from cursor.take(CALL, END_OF_CALLS)

        return CallParser(read, (CALLS, CALL))

    def grammar(self, tools: Sequence[Tool], choice: ToolChoice) -> str:
        called = grammar.wanted(tools, choice)
        between = r'"\n" call' if self.fenced else "call"
        bodies = [self._body(tool.name, f"args_{number}") for number, tool in enumerate(called)]
        more = grammar.repeated(between, grammar.further_calls(choice))
        marks = {
            "calls": CALLS,
            "call": CALL,
            "separator": SEPARATOR,
            "call_end": END_OF_CALL,
            "calls_end": END_OF_CALLS,
        }
        return "\n".join(
            [
                f"start: LINES? token_calls call{more} token_calls_end",
                grammar.LINES,
                *grammar.one_of_each("call", bodies, called),
                *grammar.tokens(marks),
            ]
        )

    def _head(self, name: str) -> str:
        if self.fenced:
            return f"function{SEPARATOR}{name}{_OPENED}"
        return name + SEPARATOR

    def _body(self, name: str, arguments: str) -> str:
        if not self.fenced:
            return f"token_call {grammar.literal(name)} token_separator {arguments} token_call_end"
        opened = f'"function" token_separator {grammar.literal(f"{name}{_OPENED}")}'
        return f"token_call {opened} {arguments} {grammar.literal(_CLOSED)} token_call_end"


def of_template(template: str) -> ToolFormat | None:
    if CALL not in template or SEPARATOR not in template:
        return None
    written = template.rpartition(SEPARATOR)[2].partition("}}")[0]
    return DeepSeek(fenced=f"{FENCE}json" in template, takes_text="tojson" not in written)
