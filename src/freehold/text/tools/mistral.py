"""Mistral's models, which have written calls in three ways.

    [TOOL_CALLS][{"name": "look", "arguments": {"where": "there"}, "id": "000000000"}]
    [TOOL_CALLS]look[CALL_ID]000000000[ARGS]{"where": "there"}
    [TOOL_CALLS]look[ARGS]{"where": "there"}

A parser takes any of them.
"""

from __future__ import annotations

import enum
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from freehold.domain.chat import Tool, ToolChoice
from freehold.text.answer import AnswerParser
from freehold.text.tools import grammar
from freehold.text.tools.format import ToolFormat
from freehold.text.tools.jsontext import direct_call, first_keys, named_call, take_object
from freehold.text.tools.reading import CallParser, Cursor, Reading

BEGIN: Final = "[TOOL_CALLS]"
CALL_ID: Final = "[CALL_ID]"
ARGS: Final = "[ARGS]"
ID_CHARACTERS: Final = 9  # the templates refuse any other number
_ARGUMENTS: Final = ("arguments",)
_KEYS: Final = first_keys(_ARGUMENTS)
_ARRAY = re.compile(r"\[TOOL_CALLS\]\s*\[")
_AN_ID = re.compile(rf"[A-Za-z0-9]{{{ID_CHARACTERS}}}")
_ID = re.compile(r"[A-Za-z0-9]*")
_ID_RULE: Final = f"ID: /{_AN_ID.pattern}/"


class Way(enum.Enum):
    """How the calls are written."""

    ARRAY = "array"
    NAMED = "named"
    NUMBERED = "numbered"


@dataclass(frozen=True)
class Mistral:
    way: Way
    name: str = "mistral"
    takes_text: bool = False

    @property
    def shown(self) -> tuple[str, ...]:
        return BEGIN, CALL_ID, ARGS

    def call_id(self, identity: str) -> str:
        if _AN_ID.fullmatch(identity):
            return identity
        return hashlib.sha256(identity.encode()).hexdigest()[:ID_CHARACTERS]

    def parser(self, tools: Sequence[Tool]) -> AnswerParser:
        names = frozenset(tool.name for tool in tools)

        def read(cursor: Cursor) -> Reading:
            yield from cursor.take(BEGIN)
            yield from cursor.space()
            if (yield from cursor.peek()) == "[":
                yield from _read_array(cursor, names)
            else:
                yield from _read_named(cursor, names)

        return CallParser(read, (BEGIN,))

    def grammar(self, tools: Sequence[Tool], choice: ToolChoice) -> str:
        called = grammar.wanted(tools, choice)
        further = grammar.further_calls(choice)
        marks = {"begin": BEGIN}
        if self.way is Way.ARRAY:
            heads = [f'{{"name": {grammar.literal(tool.name)}, "arguments": ' for tool in called]
            bodies = [
                f'{grammar.literal(head)} args_{number} id? "}}"'
                for number, head in enumerate(heads)
            ]
            more = grammar.repeated('", " call', further)
            start = f'token_begin "[" call{more} "]"'
            rules = [r'id: ", \"id\": \"" ID "\""', _ID_RULE]
        else:
            marks["args"] = ARGS
            between, rules = "token_args", []
            if self.way is Way.NUMBERED:
                marks["id"] = CALL_ID
                between, rules = "token_id ID token_args", [_ID_RULE]
            bodies = [
                f"token_begin {grammar.literal(tool.name)} {between} args_{number}"
                for number, tool in enumerate(called)
            ]
            start = f"call{grammar.repeated('call', further)}"
        return "\n".join(
            [
                f"start: LINES? {start}",
                grammar.LINES,
                *grammar.one_of_each("call", bodies, called),
                *rules,
                *grammar.tokens(marks),
            ]
        )


def _read_array(cursor: Cursor, names: frozenset[str]) -> Reading:
    yield from cursor.take("[")
    while True:
        yield from cursor.space()
        call = yield from take_object(cursor, _KEYS)
        yield named_call(call, names, _ARGUMENTS)
        yield from cursor.space()
        if (yield from cursor.take(",", "]")) == "]":
            return


def _read_named(cursor: Cursor, names: frozenset[str]) -> Reading:
    after = (CALL_ID, ARGS)
    found = yield from cursor.take(*(name + mark for name in names for mark in after))
    mark = next(each for each in after if found.endswith(each))
    if mark == CALL_ID:
        yield from cursor.run(_ID)
        yield from cursor.take(ARGS)
    yield from cursor.space()
    arguments = yield from take_object(cursor)
    yield direct_call(found.removesuffix(mark), arguments)


def of_template(template: str) -> ToolFormat | None:
    if BEGIN not in template:
        return None
    if ARGS in template:
        return Mistral(Way.NUMBERED if CALL_ID in template else Way.NAMED)
    return Mistral(Way.ARRAY) if _ARRAY.search(template) else None
