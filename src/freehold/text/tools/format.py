"""What a family of models has to say about tool calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from freehold.domain.chat import Tool, ToolChoice
from freehold.text.answer import AnswerParser


class ToolFormat(Protocol):
    """How one family writes tool calls, and how its templates want to see them.

    ``shown`` are spellings of control tokens that its calls are written with. ``takes_text``: the
    template wants the arguments of earlier calls as JSON text, not as an object.
    """

    @property
    def name(self) -> str: ...
    @property
    def shown(self) -> tuple[str, ...]: ...
    @property
    def takes_text(self) -> bool: ...

    def call_id(self, identity: str) -> str:
        """An id as the template accepts it, the same for the same ``identity``."""
        ...

    def parser(self, tools: Sequence[Tool]) -> AnswerParser:
        """For what follows reasoning. Only calls of ``tools`` are calls."""
        ...

    def grammar(self, tools: Sequence[Tool], choice: ToolChoice) -> str:
        """A Lark grammar, in llguidance's notation, of an answer that is nothing but calls.

        ``choice`` says which and how many; arguments are as the tools' schemas want them.
        """
        ...
