"""One model, in detail: what it takes, how far it could go here, what it lacks. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from freehold.machine.candidates import Candidate
from freehold.machine.footprint import Footprint
from freehold.machine.plan import Choice, Exclusion, Given, choice_of, fits, weigh

MOST_USERS = 256  # sequences that llama.cpp runs in one context
SMALLEST_CONTEXT = 256


@dataclass(frozen=True)
class Explanation:
    """``weighed`` is the wish itself. ``largest_context`` fits with the users wished for and
    ``most_users`` with the context wished for; 0: none.

    ``cache_per_token`` is of one sequence at the wished context, in bytes: what another token
    costs there (nothing, for layers whose window is full).
    """

    candidate: Candidate
    weighed: Choice | Exclusion
    context: int
    needs: Footprint | None
    cache_per_sequence: int
    largest_context: int
    most_users: int


def explain(candidate: Candidate, given: Given) -> Explanation:
    """Raises nothing: of an unknown architecture ``needs`` is None and the figures are 0."""
    anatomy = candidate.anatomy
    context, users = given.context_for(candidate), given.wishes.users
    if anatomy is None:
        return Explanation(candidate, weigh(candidate, given), context, None, 0, 0, 0)
    trained = anatomy.context or context
    return Explanation(
        candidate=candidate,
        weighed=weigh(candidate, given),
        context=context,
        needs=given.needs(candidate, anatomy, users),
        cache_per_sequence=given.needs(candidate, anatomy, 1).cache,
        largest_context=_largest(
            lambda tokens: fits(choice_of(candidate, given, context=tokens)),
            max(trained, given.wishes.prompt + 1),
            least=max(SMALLEST_CONTEXT, given.wishes.prompt + 1),
        ),
        most_users=_largest(lambda n: fits(choice_of(candidate, given, users=n)), MOST_USERS),
    )


def _largest(possible: Callable[[int], bool], limit: int, least: int = 1) -> int:
    """The largest number up to ``limit`` that is possible, where all below it are; else 0."""
    if least > limit or not possible(least):
        return 0
    low, high = least, limit + 1
    while high - low > 1:
        middle = (low + high) // 2
        if possible(middle):
            low = middle
        else:
            high = middle
    return low
