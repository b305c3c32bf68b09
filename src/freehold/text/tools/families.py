"""Which family a chat template belongs to. A further family is a module of its own, named here."""

from __future__ import annotations

import re

from freehold.text.tools import deepseek, harmony, hermes, llama3, mistral
from freehold.text.tools.format import ToolFormat

_FAMILIES = (
    harmony.of_template,
    deepseek.of_template,
    mistral.of_template,
    llama3.of_template,
    hermes.of_template,
)
# The variable where templates use it, not the word in a prompt.
_TOOLS = re.compile(r"\b(?:if|in|and|or|not)\s+\(?tools\b|\btools\s*\||\{\{-?\s*tools\b")


def format_of(template: str) -> ToolFormat | None:
    """How a model with this template writes tool calls; None if it does not know of tools."""
    if not _TOOLS.search(template):
        return None
    found = (of_template(template) for of_template in _FAMILIES)
    return next((form for form in found if form is not None), None)
