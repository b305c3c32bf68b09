"""What can be said of a chat template without running it.

A template comes with the weights and writes the prompt. `audit` says whether it is an official one,
what in it may not be (``refused``: the text child will not run it either), and what a person
should see (``reported``): most of the latter stands in official templates too, so it counts
only where the template is not one of them.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from jinja2 import nodes

from freehold.domain.errors import TemplateFailed
from freehold.trust.template_content import sought
from freehold.trust.template_known import Known, PublishedTemplate, family_of, known, sha256_of
from freehold.trust.template_syntax import Finding, Kind, parsed, refusals, shown, walk

MAX_FINDINGS: Final = 100
MAX_DIFFERENCE_LINES: Final = 200
_MAX_COMPARED: Final = 800  # lines of each; matching them takes time by the square

_WORDS_OF_A_TEXT: Final = 4
_WORD: Final = re.compile(r"[^\W\d_]{2,}")
_ADDRESS: Final = re.compile(r"\b(?:https?|ftp|file|data|javascript):[^\s'\"<>]{3,}", re.IGNORECASE)
_ENCODED: Final = re.compile(r"[A-Za-z0-9+/_=-]{48,}")
_HEX: Final = re.compile(r"(?:[0-9a-fA-F]{2}){24,}")
_OUR_FUNCTIONS: Final = frozenset({"raise_exception", "strftime_now"})
_TAG: Final = re.compile(r"[^\n]*?[%}]\}\n?|[^\n]*\n|[^\n]+")


@dataclass(frozen=True)
class TemplateAudit:
    """``official`` is None for a template no publisher of ours has.

    ``expected`` are the official templates of the family the model says it is of.
    """

    sha256: str
    characters: int
    official: Known | None
    family: str | None
    expected: tuple[PublishedTemplate, ...]
    refused: tuple[Finding, ...]
    reported: tuple[Finding, ...]

    @property
    def differs(self) -> bool:
        """From what its family publishes. False also where no template of the family is known."""
        if self.official is not None:
            return self.family is not None and self.family not in self.official.families
        return bool(self.expected)

    @property
    def suspicious(self) -> tuple[Finding, ...]:
        """What to warn of: nothing in an official template."""
        if self.official is not None:
            return self.refused
        return (*self.refused, *filter(_is_warning, self.reported))


def _is_warning(finding: Finding) -> bool:
    return finding.kind not in (Kind.MARKUP, Kind.TEXT)


def audit(template: str, names: Iterable[str] = ()) -> TemplateAudit:
    """Look at a template that a model called ``names`` (its name, its base models) came with.

    Never raises: a template that cannot be read is a finding.
    """
    family = family_of(names)
    refused: tuple[Finding, ...] = ()
    reported: tuple[Finding, ...] = ()
    try:
        tree = parsed(template)
    except TemplateFailed as error:
        refused = (Finding(Kind.INVALID, 1, error.message),)
    else:
        refused = refusals(tree)
        reported = _cut((*sought(tree), *_texts(tree)))
    return TemplateAudit(
        sha256=sha256_of(template),
        characters=len(template),
        official=known(template),
        family=family.name if family is not None else None,
        expected=family.template if family is not None else (),
        refused=refused[:MAX_FINDINGS],
        reported=reported,
    )


def _cut(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """In the order of the lines, so many that warnings are not crowded out."""
    warnings_first = sorted(findings, key=lambda each: (not _is_warning(each), each.line))
    return tuple(sorted(warnings_first[:MAX_FINDINGS], key=lambda each: each.line))


def difference(template: str, other: str) -> str:
    """What ``template`` has other than ``other``, as a unified diff of bounded size.

    Templates that are one long line are cut after each tag. Characters that a terminal would
    obey are spelt out. Empty when they are the same.
    """
    lines = list(
        difflib.unified_diff(
            _lines(other), _lines(template), "the other template", "this template", lineterm="", n=1
        )
    )
    left = len(lines) - MAX_DIFFERENCE_LINES
    if left > 0:
        lines[MAX_DIFFERENCE_LINES:] = [f"... and {left} lines more"]
    return "\n".join(lines)


def _lines(template: str) -> list[str]:
    found = [_printable(match[0]) for match in _TAG.finditer(template)]
    if len(found) > _MAX_COMPARED:
        found[_MAX_COMPARED:] = [f"... and {len(found) - _MAX_COMPARED} more, not compared"]
    return found


def _printable(line: str) -> str:
    cut = line.rstrip("\n")[:500]
    return "".join(c if c.isprintable() or c == "\t" else repr(c)[1:-1] for c in cut)


def _texts(tree: nodes.Template) -> Iterator[Finding]:
    """About the strings of the template itself."""
    complaints = set(_complaints(tree))
    for node in walk(tree):
        match node:
            case nodes.TemplateData(data=text):
                pass
            case nodes.Const(value=str() as text):
                if id(node) in complaints:
                    continue
            case _:
                continue
        yield from _about(node.lineno, text)


def _complaints(tree: nodes.Template) -> Iterator[int]:
    """The constants that go into an exception or a date, and so never reach the model."""
    for node in walk(tree):
        match node:
            case nodes.Call(node=nodes.Name(name=name)) if name in _OUR_FUNCTIONS:
                yield from (id(each) for each in walk(node))


def _about(line: int, text: str) -> Iterator[Finding]:
    for address in _ADDRESS.findall(text)[:3]:
        yield Finding(Kind.ADDRESS, line, f"it holds the address {shown(address)}")
    for run in _ENCODED.findall(text)[:3]:
        if _looks_encoded(run):
            yield Finding(Kind.ENCODED, line, f"it holds what may be encoded: {shown(run)}")
    hidden = sorted({f"U+{ord(c):04X}" for c in text if _is_hidden(c)})
    if hidden:
        what = f"it holds characters nobody sees: {', '.join(hidden[:5])}"
        yield Finding(Kind.INVISIBLE, line, what)
    if len(_WORD.findall(text)) >= _WORDS_OF_A_TEXT:
        yield Finding(Kind.TEXT, line, f'it tells the model "{shown(text.strip())}"')


def _looks_encoded(run: str) -> bool:
    if _HEX.fullmatch(run):
        return True
    return all(any(map(kind, run)) for kind in (str.isupper, str.islower, str.isdigit))


def _is_hidden(character: str) -> bool:
    return unicodedata.category(character) in ("Cf", "Co", "Cn")
