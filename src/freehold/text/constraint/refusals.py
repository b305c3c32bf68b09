"""Why a constraint cannot be used, in our words."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from freehold.domain.errors import InvalidRequest
from freehold.domain.sampling import Grammar

FIELD: Final = "response_format"
MAX_REASON_CHARACTERS: Final = 200

SUBJECTS: Final[Mapping[Grammar, str]] = {
    Grammar.JSON_SCHEMA: "The JSON schema",
    Grammar.REGEX: "The regular expression",
    Grammar.LARK: "The Lark grammar",
}


def refused(grammar: Grammar, error: str) -> InvalidRequest:
    reason = reason_of(error, places=grammar is Grammar.LARK)
    return InvalidRequest(f"{SUBJECTS[grammar]} cannot be used: {reason}.", field=FIELD)


def reason_of(error: str, *, places: bool = False) -> str:
    """llguidance's message in one clause: without excerpts, backtraces and the parser's state.

    ``places`` keeps line and column, which mean something only where the text was a grammar.
    """
    error = error.split("\n<", maxsplit=1)[0].strip()
    if keys := re.fullmatch(r"Unimplemented keys: \[(.*)\]", error, re.DOTALL):
        return _cut(f"unsupported keywords: {keys[1]}")
    if error.startswith("oneOf constraints"):
        return "oneOf is supported only where its alternatives exclude each other; use anyOf"
    if error.startswith("panic: "):
        return "it is more than the compiler can do"
    place = ""
    if located := re.match(r"(?:at )?(\d+)\((\d+)\): ", error):
        place = f"line {located[1]}, column {located[2]}: " if places else ""
        error = re.split(r"\n *\d+ \| ", error[located.end() :])[0]
    error = re.sub(r'^invalid regex ".*" \(in \w+\): ', "", error, flags=re.DOTALL)
    if syntax := re.search(r"^error: (.*)$", error, re.MULTILINE):
        error = syntax[1]
    return _cut(place + " ".join(error.split()).rstrip("."))


def _cut(reason: str) -> str:
    if len(reason) <= MAX_REASON_CHARACTERS:
        return reason
    return reason[: MAX_REASON_CHARACTERS - 1] + "…"
