"""Documents as YAML that every reader takes the same way.

Readers differ in what a bare word may mean (``no``, ``1e3``, ``1:30``), so only plain words stand
bare; all other text is quoted, and text of several lines is a block where YAML can hold it so.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import yaml

_WORD = re.compile(r"[A-Za-z/][A-Za-z0-9_./-]*")
_MEANT_OTHERWISE = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})


def documents(each: Iterable[Mapping[str, Any]]) -> str:
    """One after the other, with ``---`` between."""
    return "---\n".join(map(_document, each))


def _document(document: Mapping[str, Any]) -> str:
    text: str = yaml.dump(
        dict(document),
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        default_flow_style=False,
        width=1_000_000,
    )
    return text


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    bare = _WORD.fullmatch(text) is not None and text.lower() not in _MEANT_OTHERWISE
    style = None if bare else "|" if "\n" in text else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)
