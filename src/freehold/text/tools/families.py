"""Which family a chat template belongs to."""

from __future__ import annotations

from freehold.text.tools.format import ToolFormat


def format_of(template: str) -> ToolFormat | None:
    """How a model with this template writes tool calls; None if it does not know of tools."""
    return None
