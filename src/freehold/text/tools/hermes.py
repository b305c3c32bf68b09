"""Hermes 2 Pro and 3, Qwen2.5 and 3, QwQ, Granite 4 and others.

<tool_call>
{"name": "look", "arguments": {"where": "there"}}
</tool_call>

Small models leave the marks out, or put a code fence in their place: at the beginning of an answer
that is a call all the same.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from freehold.domain.chat import Tool, ToolChoice
from freehold.text.answer import AnswerParser
from freehold.text.tools import grammar
from freehold.text.tools.format import ToolFormat
from freehold.text.tools.jsontext import first_keys, named_call, take_object
from freehold.text.tools.reading import CallParser, Cursor, Reading

BEGIN: Final = "<tool_call>"
END: Final = "</tool_call>"
_FENCE: Final = "```"
_FENCES: Final = (f"{_FENCE}json", _FENCE)
_ARGUMENTS: Final = ("arguments",)
_KEYS: Final = first_keys(_ARGUMENTS)

# The example in the system prompt, perhaps of two strings. Others put something else there.
_EXAMPLE = re.compile(r'<tool_call>[^<\[]{0,40}?\{\\?"name\\?"')


@dataclass(frozen=True)
class Hermes:
    name: str = "hermes"
    shown: tuple[str, ...] = (BEGIN, END)
    takes_text: bool = False

    def call_id(self, identity: str) -> str:
        return identity

    def parser(self, tools: Sequence[Tool]) -> AnswerParser:
        names = frozenset(tool.name for tool in tools)

        def read(cursor: Cursor) -> Reading:
            end = None
            if cursor.next != "{":
                begin = yield from cursor.take(BEGIN, *_FENCES)
                end = END if begin == BEGIN else _FENCE
                yield from cursor.space()
            call = yield from take_object(cursor, _KEYS)
            if end is not None:
                yield from cursor.space()
                yield from cursor.take(end)
            yield named_call(call, names, _ARGUMENTS)

        return CallParser(read, (BEGIN,), first=("{", *_FENCES))

    def grammar(self, tools: Sequence[Tool], choice: ToolChoice) -> str:
        called = grammar.wanted(tools, choice)
        more = grammar.repeated(r'"\n" call', grammar.further_calls(choice))
        bodies = [
            f"token_begin {grammar.literal(_head(tool.name))} args_{number} {_TAIL} token_end"
            for number, tool in enumerate(called)
        ]
        return "\n".join(
            [
                f"start: LINES? call{more}",
                grammar.LINES,
                *grammar.one_of_each("call", bodies, called),
                *grammar.tokens({"begin": BEGIN, "end": END}),
            ]
        )


_TAIL: Final = grammar.literal("}\n")


def _head(name: str) -> str:
    return f'\n{{"name": {grammar.literal(name)}, "arguments": '


def of_template(template: str) -> ToolFormat | None:
    return Hermes() if _EXAMPLE.search(template) else None
