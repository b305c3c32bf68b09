"""Models on their way here, as programs see them."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field

from freehold.api.bounds import ErrorValues
from freehold.api.openai.common import Request
from freehold.api.pulls import State


class NewPull(Request):
    """What is to be fetched while nobody waits for it."""

    model: Annotated[str, Field(min_length=1, max_length=1024)]


class PullUnderWay(BaseModel):
    """``model`` as it was asked for; bytes of the file that comes, ``total`` null: not known.
    ``stopping``: its client has left or somebody has stopped it, and it ends as soon as it notices.
    Only those in the ``background`` are told when they are over, until they are taken away; why one
    has failed is in ``error``, with its code and what it is about for programs.
    """

    model: str
    completed: int
    total: int | None
    stopping: bool
    background: bool
    state: State
    error: str | None
    error_code: str | None
    error_values: ErrorValues | None


class PullsUnderWay(BaseModel):
    pulls: list[PullUnderWay]
