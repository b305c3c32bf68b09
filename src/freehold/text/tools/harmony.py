"""gpt-oss. Everything is a message in a channel.

    <|channel|>analysis<|message|>…<|end|>                              reasoning
    <|start|>assistant<|channel|>final<|message|>…                      content
    <|start|>assistant<|channel|>commentary<|message|>…<|end|>          content before a call
    … to=functions.look<|channel|>commentary json<|message|>{…}<|call|> a call

The prompt ends with ``<|start|>assistant``. The recipient may also stand behind the channel.
``<|call|>`` ends the turn, so an answer holds one call.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Final

from freehold.domain.chat import Tool, ToolChoice
from freehold.text.answer import AnswerParser, ContentText, ReasoningText, held_back
from freehold.text.tools import grammar
from freehold.text.tools.format import ToolFormat
from freehold.text.tools.jsontext import direct_call, take_object
from freehold.text.tools.reading import CallParser, Cursor, Mismatch, Reading

START: Final = "<|start|>"
CHANNEL: Final = "<|channel|>"
CONSTRAIN: Final = "<|constrain|>"
MESSAGE: Final = "<|message|>"
END: Final = "<|end|>"
CALL: Final = "<|call|>"
RETURN: Final = "<|return|>"
RECIPIENT: Final = "to=functions."

_ENDS: Final = (END, CALL, RETURN)
_HEADER = re.compile(
    r"(?:<\|start\|>assistant)?\s*"
    r"(?:to=functions\.(?P<before>[^\s<]+))?\s*"
    r"<\|channel\|>(?P<channel>analysis|commentary|final)"
    r"(?: to=functions\.(?P<behind>[^\s<]+))?"
    r"\s*(?:<\|constrain\|>)?\s*(?:json|code)?\s*<\|message\|>"
)
_MAX_HEADER: Final = 512
_UNTIL_MARK = re.compile(rf"[^<]{{0,{_MAX_HEADER}}}")


@dataclass(frozen=True)
class Harmony:
    name: str = "harmony"
    shown: tuple[str, ...] = (START, CHANNEL, CONSTRAIN, MESSAGE, END, CALL, RETURN)
    takes_text: bool = False

    def call_id(self, identity: str) -> str:
        return identity

    def parser(self, tools: Sequence[Tool]) -> AnswerParser:
        names = frozenset(tool.name for tool in tools)

        def read(cursor: Cursor) -> Reading:
            header = yield from _take_header(cursor)
            name = header["before"] or header["behind"]
            if name is None:
                yield from _read_text(cursor, reasoning=header["channel"] == "analysis")
                return
            if name not in names:
                raise Mismatch
            yield from cursor.space()
            arguments = yield from take_object(cursor)
            yield direct_call(name, arguments)
            yield from cursor.space()
            yield from cursor.take(*_ENDS)

        return CallParser(read, (START, CHANNEL), first=(RECIPIENT,))

    def grammar(self, tools: Sequence[Tool], choice: ToolChoice) -> str:
        called = grammar.wanted(tools, choice)
        bodies = [_body(tool.name, f"args_{number}") for number, tool in enumerate(called)]
        return "\n".join(
            [
                # The second after reasoning that was cut off.
                "start: message | next message",
                "message: (reasoning next)? call",
                'reasoning: token_channel "analysis" token_message thoughts',
                # llama.cpp makes text of all marks but <|call|> and <|return|>, which end turns.
                r"thoughts[lazy]: /(.|\n)*<\|end\|>/",
                'next: token_start "assistant"',
                *grammar.one_of_each("call", bodies, called),
                *grammar.tokens(
                    {
                        "start": START,
                        "channel": CHANNEL,
                        "constrain": CONSTRAIN,
                        "message": MESSAGE,
                    }
                ),
            ]
        )


def _take_header(cursor: Cursor) -> Generator[None, None, re.Match[str]]:
    """Up to the message itself."""
    start = cursor.at
    while True:
        yield from cursor.run(_UNTIL_MARK)
        mark = yield from cursor.take(START, CHANNEL, CONSTRAIN, MESSAGE)
        again = mark == START and cursor.at - start > len(START)
        if again or cursor.at - start > _MAX_HEADER:
            raise Mismatch
        if mark == MESSAGE:
            break
    header = _HEADER.fullmatch(cursor.text, start, cursor.at)
    if header is None:
        raise Mismatch
    return header


def _read_text(cursor: Cursor, *, reasoning: bool) -> Reading:
    """What a message says, as it comes."""
    kind = ReasoningText if reasoning else ContentText
    yield kind("")  # the header is no part of it
    while True:
        places = [cursor.text.find(mark, cursor.at) for mark in (*_ENDS, START)]
        end = min((place for place in places if place >= 0), default=None)
        keep = 0 if cursor.ended else held_back(cursor.text[cursor.at :], *_ENDS, START)
        text = cursor.text[cursor.at : len(cursor.text) - keep if end is None else end]
        cursor.at += len(text)
        yield kind(text)
        if end is not None:
            yield from cursor.take(*_ENDS, "")
            return
        if cursor.ended:
            return
        yield None


def _body(name: str, arguments: str) -> str:
    recipient = RECIPIENT + name
    behind = grammar.literal(f"commentary {recipient} ")
    before = grammar.literal(f" {recipient}")
    return (
        f'token_channel {behind} token_constrain "json" token_message {arguments}'
        f' | {before} token_channel "commentary " token_constrain? "json" token_message {arguments}'
    )


def of_template(template: str) -> ToolFormat | None:
    known = f"{CHANNEL}commentary" in template and f"{CHANNEL}analysis{MESSAGE}" in template
    return Harmony() if known else None
