"""What the grammars of all families have in common. They are Lark, in llguidance's notation.

Some vocabularies have a mark such as ``<tool_call>`` as a control token, which matches no text;
in others it is text. A rule ``token_…`` whose body is one string stands for either;
`for_vocabulary` puts in which.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from freehold.domain.chat import Tool, ToolChoice
from freehold.domain.errors import InvalidRequest

MAX_CALLS: Final = 16
# Between the parts of a JSON document. As llama.cpp's own JSON grammars have it, with room for
# deeper indentation.
WHITESPACE: Final = r" |\n{1,2}[ \t]{0,40}"

# What models write between their reasoning and a call.
LINES: Final = r"LINES: /\n{1,2}/"

_EITHER = re.compile(r'^(token_\w+): ("(?:[^"\\]|\\.)*")$', re.MULTILINE)


def for_vocabulary(grammar: str, control: Callable[[str], int | None]) -> str:
    """``grammar`` for one vocabulary. ``control``: the control token that is spelled so, if any."""

    def put_in(rule: re.Match[str]) -> str:
        token = control(json.loads(rule[2]))
        return rule[0] if token is None else f"{rule[1]}: <[{token}]>"

    return _EITHER.sub(put_in, grammar)


def literal(text: str) -> str:
    """``text`` as Lark writes it."""
    return json.dumps(text, ensure_ascii=False)


def tokens(marks: Mapping[str, str]) -> Iterator[str]:
    """A rule ``token_NAME`` for each mark."""
    return (f"token_{name}: {literal(mark)}" for name, mark in marks.items())


def wanted(tools: Sequence[Tool], choice: ToolChoice) -> list[Tool]:
    """The tools that may be called."""
    return [tool for tool in tools if choice.name in (None, tool.name)]


def further_calls(choice: ToolChoice) -> int:
    """How many calls may follow the first."""
    return MAX_CALLS - 1 if choice.parallel and choice.name is None else 0


def repeated(rule: str, times: int) -> str:
    """``rule`` up to so many times."""
    return f" ({rule}){{0,{times}}}" if times else ""


def one_of_each(rule: str, bodies: Sequence[str], tools: Sequence[Tool]) -> Iterator[str]:
    """``rule``, one of ``bodies``, which may use ``args_N``: the arguments of tool N."""
    yield f"{rule}: " + " | ".join(f"{rule}_{number}" for number in range(len(bodies)))
    for number, (body, tool) in enumerate(zip(bodies, tools, strict=True)):
        yield f"{rule}_{number}: {body}"
        yield f"args_{number}: %json {_parameters(tool)}"


def calls_or_json(calls: str, schema: str) -> str:
    """A grammar of the calls that the grammar ``calls`` describes, or of JSON by ``schema``."""
    parsed: Any = json.loads(schema)
    if parsed is True:
        parsed = {}
    if not isinstance(parsed, dict) or _OPTIONS_KEY in parsed:
        raise InvalidRequest("This JSON schema cannot be used with tools.", field="response_format")
    renamed = re.sub("^start:", "calls:", calls, count=1, flags=re.MULTILINE)
    return f"start: calls | answer\nanswer: %json {_with_options(parsed)}\n{renamed}"


# Options of llguidance's in a schema, which could switch checks off.
_OPTIONS_KEY: Final = "x-guidance"


def _with_options(schema: Mapping[str, Any]) -> str:
    """With our rules for whitespace."""
    options = {"whitespace_pattern": WHITESPACE, "lenient": False}
    return json.dumps({**schema, _OPTIONS_KEY: options}, ensure_ascii=False)


def _parameters(tool: Tool) -> str:
    """The schema of a tool's arguments."""
    try:
        schema: Any = json.loads(tool.parameters)
    except (ValueError, RecursionError):
        raise _unusable(tool, "are not JSON") from None
    if schema is True:
        schema = {}
    if not isinstance(schema, dict) or schema.get("type", "object") != "object":
        raise _unusable(tool, "must be the schema of an object")
    if _OPTIONS_KEY in schema:
        raise _unusable(tool, f"have an unsupported keyword: {_OPTIONS_KEY}")
    return _with_options({**schema, "type": "object"})


def _unusable(tool: Tool, reason: str) -> InvalidRequest:
    return InvalidRequest(f"The parameters of tool {tool.name!r} {reason}.", field="tools")
