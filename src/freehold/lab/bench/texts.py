"""Seeded prompts of a wanted number of tokens, as the server itself counts them.

A server's vocabulary is not at hand, but its count of a prompt's tokens (``usage``) is. Common
words after a space are one token each in almost every vocabulary. So the count is asked for the
whole list, halves of it are dropped until only words of one token are left, and a prompt of n
tokens is then n words less what the template adds.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from freehold.domain.errors import InvalidSetting

_TEXT = """
about above across after again air all also always an and animal answer any area around as ask
away back because before begin below between big book both bring build but call came carry
change city close cold come could country cross cut dark day deep did different door down draw
each early earth east eat end enough even every eye face family far farm father feet few field
fire first fish five food for form found four from full game gave girl give gold good great
green ground group grow half hand hard have head hear help here high hold home horse hour house
idea island keep kind king land large last late learn left letter life light like line list
little live long look made make many map mark may mean mile milk mind money moon more morning
most mother mountain move much music must name near need never new next night north note number
ocean often old once only open order other over own page paper part people picture place plan
plant play point port power problem question quick rain ran read ready red rest right river road
rock room round rule run sail same school science sea second seem sentence ship short should
show side simple sing six slow small snow some song soon sound south stand star start stay step
stone stop story street strong study sun sure table talk teach ten test than that their then
there these thing think this those thought three time together took toward town travel tree true
try turn two under unit until use very voice walk war warm watch water way week west wheel when
where which while white whole why wind winter wish with wood word work world would write year
young
"""
WORDS = tuple(_TEXT.split())

# Makes a model go on for as long as it may, where it cannot be made to.
_INSTRUCTION = "Go on with these words, without an end:"
_FEWEST = 24  # words, so that prompts differ from their first few on
_SMALLEST = 8  # a group is not halved further
_HALVINGS = 24

Count = Callable[[str], Awaitable[int | None]]


@dataclass(frozen=True)
class Vocabulary:
    """How prompts are made up for one server.

    ``overhead``: tokens of every prompt that are no words, the same in all of them; None where
    the server counts none. ``exact``: each word is one token, so lengths are met to the token.
    """

    words: tuple[str, ...]
    overhead: int | None
    per_word: float
    exact: bool

    def prompt(self, tokens: int, shared: int, common: str, seed: str) -> str:
        """``tokens`` long, of which the first ``shared`` depend on ``common`` alone.

        Raises `InvalidSetting` where there is no room for them.
        """
        overhead = self.overhead or 0
        if tokens <= max(overhead, shared):
            raise InvalidSetting(
                f"A prompt of {tokens} tokens has no words of its own: the template takes "
                f"{overhead} and {shared} are to be shared.",
                hint="Ask for a longer --prompt.",
            )
        together = max(0, round((shared - overhead) / self.per_word))
        own = max(1, round((tokens - overhead) / self.per_word) - together)
        return _asking(
            [*_drawn(self.words, together, common), *_drawn(self.words, own, f"{common} {seed}")]
        )


def _drawn(words: Sequence[str], count: int, seed: str) -> list[str]:
    return random.Random(seed).choices(words, k=count)  # noqa: S311 - a workload, no secret


def _asking(words: Sequence[str]) -> str:
    return " ".join((_INSTRUCTION, *words))


async def learn(count: Count, most: int) -> Vocabulary:
    """Find the words that are one token each for whoever ``count``s the tokens of a message.

    Nothing is asked that is much longer than ``most`` tokens: the server may have room for no more.
    """
    words = WORDS[: max(_FEWEST, most)]
    one = await count(_asking(words[:1]))
    two = await count(_asking([words[0], words[0]]))
    whole = await count(_asking(words))
    if one is None or two is None or whole is None or whole <= one:
        return Vocabulary(words, None, 1.0, exact=False)
    overhead = one - (two - one)
    single = await _of_one_token(words, whole - overhead, overhead, count)
    if len(single) >= _FEWEST:
        return Vocabulary(tuple(single), overhead, 1.0, exact=True)
    return Vocabulary(words, overhead, (whole - overhead) / len(words), exact=False)


async def _of_one_token(
    words: Sequence[str], tokens: int, overhead: int, count: Count
) -> list[str]:
    """Halve until what is left is as many tokens as words."""
    found: list[str] = []
    groups = [(words, tokens)]
    for _ in range(_HALVINGS):
        if not groups:
            break
        group, tokens = groups.pop(0)
        if tokens == len(group):
            found += group
        elif len(group) > _SMALLEST:
            middle = len(group) // 2
            first = await count(_asking(group[:middle]))
            if first is None:
                break
            left = first - overhead
            groups += [(group[:middle], left), (group[middle:], tokens - left)]
    return found
