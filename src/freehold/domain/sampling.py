"""How the next token is chosen."""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT_TEMPERATURE = 0.7
DEFAULT_TOP_P = 0.95
DEFAULT_TOP_K = 40

MAX_STOP_STRINGS = 8
MAX_STOP_CHARACTERS = 64


@dataclass(frozen=True)
class Sampling:
    """Sampling settings of one request.

    ``temperature`` 0 means greedy: the most likely token, ties to the lowest id.
    ``top_k`` 0 means the whole vocabulary. ``seed`` None means a fresh one for
    each request; the seed used is reported with the result. ``stop`` strings end
    the answer and are not part of it.
    """

    temperature: float = DEFAULT_TEMPERATURE
    top_p: float = DEFAULT_TOP_P
    top_k: int = DEFAULT_TOP_K
    seed: int | None = None
    stop: tuple[str, ...] = ()

    @property
    def greedy(self) -> bool:
        return self.temperature == 0.0 or self.top_k == 1
