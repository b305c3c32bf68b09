"""What a chat template may be made of, decided on its syntax tree before anything of it runs.

Jinja's sandbox and the text child's limits hold whatever a template does. This check comes
before them: it says what no chat template needs, with the line, and costs no rendering.
The same rules hold when a model arrives and in the text child.
"""

from __future__ import annotations

import enum
import functools
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import jinja2
import jinja2.ext
import jinja2.parser
from jinja2 import nodes

from freehold.domain.errors import TemplateFailed

MAX_CHARACTERS: Final = 64 * 1024
"""Official templates have up to 17,000."""

_SHOWN: Final = 60  # characters of a template's own words in a message

_LARGEST_NUMBER: Final = 1_000_000
_WIDEST: Final = 4_096  # columns of padding, repetitions of a text

_NODES: Final = frozenset(
    {
        *("Template", "Scope", "Output", "TemplateData", "If", "For", "Break", "Continue"),
        *("Assign", "AssignBlock", "NSRef", "With", "Macro", "CallBlock", "FilterBlock"),
        *("Name", "Const", "Tuple", "List", "Dict", "Pair", "Keyword", "Slice"),
        *("Getattr", "Getitem", "Call", "Filter", "Test", "CondExpr", "Concat"),
        *("Compare", "Operand", "And", "Or", "Not", "Neg", "Pos"),
        *("Add", "Sub", "Mul", "Div", "FloorDiv", "Mod"),
    }
)
_NODE_NAMES: Final[Mapping[str, str]] = {
    "Pow": "the power operator **",
    "Include": "the tag include",
    "Import": "the tag import",
    "FromImport": "the tag from",
    "Extends": "the tag extends",
    "Block": "the tag block",
    "ScopedEvalContextModifier": "the tag autoescape",
}

# Jinja's own filters but for those that look up attributes, pad, or make HTML of text.
_FILTERS: Final = frozenset(
    {
        *("abs", "batch", "capitalize", "center", "count", "d", "default", "dictsort", "e"),
        *("escape", "first", "float", "format", "from_json", "groupby", "indent", "int", "items"),
        *("join", "last", "length", "list", "lower", "map", "max", "min", "reject", "rejectattr"),
        *("replace", "reverse", "round", "safe", "select", "selectattr", "slice", "sort"),
        *("string", "sum", "title", "tojson", "trim", "truncate", "unique", "upper", "urlencode"),
        *("wordcount", "wordwrap"),
    }
)
_TESTS: Final = frozenset(
    {
        *("boolean", "defined", "divisibleby", "even", "false", "float", "in", "integer"),
        *("iterable", "lower", "mapping", "none", "number", "odd", "sameas", "sequence"),
        *("string", "true", "undefined", "upper", "callable"),
        *("==", "eq", "equalto", "!=", "ne", ">", "gt", "greaterthan", ">=", "ge"),
        *("<", "lt", "lessthan", "<=", "le"),
    }
)
# They make a text as long as a number says.
_PADDING: Final = frozenset(
    {"center", "indent", "wordwrap", "ljust", "rjust", "zfill", "expandtabs", "truncate"}
)
_UNDERSCORED: Final = re.compile(r"(?:^|\.)__\w")
# '%9000d', '{:>9000}', '{0.__class__}'
_FORMATTING: Final = re.compile(
    r"%(?:\([^)]{0,99}\))?[-+ #0]{0,9}(?:[0-9]{5}|\*)|%[^%\s]{0,9}\.[0-9]{5}"
    r"|\{[^{}]{0,99}[0-9]{5}[^{}]{0,99}\}|\{[^{}]{0,99}__"
)


class Kind(enum.StrEnum):
    """What a finding is about."""

    INVALID = "invalid"
    CONSTRUCT = "construct"
    WORDS = "words sought in messages"
    MARKUP = "markup sought in messages"
    DATE = "date"
    TEXT = "text of its own"
    ADDRESS = "address"
    ENCODED = "encoded data"
    INVISIBLE = "invisible characters"


@dataclass(frozen=True)
class Finding:
    """One place in a template; ``what`` completes "line 3: ..."."""

    kind: Kind
    line: int
    what: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.what}"


