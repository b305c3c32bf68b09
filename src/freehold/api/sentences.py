"""Sentences for people, as programs see them."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import BaseModel, Field

from freehold.domain import sentences
from freehold.domain.sentences import as_sentence


class Sentence(BaseModel):
    """``text`` is English. ``code`` says which sentence it is and does not change; ``values`` are
    what it speaks of, by name, other sentences among them. An empty code: the text is all there is.
    """

    text: str
    code: str = Field(examples=["plan.memory"])
    values: dict[str, str | int | float | Sentence | list[Sentence]]


def shown(text: str) -> Sentence:
    found = as_sentence(text)
    values = {name: _value(value) for name, value in found.values.items()}
    return Sentence(text=str(found), code=found.code, values=values)


def all_shown(texts: Iterable[str]) -> list[Sentence]:
    return [shown(text) for text in texts]


def _value(value: sentences.Value) -> str | int | float | Sentence | list[Sentence]:
    if isinstance(value, tuple):
        return all_shown(value)
    return shown(value) if isinstance(value, sentences.Sentence) else value
