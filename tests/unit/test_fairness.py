"""Whose turn it is: bounds that hold whatever comes in which order."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from freehold.runtime.fairness import Ticket, Turns

CALLERS = {"ann": 1, "bob": 2, "eve": 5}


class AnyOrder(RuleBasedStateMachine):
    """Callers come, give up and end as they like; places come and go."""

    def __init__(self) -> None:
        super().__init__()
        self.turns = Turns(3, 8)
        self.number = 0
        self.waiting: dict[int, Ticket] = {}
        self.running: dict[int, Ticket] = {}
        self.released: list[Ticket] = []
        self.shrunk = False

    def _take(self, released: tuple[Ticket, ...]) -> None:
        for ticket in released:
            assert self.waiting.pop(ticket.number) is ticket
            self.running[ticket.number] = ticket
            older = [t for t in self.waiting.values() if t.caller == ticket.caller]
            assert all(t.number > ticket.number for t in older), "overtaken by its own caller's"
        self.released += released

    @rule(caller=st.sampled_from(sorted(CALLERS)), places=st.integers(1, 5))
    def arrive(self, caller: str, places: int) -> None:
        if self.turns.full_for(places):
            assert len(self.waiting) >= 8
            return
        self.number += 1
        ticket = Ticket(self.number, caller, places, CALLERS[caller])
        self.waiting[ticket.number] = ticket
        self._take(self.turns.arrive(ticket))

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        ticket = self.running.pop(data.draw(st.sampled_from(sorted(self.running))))
        self._take(self.turns.leave(ticket))

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        ticket = self.waiting.pop(data.draw(st.sampled_from(sorted(self.waiting))))
        self._take(self.turns.leave(ticket))

    @rule(places=st.integers(1, 6))
    def resize(self, places: int) -> None:
        self.shrunk = self.shrunk or places < self.turns.places
        self._take(self.turns.resize(places))

    @invariant()
    def nothing_is_lost_and_no_place_is_given_twice(self) -> None:
        assert self.turns.waiting == len(self.waiting) <= 8
        assert self.turns.running == len(self.running)
        if not self.shrunk:
            assert self.turns.held <= self.turns.places
        if self.waiting:
            assert self.running, "somebody waits for nobody"

    def teardown(self) -> None:
        """When everybody ends, everybody has had a turn."""
        while self.running:
            _, ticket = self.running.popitem()
            self._take(self.turns.leave(ticket))
        assert not self.waiting
        assert (self.turns.waiting, self.turns.running, self.turns.held) == (0, 0, 0)


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@given(
    st.lists(st.tuples(st.integers(1, 7), st.integers(1, 3)), min_size=2, max_size=5),
    st.integers(1, 4),
)
@settings(max_examples=60, deadline=None)
def test_callers_who_always_wait_have_their_share(
    callers: list[tuple[int, int]], places: int
) -> None:
    """Any two differ, each divided by its weight, by less than one ticket of each."""
    turns = Turns(places, 10_000)
    had = [Fraction(0) for _ in callers]
    running: list[Ticket] = []
    number = 0

    def ask(who: int) -> None:
        nonlocal number
        weight, size = callers[who]
        number += 1
        take(turns.arrive(Ticket(number, str(who), size, weight)))

    def take(released: tuple[Ticket, ...]) -> None:
        for ticket in released:
            running.append(ticket)
            had[int(ticket.caller)] += Fraction(ticket.places, ticket.weight)

    blocker = Ticket(0, "first", places)
    take_nothing = turns.arrive(blocker)
    assert take_nothing == (blocker,)
    for who in range(len(callers)):
        for _ in range(30):
            ask(who)
    take(turns.leave(blocker))
    for _ in range(60):
        take(turns.leave(running.pop(0)))
        if any(turns_left(turns, who) < 2 for who in range(len(callers))):
            break
        for one, (weight, size) in enumerate(callers):
            for other, (others_weight, others_size) in enumerate(callers):
                bound = Fraction(size, weight) + Fraction(others_size, others_weight)
                assert had[one] - had[other] <= bound


def turns_left(turns: Turns, who: int) -> int:
    return sum(
        waiting.ticket.caller == str(who) and waiting.number in turns._waiting
        for waiting in turns._queue
    )


def test_who_comes_late_does_not_wait_behind_a_whole_queue() -> None:
    turns = Turns(1, 1000)
    greedy = [Ticket(number, "greedy") for number in range(100)]
    assert turns.arrive(greedy[0]) == (greedy[0],)
    for ticket in greedy[1:]:
        assert turns.arrive(ticket) == ()
    modest = Ticket(1000, "modest")
    assert turns.arrive(modest) == ()
    first = turns.leave(greedy[0])
    second = turns.leave(first[0])
    assert modest in (*first, *second)


def test_turns_not_used_are_not_saved_up() -> None:
    turns = Turns(1, 1000)
    one = Ticket(0, "one")
    turns.arrive(one)
    number = 1
    for _ in range(50):  # one is served alone for long
        following = Ticket(number, "one")
        turns.arrive(following)
        assert turns.leave(one) == (following,)
        one, number = following, number + 1
    late = [Ticket(number + n, "late") for n in range(10)]
    again = [Ticket(number + 10 + n, "one") for n in range(10)]
    for ticket in (*late, *again):
        turns.arrive(ticket)
    order = []
    current = one
    for _ in range(10):
        (current,) = turns.leave(current)
        order.append(current.caller)
    assert 4 <= order.count("late") <= 6


def test_a_large_ticket_is_not_overtaken_for_ever() -> None:
    turns = Turns(2, 100)
    small = [Ticket(n if n < 2 else 100 + n, f"c{n}") for n in range(10)]
    turns.arrive(small[0])
    turns.arrive(small[1])
    large = Ticket(100, "large", places=9)  # more than there are: it takes them all
    assert turns.arrive(large) == ()
    for ticket in small[2:]:
        assert turns.arrive(ticket) == ()
    assert turns.leave(small[0]) == ()
    assert turns.leave(small[1]) == (large,)
    assert turns.held == 2


def test_what_callers_had_is_forgotten() -> None:
    turns = Turns(1, 10)
    for number in range(5000):
        ticket = Ticket(number, f"caller {number}")
        assert turns.arrive(ticket) == (ticket,)
        turns.leave(ticket)
    assert len(turns._ends) < 100
    assert not turns._queue
