"""A constrained answer after reasoning, in two requests to vLLM. Pure.

    FREE ──the reasoning's end was said──▶ BOUND, behind what was said
      │
      └──it does not begin with reasoning──▶ BOUND, from the beginning

A grammar from the first token would keep a model from reasoning, or make it reason in JSON.
"""

from __future__ import annotations

import enum
from dataclasses import replace

from freehold.domain.chat import GenerateRequest
from freehold.domain.sampling import Constraint


class Next(enum.Enum):
    """What follows from what was said."""

    GO_ON = "go_on"
    HOLD = "hold"  # it is not known yet whether this is reasoning: show nothing
    BIND = "bind"  # begin the second request, behind this token
    RESTART = "restart"  # begin it with nothing said


class Course:
    """One answer's course. ``request`` is what to ask now, ``constraint`` what to ask it with;
    ``free``: without any, although there is one.
    """

    def __init__(self, request: GenerateRequest) -> None:
        self._asked = request
        self.free = request.constraint is not None and request.constraint.after is not None
        self._said = bytearray()
        self._tokens: list[int] = []
        self.request = request

    @property
    def constraint(self) -> Constraint | None:
        """Of the request of now."""
        constraint = self._asked.constraint
        if self.free or constraint is None:
            return None
        return replace(constraint, after=None, begin=None)

    @property
    def first(self) -> bool:
        """Whether this is the first request, whose prompt is the one that was asked."""
        return self.request is self._asked

    @property
    def deciding(self) -> bool:
        """Whether it is not known yet if the answer begins with reasoning."""
        begin = self._begin
        return self.free and begin is not None and len(self._said) < len(begin)

    @property
    def _begin(self) -> bytes | None:
        constraint = self._asked.constraint
        return None if constraint is None or constraint.begin is None else constraint.begin.encode()

    def hear(self, token: int, piece: bytes) -> Next:
        """One more token of the free part was said."""
        self._tokens.append(token)
        assert self._asked.constraint is not None
        assert self._asked.constraint.after is not None
        self._said += piece
        begin = self._begin
        if begin is not None:
            length = min(len(begin), len(self._said))
            if self._said[:length] != begin[:length]:
                return Next.RESTART
            if length < len(begin):
                return Next.HOLD
        return Next.BIND if self._asked.constraint.after.encode() in self._said else Next.GO_ON

    def bind(self) -> None:
        """Go on behind what was said, constrained."""
        self.free = False
        self.request = replace(
            self._asked,
            request_id=f"{self._asked.request_id}-bound",
            prompt=(*self._asked.prompt, *self._tokens),
            max_tokens=self._asked.max_tokens - len(self._tokens),
            deadline=None,  # the answer has begun
        )

    def restart(self) -> None:
        """From the beginning, constrained: what was said counts for nothing."""
        self.free = False
        self._tokens.clear()
        self.request = replace(self._asked, request_id=f"{self._asked.request_id}-bound")
