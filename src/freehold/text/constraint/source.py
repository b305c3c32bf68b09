"""Constraints in llguidance's own form."""

from __future__ import annotations

import json
from collections.abc import Callable

from llguidance import LLMatcher

from freehold.domain.sampling import Constraint, Grammar
from freehold.text.constraint.refusals import refused
from freehold.text.messages import MAX_CONSTRAINT_BYTES
from freehold.text.tools.grammar import WHITESPACE, for_vocabulary


def require_bounded(constraint: Constraint) -> None:
    """Raise `InvalidRequest` for a text that is too large, or none."""
    try:
        size = len(constraint.text.encode())
    except UnicodeEncodeError:
        raise refused(constraint.grammar, "it has half a character in it") from None
    if size > MAX_CONSTRAINT_BYTES:
        raise refused(
            constraint.grammar, f"it has {size} bytes; at most {MAX_CONSTRAINT_BYTES} are accepted"
        )


def source_of(constraint: Constraint, control: Callable[[str], int | None]) -> str:
    """``control``: the control token that is spelled so, if there is one.

    What a JSON schema leaves open: properties come in the schema's order, keywords JSON
    Schema does not know are annotations, and between the parts of a document there may be
    one space, or one or two line breaks and an indentation. Unbounded whitespace, llguidance's
    default, is where small models get stuck.
    """
    text = constraint.text
    match constraint.grammar:
        case Grammar.JSON_SCHEMA:
            return _schema(text)
        case Grammar.REGEX:
            return LLMatcher.grammar_from_regex(text)
        case Grammar.LARK:
            # As it is, a text that begins with a brace would be taken for that form.
            lark = for_vocabulary(text, control)
            return json.dumps({"grammars": [{"lark_grammar": lark}]})


def _schema(text: str) -> str:
    try:
        schema = json.loads(text)
    except json.JSONDecodeError as error:
        reason = f"it is not JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        raise refused(Grammar.JSON_SCHEMA, reason) from None
    except RecursionError:
        raise refused(Grammar.JSON_SCHEMA, "it is nested too deeply") from None
    except ValueError as error:  # a number of 5,000 digits
        raise refused(Grammar.JSON_SCHEMA, str(error)) from None
    if schema is False:
        raise refused(Grammar.JSON_SCHEMA, "`false` allows no answer")
    if schema is True:
        text = "{}"
    elif not isinstance(schema, dict):
        raise refused(Grammar.JSON_SCHEMA, "it must be an object, `true` or `false`")
    elif "x-guidance" in schema:  # options that could switch checks off
        raise refused(Grammar.JSON_SCHEMA, 'Unimplemented keys: ["x-guidance"]')
    try:
        return LLMatcher.grammar_from_json_schema(
            text, overrides={"whitespace_pattern": WHITESPACE, "lenient": False}
        )
    except ValueError as error:
        raise refused(Grammar.JSON_SCHEMA, str(error)) from None
