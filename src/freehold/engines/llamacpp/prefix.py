"""Which slot holds which tokens, and which a new prompt should take over. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class Slot:
    """One stream of the cache: resident ``tokens`` of one ``scope``; ``last_used`` orders LRU."""

    index: int
    tokens: list[int] = field(default_factory=list)
    scope: str = ""
    busy: bool = False
    last_used: int = 0


def common_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    """How many tokens both begin with."""
    for position, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return position
    return min(len(left), len(right))


# Tokens at the end of a prompt that are computed anew although they are cached. One must be,
# to get logits; with fewer than eight llama.cpp's CPU backend takes other kernels, whose rounding
# differs: the answer to a repeated prompt would not be the answer to a fresh one.
RECOMPUTED = 8


def reusable(slot: Slot, prompt: Sequence[int], scope: str) -> int:
    """Tokens of ``prompt`` the slot holds and need not be computed again."""
    if slot.scope != scope:
        return 0
    return max(0, min(common_prefix(slot.tokens, prompt), len(prompt) - RECOMPUTED))


def choose(slots: Sequence[Slot], prompt: Sequence[int], scope: str) -> Slot | None:
    """The free slot that saves most work; among equals the least recently used."""
    free = [slot for slot in slots if not slot.busy]
    if not free:
        return None
    return max(free, key=lambda slot: (reusable(slot, prompt, scope), -slot.last_used))
