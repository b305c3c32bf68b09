"""How the next token is chosen."""

from __future__ import annotations

import enum
from dataclasses import dataclass

DEFAULT_TEMPERATURE = 0.7
DEFAULT_TOP_P = 0.95
DEFAULT_TOP_K = 40

MAX_STOP_STRINGS = 8
MAX_STOP_CHARACTERS = 64


@dataclass(frozen=True)
class Dry:
    """Do not repeat yourself: a penalty on tokens that would go on repeating what was said.

    A token that would extend a repetition of ``n`` tokens loses
    ``multiplier * base ** (n - allowed_length)`` from its logit, for ``n`` of at least
    ``allowed_length``. A token whose text contains one of ``breakers`` ends every
    repetition. Source: https://github.com/oobabooga/text-generation-webui/pull/5677.
    """

    multiplier: float
    base: float = 1.75
    allowed_length: int = 2
    breakers: tuple[str, ...] = ("\n", ":", '"', "*")


@dataclass(frozen=True)
class Sampling:
    """Sampling settings of one request.

    ``temperature`` 0 means greedy: the most likely token, ties to the lowest id.
    ``top_k`` 0 means the whole vocabulary; ``min_p`` drops tokens less likely than that
    share of the likeliest; ``typical_p`` 1 switches typical sampling off.

    ``repetition_penalty`` divides the positive and multiplies the negative logits of every
    token of prompt and answer (CTRL, arXiv 1909.05858; 1 is none). ``presence_penalty`` is
    taken off once, ``frequency_penalty`` per occurrence, from the logits of tokens of the
    answer (as OpenAI defines them). ``penalty_window`` limits all three, and DRY, to that many
    of the latest tokens; None means all. ``logit_bias`` pairs are added to logits first.

    ``seed`` None means a fresh one for each request; the seed used is reported with the
    result. ``stop`` strings end the answer and are not part of it. ``ignore_end`` never
    chooses a token that ends the turn.
    """

    temperature: float = DEFAULT_TEMPERATURE
    top_p: float = DEFAULT_TOP_P
    top_k: int = DEFAULT_TOP_K
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    penalty_window: int | None = None
    dry: Dry | None = None
    logit_bias: tuple[tuple[int, float], ...] = ()
    seed: int | None = None
    stop: tuple[str, ...] = ()
    ignore_end: bool = False

    @property
    def greedy(self) -> bool:
        return self.temperature == 0.0 or self.top_k == 1


class Grammar(enum.StrEnum):
    """How a constraint is written."""

    JSON_SCHEMA = "json_schema"
    REGEX = "regex"
    LARK = "lark"


@dataclass(frozen=True)
class Constraint:
    """What the answer must look like: ``text`` is a schema, expression or grammar.

    ``after`` None: from the first token. Otherwise the model writes freely until it has
    written ``after`` (the end of its reasoning), and is constrained from there on; with ``begin``
    only if it has begun with that, and else from the first token.
    """

    grammar: Grammar
    text: str
    after: str | None = None
    begin: str | None = None
