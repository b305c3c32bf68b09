"""What the clients ask: seeded texts of an exact number of tokens.

Pure, given a vocabulary. The same seed gives every server the same texts; another
seed shares nothing with them, so no cache helps but as a workload itself intends.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from freehold.lab.bench.texts import WORDS

ANSWER = 48
CONTEXT = 4608


class Tokens(Protocol):
    """The part of a vocabulary that cutting texts to length needs."""

    def tokenize(self, text: str, *, special: bool) -> list[int]: ...

    def piece(self, token: int) -> bytes: ...


@dataclass(frozen=True)
class Conversation:
    """Turns of one user; each sees what was said before, the answers included."""

    turns: tuple[str, ...]
    system: str | None = None
    answer: int = ANSWER


@dataclass(frozen=True)
class Load:
    """A closed loop: each of ``clients`` takes the next conversation when its last has ended.

    ``arrival`` is sent once while all of them are being answered.
    """

    clients: int
    conversations: tuple[Conversation, ...]
    arrival: Conversation | None = None


# Makes a load from a vocabulary, dice and a scale; see `build`.
Builder = Callable[[Tokens, random.Random, float], Load]


def text_of(count: int, tokens: Tokens, chance: random.Random) -> str:
    """Sentences of common words, ``count`` tokens long on their own."""
    for _ in range(1000):
        ids = tokens.tokenize(_sentences(count, chance), special=False)[:count]
        text = b"".join(map(tokens.piece, ids)).decode("utf-8", "replace")
        if len(tokens.tokenize(text, special=False)) == count:
            return text
    raise ValueError(f"no text of {count} tokens was found")


def _sentences(words: int, chance: random.Random) -> str:
    sentences = []
    while words > 0:
        length = chance.randint(6, 14)
        words -= length
        sentences.append(" ".join(chance.choices(WORDS, k=length)).capitalize() + ".")
    return " ".join(sentences)


def unique(clients: int, requests: int) -> Builder:
    """Prompts of 256 tokens that share nothing but the template."""

    def build(tokens: Tokens, chance: random.Random, scale: float) -> Load:
        count = max(clients, round(requests * scale))
        made = tuple(Conversation((text_of(256, tokens, chance),)) for _ in range(count))
        return Load(clients, made)

    return build


def sharing(clients: int, requests: int, system: int, own: int) -> Builder:
    """Prompts of ``own`` tokens after the same system prompt, which nobody has read before."""

    def build(tokens: Tokens, chance: random.Random, scale: float) -> Load:
        same = text_of(system, tokens, chance)
        count = max(clients, round(requests * scale))
        made = (Conversation((text_of(own, tokens, chance),), same) for _ in range(count))
        return Load(clients, tuple(made))

    return build


def _chat(tokens: Tokens, chance: random.Random, scale: float) -> Load:
    turns = max(2, round(4 * scale))
    return Load(
        8,
        tuple(
            Conversation(tuple(text_of(64, tokens, chance) for _ in range(turns))) for _ in range(8)
        ),
    )


def _long(tokens: Tokens, chance: random.Random, scale: float) -> Load:
    del scale  # it cannot be smaller and mean the same
    seven = tuple(Conversation((text_of(32, tokens, chance),), None, 192) for _ in range(7))
    return Load(7, seven, Conversation((text_of(4000, tokens, chance),)))


def _copy(tokens: Tokens, chance: random.Random, scale: float) -> Load:
    count = max(1, round(2 * scale))
    return Load(1, tuple(_copying(tokens, chance) for _ in range(count)))


def _copying(tokens: Tokens, chance: random.Random) -> Conversation:
    code = ""
    while len(tokens.tokenize(code, special=False)) < 224:
        name, first, second, word = chance.sample(WORDS, 4)
        code += (
            f"def {name}_{word}({first}: int, {second}: int) -> int:\n"
            f'    """Return the {word} of {first} and {second}."""\n'
            f"    return {first} * {chance.randint(2, 99)} + {second}\n\n\n"
        )
    question = (
        "Repeat this file exactly as it is, from the first line to the last, and nothing else:"
    )
    return Conversation((f"{question}\n\n```python\n{code.strip()}\n```",), None, 192)


WORKLOADS: Mapping[str, Builder] = {
    "unique-1": unique(1, 3),
    "unique-8": unique(8, 16),
    "unique-16": unique(16, 32),
    "chat": _chat,
    "shared": sharing(8, 16, 1024, 16),
    "long": _long,
    "copy": _copy,
}


def _chance(seed: str) -> random.Random:
    return random.Random(seed)


def build(
    name: str,
    tokens: Tokens,
    seed: str,
    scale: float = 1.0,
    workloads: Mapping[str, Builder] = WORKLOADS,
) -> Load:
    """The load called ``name``. ``scale`` below 1 asks less often, never for less."""
    return workloads[name](tokens, _chance(f"{name} {seed}"), scale)


def warm_up(tokens: Tokens) -> Load:
    """One short question that shares nothing with any workload."""
    text = text_of(24, tokens, _chance("warm up"))
    return Load(1, (Conversation((text,), None, 8),))
