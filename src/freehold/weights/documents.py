"""The small texts of a hub repository that say what its weights are: its card and its licences."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

CARD = "README.md"
# Where a repository has its chat template: by itself, or within the tokenizer's configuration.
TEMPLATE, TOKENIZER = "chat_template.jinja", "tokenizer_config.json"
# At the top of the repository: LICENSE, LICENCE.txt, COPYING, NOTICE, USE_POLICY.md …
_LICENCE = re.compile(
    r"(?:licen[cs]e|copying|notice|use[-_ ]policy)[A-Za-z0-9._ -]{0,80}", re.IGNORECASE | re.ASCII
)


@dataclass(frozen=True)
class Documents:
    """``texts`` by name, as bytes: card, licences, template. ``card`` is the front matter as the
    hub has read it, for repositories whose files are given only to some. ``missing`` says
    which texts are there and could not be had, and why.
    """

    repository: str
    commit: str
    texts: Mapping[str, bytes]
    card: Mapping[str, object] | None
    missing: tuple[str, ...] = ()


def is_licence_text(name: str) -> bool:
    return _LICENCE.fullmatch(name) is not None
