"""Llama 3.1, 3.2 and 3.3.

    {"name": "look", "parameters": {"where": "there"}}; {"name": "look", "parameters": {}}

Only at the beginning of an answer, or after ``<|python_tag|>``: elsewhere it is an example.
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

TAG: Final = "<|python_tag|>"
_ARGUMENTS: Final = ("parameters", "arguments")  # some write what others are trained on
_BETWEEN = re.compile(r"[ \t\r\n]*;?[ \t\r\n]*")
_KEYS: Final = first_keys(_ARGUMENTS)


@dataclass(frozen=True)
class Llama3:
    name: str = "llama3"
    shown: tuple[str, ...] = (TAG,)
    takes_text: bool = False

    def call_id(self, identity: str) -> str:
        return identity

    def parser(self, tools: Sequence[Tool]) -> AnswerParser:
        names = frozenset(tool.name for tool in tools)

        def read(cursor: Cursor) -> Reading:
            while True:
                if (yield from cursor.peek()) != "{":
                    yield from cursor.take(TAG)
                    yield from cursor.space()
                call = yield from take_object(cursor, _KEYS)
                yield named_call(call, names, _ARGUMENTS)
                yield from cursor.run(_BETWEEN)
                if not cursor.next:
                    return

        return CallParser(read, (TAG,), first=("{",))

    def grammar(self, tools: Sequence[Tool], choice: ToolChoice) -> str:
        called = grammar.wanted(tools, choice)
        more = grammar.repeated('"; " call', grammar.further_calls(choice))
        bodies = [
            f'{grammar.literal(_head(tool.name))} args_{number} "}}"'
            for number, tool in enumerate(called)
        ]
        return "\n".join([f"start: call{more}", *grammar.one_of_each("call", bodies, called)])


def _head(name: str) -> str:
    return f'{{"name": {grammar.literal(name)}, "parameters": '


def of_template(template: str) -> ToolFormat | None:
    # Llama 3.2's template does not mention the tag.
    known = "<|start_header_id|>" in template
    return Llama3() if known and '{"name": function name, "parameters": ' in template else None
