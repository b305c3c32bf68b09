"""What a chat template looks for in the words of a conversation.

A template that compares what people say with words of its own, or with the date, can behave one
way in a trial and another in use, without running any code. Official templates look for
markup (``</think>``), for types of parts, and for hardly anything else.

This follows values by name through assignments, loops, macros and namespaces, without regard
to scope. It is evidence and no proof: a template can hide what it compares with.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from jinja2 import nodes

from freehold.trust.template_syntax import Finding, Kind, shown, walk

# Under these keys stands what somebody said.
_TEXT_KEYS: Final = frozenset(
    {"content", "text", "reasoning_content", "reasoning", "thinking", "thought", "input_text"}
)
# Under these stands nothing but the shape of a message.
_SHAPE_KEYS: Final = frozenset(
    {
        *("role", "type", "name", "id", "function", "tool_calls", "tool_call_id", "arguments"),
        *("parameters", "image", "image_url", "video", "audio", "index0", "index", "first", "last"),
    }
)
# Keys and kinds of parts: what a template asks when it wants to know what it has before it.
_SHAPE_WORDS: Final = frozenset(
    {
        *("text", "image", "image_url", "video", "video_url", "audio", "audio_url", "input_audio"),
        *("input_image", "input_text", "output_text", "tool_result", "tool_call", "tool_use"),
        *("file", "document", "thinking", "reasoning", "refusal", "type", "content", "role"),
        *("user", "assistant", "system", "tool", "developer", "function", "parts", "blocks"),
        *("data", "id", "value", "name", "description", "properties", "required", "nullable"),
    }
)
# With one of these a whole message becomes text.
_SPELLING: Final = frozenset({"tojson", "string", "join", "items", "dictsort"})
_SPELLING_METHODS: Final = frozenset({"items", "values"})
_ASKING: Final = frozenset(
    {
        *("startswith", "endswith", "find", "rfind", "index", "rindex", "count", "replace"),
        *("split", "rsplit", "partition", "rpartition", "removeprefix", "removesuffix"),
    }
)
_ASKING_FILTERS: Final = frozenset({"replace", "select", "reject", "selectattr", "rejectattr"})
_ASKING_TESTS: Final = frozenset({"in", "==", "eq", "equalto", "!=", "ne", "sameas"})
# Where a filter's arguments begin to be values rather than names of attributes and tests.
_FIRST_VALUE: Final = {"select": 1, "reject": 1, "selectattr": 2, "rejectattr": 2}

# <tag>, </tag, [TAG], &amp;, /switch
_TAG: Final = re.compile(
    r"<[^<>]{1,60}>|</?[^<>\s]{1,40}\Z|\A[^<>\s]{1,40}>|\[/?[A-Z_ ]{1,40}\]?|&[a-z]{1,8};"
    r"|\A/[a-z_]{1,20}\Z"
)
_LONGEST: Final = 20  # letters of the one word that may stand between tags

# Nodes looked at; official templates take some thousands.
_PATIENCE: Final = 400_000


class _TooIntricate(Exception):
    """The template is made to be followed for hours."""


def sought(tree: nodes.Template) -> tuple[Finding, ...]:
    """Each string that the template looks for in messages, and each comparison with the date."""
    try:
        flow = _Flow(tree)
        found = dict.fromkeys(each for node in walk(tree) for each in flow.findings(node))
    except _TooIntricate:
        return (Finding(Kind.WORDS, 1, "it is too intricate to be followed"),)
    return tuple(found)


@dataclass
class _Sources:
    """What an expression is made of. ``text``: certainly of what somebody said."""

    text: bool = False
    names: set[str] = field(default_factory=set)


class _Flow:
    """Which names stand for messages, for their text, and for which strings of the template."""

    def __init__(self, tree: nodes.Template) -> None:
        self._patience = _PATIENCE
        self._namespaces: set[str] = set()
        pairs = list(self._assignments(tree))
        self._messages = _reached({"messages"}, [(name, self._names(of)) for name, of in pairs])
        sources = [(name, self._sources(of)) for name, of in pairs]
        self._texts = _reached(
            {name for name, made in sources if made.text},
            [(name, made.names) for name, made in sources],
        )
        self._strings: defaultdict[str, set[str]] = defaultdict(set)
        for name, of in pairs:
            self._strings[name].update(self._literals(of))

    def findings(self, node: nodes.Node) -> Iterator[Finding]:
        match node:
            case nodes.Compare():
                sides = [node.expr, *(operand.expr for operand in node.ops)]
                if any(self._is_date(side) for side in sides):
                    yield Finding(Kind.DATE, node.lineno, "it behaves according to the date")
                yield from self._compared(node.lineno, sides)
            case nodes.Test(name=name) if name in _ASKING_TESTS:
                yield from self._compared(node.lineno, [node.node, *node.args])
            case nodes.Call(node=nodes.Getattr(node=text, attr=name)) if name in _ASKING:
                if self._is_text(text):
                    yield from self._reported(node.lineno, node.args)
            case nodes.Filter(name=name, node=nodes.Expr() as text) if name in _ASKING_FILTERS:
                if _key(node.args) in _TEXT_KEYS or self._is_text(text):
                    values = node.args[_FIRST_VALUE.get(name, 0) :]
                    yield from self._reported(node.lineno, values)

    def _compared(self, line: int, sides: list[nodes.Expr]) -> Iterator[Finding]:
        if any(self._is_text(side) for side in sides):
            yield from self._reported(line, sides)

    def _reported(self, line: int, values: Iterable[nodes.Expr]) -> Iterator[Finding]:
        strings: set[str] = set()
        for value in values:
            strings.update(self._literals(value))
            for name in self._names(value):
                known = self._strings.get(name, set())
                self._spend(len(known))
                strings |= known
        for text in sorted(strings):
            if any(map(str.isalpha, text)):
                kind = Kind.MARKUP if _is_markup(text) else Kind.WORDS
                yield Finding(kind, line, f'it looks for "{shown(text)}" in messages')

    def _is_text(self, expression: nodes.Node) -> bool:
        made = self._sources(expression)
        return made.text or not made.names.isdisjoint(self._texts)

    def _assignments(self, tree: nodes.Template) -> Iterator[tuple[str, nodes.Node]]:
        """Every name that gets a value, with what it is made of."""
        macros = {node.name: node for node in walk(tree) if isinstance(node, nodes.Macro)}
        for node in walk(tree):
            match node:
                case nodes.Assign(target=target, node=value):
                    yield from ((name, value) for name in _targets(target))
                    yield from self._namespace(target, value)
                case nodes.AssignBlock(target=target):
                    yield from ((name, node) for name in _targets(target))
                case nodes.For(target=target, iter=value):
                    yield from ((name, value) for name in _targets(target))
                case nodes.With(targets=targets, values=values):
                    for target, value in zip(targets, values, strict=False):
                        yield from ((name, value) for name in _targets(target))
                case nodes.Call(node=nodes.Name(name=name)) if name in macros:
                    yield from _arguments(macros[name], node)

    def _namespace(self, target: nodes.Node, value: nodes.Node) -> Iterator[tuple[str, nodes.Node]]:
        match target, value:
            case nodes.Name(name=name), nodes.Call(node=nodes.Name(name="namespace"), kwargs=given):
                self._namespaces.add(name)
                yield from ((f"{name}.{keyword.key}", keyword.value) for keyword in given)

    def _sources(self, root: nodes.Node) -> _Sources:
        made = _Sources()
        waiting: list[nodes.Node] = [root]
        while waiting:
            node = waiting.pop()
            self._spend(1)
            match node:
                case nodes.Name(name=name):
                    made.names.add(name)
                case nodes.Call(node=nodes.Getattr() as method):
                    made.text |= method.attr in _SPELLING_METHODS and self._is_message(method.node)
                    made.text |= method.attr == "get" and _key(node.args) in _TEXT_KEYS
                    if method.attr != "get" or _key(node.args) is None:
                        waiting += [method.node, *node.args]
                case nodes.Getattr() | nodes.Getitem():
                    waiting += self._looked_up(node, made)
                case nodes.Filter(name=name, node=over):
                    spelt = name in _SPELLING and over is not None and self._is_message(over)
                    mapped = any(
                        isinstance(k.value, nodes.Const) and k.value.value in _TEXT_KEYS
                        for k in node.kwargs
                    )
                    made.text |= spelt or mapped
                    waiting += node.iter_child_nodes()
                case nodes.Test() | nodes.Compare() | nodes.Not():
                    pass  # true or false: what it asks is reported where it asks
                case nodes.CondExpr():
                    waiting += [part for part in (node.expr1, node.expr2) if part is not None]
                case _:
                    waiting += node.iter_child_nodes()
        return made

    def _looked_up(self, node: nodes.Getattr | nodes.Getitem, made: _Sources) -> list[nodes.Node]:
        """What a look-up leaves to be followed."""
        key = node.attr if isinstance(node, nodes.Getattr) else _key([node.arg])
        if key in _TEXT_KEYS:
            made.text = True
            return []
        if isinstance(node.node, nodes.Name) and node.node.name in self._namespaces and key:
            made.names.add(f"{node.node.name}.{key}")
            return []
        if key in _SHAPE_KEYS:
            return []
        if key is None and isinstance(node, nodes.Getitem) and _is_a_name(node.arg):
            made.text |= self._is_message(node.node)  # message[key], whatever the key
        return [node.node]

    def _names(self, value: nodes.Node) -> set[str]:
        found = set()
        for node in self._walk(value):
            match node:
                case nodes.Name(name=name):
                    found.add(name)
                case nodes.Getattr(node=nodes.Name(name=name), attr=attribute):
                    found.add(f"{name}.{attribute}")
        return found

    def _literals(self, value: nodes.Node) -> Iterator[str]:
        """The strings in an expression, but for keys."""
        keys: set[int] = set()
        for node in self._walk(value):
            match node:
                case nodes.Getitem(arg=key):
                    keys.add(id(key))
                case nodes.Call(node=nodes.Getattr(attr="get"), args=[key, *_]):
                    keys.add(id(key))
                case nodes.Const(value=str() as text) if id(node) not in keys:
                    yield text

    def _is_date(self, value: nodes.Node) -> bool:
        return "strftime_now" in self._names(value)

    def _walk(self, root: nodes.Node) -> Iterator[nodes.Node]:
        for node in walk(root):
            self._spend(1)
            yield node

    def _spend(self, steps: int) -> None:
        self._patience -= steps
        if self._patience < 0:
            raise _TooIntricate

    def _is_message(self, node: nodes.Node) -> bool:
        """One message or several, whole."""
        while isinstance(node, nodes.Getitem) and _key([node.arg]) is None:
            node = node.node
        return isinstance(node, nodes.Name) and node.name in self._messages


def _reached(begin: set[str], edges: list[tuple[str, set[str]]]) -> set[str]:
    """The names that depend on one of ``begin``."""
    uses: defaultdict[str, list[str]] = defaultdict(list)
    for name, made_of in edges:
        for each in made_of:
            uses[each].append(name)
    reached, waiting = set(begin), list(begin)
    while waiting:
        for name in uses[waiting.pop()]:
            if name not in reached:
                reached.add(name)
                waiting.append(name)
    return reached


def _arguments(macro: nodes.Macro, call: nodes.Call) -> Iterator[tuple[str, nodes.Node]]:
    parameters = [parameter.name for parameter in macro.args]
    yield from zip(parameters, call.args, strict=False)
    yield from ((keyword.key, keyword.value) for keyword in call.kwargs)


def _targets(target: nodes.Node) -> list[str]:
    found = []
    for node in walk(target):
        if isinstance(node, nodes.Name):
            found.append(node.name)
        elif isinstance(node, nodes.NSRef):
            found.append(f"{node.name}.{node.attr}")
    return found


def _key(given: list[nodes.Expr]) -> str | None:
    """The text of a key, where the first of ``given`` is one."""
    first = given[0] if given else None
    return first.value if isinstance(first, nodes.Const) and isinstance(first.value, str) else None


def _is_a_name(node: nodes.Node) -> bool:
    return isinstance(node, nodes.Name | nodes.Filter | nodes.Concat | nodes.Add)


def _is_markup(text: str) -> bool:
    """Control markup, or a word about shape: what templates look for to do their work."""
    bare, tags = _TAG.subn(" ", text)
    left = re.findall(r"\w*[^\W\d_]\w*", bare)
    if not left:
        return True
    return len(left) == 1 and (left[0] in _SHAPE_WORDS if not tags else len(left[0]) <= _LONGEST)