class GenerationTag(jinja2.ext.Extension):
    """``{% generation %}`` marks the assistant's text for training; here it means nothing."""

    tags = {"generation"}  # noqa: RUF012 - Jinja's own declaration

    def parse(self, parser: jinja2.parser.Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


EXTENSIONS: Final = ("jinja2.ext.loopcontrols", GenerationTag)


@functools.cache
def _grammar() -> jinja2.Environment:
    # Never renders: nothing is ever compiled from its trees.
    return jinja2.Environment(  # noqa: S701 - prompts are not HTML
        trim_blocks=True, lstrip_blocks=True, extensions=EXTENSIONS
    )


def parsed(source: str, parse: Callable[[str], nodes.Template] | None = None) -> nodes.Template:
    """The syntax tree, made by ``parse`` or else by a grammar that can do nothing else.

    Raises `TemplateFailed` for a source that is too long, not valid, or too deep.
    """
    if len(source) > MAX_CHARACTERS:
        raise TemplateFailed(
            f"The model's chat template has {len(source)} characters; at most "
            f"{MAX_CHARACTERS} are accepted."
        )
    try:
        return (parse or _grammar().parse)(source)
    except jinja2.TemplateSyntaxError as error:
        raise TemplateFailed(
            f"The model's chat template is not valid: {error.message} (line {error.lineno})."
        ) from error
    except RecursionError as error:
        raise TemplateFailed("The model's chat template is nested too deeply.") from error
    except (ValueError, OverflowError) as error:  # a number of 5,000 digits, say
        raise TemplateFailed(f"The model's chat template is not valid: {error}.") from error


def walk(root: nodes.Node) -> Iterator[nodes.Node]:
    """The node and everything below it, in the order of the source.

    Jinja's own `find_all` recurses, and ``1+1+1+...`` is as deep as it is long.
    """
    waiting = [root]
    while waiting:
        node = waiting.pop()
        yield node
        waiting.extend(reversed(list(node.iter_child_nodes())))


def refusals(tree: nodes.Template) -> tuple[Finding, ...]:
    """What no chat template needs and some attacks do; at most one finding a node."""
    return tuple(
        Finding(Kind.CONSTRUCT, node.lineno or 1, problem)
        for node in walk(tree)
        if (problem := _objection(node)) is not None
    )


def _objection(node: nodes.Node) -> str | None:
    name = type(node).__name__
    found: str | None = None
    if name not in _NODES:
        found = f"it uses {_NODE_NAMES.get(name, name)}"
    match node:
        case nodes.Const(value=value):
            found = _about_constant(value)
        case nodes.Getattr(attr=called) if called.startswith("_"):
            found = f"it reaches for the attribute {shown(called)}"
        case nodes.Filter(name=called) if called not in _FILTERS:
            found = f"it uses the filter {shown(called)}"
        case nodes.Test(name=called) if called not in _TESTS:
            found = f"it uses the test {shown(called)}"
        case nodes.Filter(name=called) | nodes.Call(node=nodes.Getattr(attr=called)):
            found = _about_padding(called, node)
        case nodes.Mul():
            found = _about_repetition(node)
    return found


def _about_constant(value: object) -> str | None:
    if isinstance(value, str):
        if _UNDERSCORED.search(value):
            return f"it names the attribute {shown(value)}"
        if _FORMATTING.search(value):
            return f"it formats with {shown(value)}"
    elif isinstance(value, int | float) and not abs(value) <= _LARGEST_NUMBER:  # not a NaN either
        return f"it holds a number above {_LARGEST_NUMBER:,}"
    return None


def _about_padding(called: str, node: nodes.Filter | nodes.Call) -> str | None:
    if called not in _PADDING:
        return None
    given = (*node.args, *(keyword.value for keyword in node.kwargs))
    return f"it pads with {called} beyond {_WIDEST:,}" if any(map(_is_wide, given)) else None


def _about_repetition(node: nodes.Mul) -> str | None:
    for sequence, count in ((node.left, node.right), (node.right, node.left)):
        of_text = isinstance(sequence, nodes.Const) and isinstance(sequence.value, str)
        if (of_text or isinstance(sequence, nodes.List | nodes.Tuple)) and _is_wide(count):
            return f"it repeats something more than {_WIDEST:,} times"
    return None


def _is_wide(node: nodes.Node) -> bool:
    value: Any = node.value if isinstance(node, nodes.Const) else 0
    return isinstance(value, int | float) and not abs(value) <= _WIDEST


def shown(text: str) -> str:
    """A template's own words for a message: printable, and not many."""
    plain = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text[: _SHOWN + 1])
    return plain if len(plain) <= _SHOWN else f"{plain[: _SHOWN - 3]}..."
