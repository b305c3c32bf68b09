"""Which replica gets a request, and when one is left out: the rules, held for every history."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from freehold.engines.upstream.replicas import (
    FAILURES,
    FIRST_PAUSE,
    LONGEST_PAUSE,
    SLACK,
    Health,
    Replicas,
    Sign,
    Ticket,
)

URLS = tuple(f"https://gpu{number}:8000/v1" for number in range(4))


def told(replicas: Replicas) -> list[Health]:
    return [each.health for each in replicas.standings()]


def taken(replicas: Replicas, beginning: bytes = b"a", tokens: int = 10) -> Ticket:
    ticket = replicas.choose(beginning, tokens)
    assert ticket is not None
    return ticket


def homes(replicas: Replicas, count: int = 400) -> list[str]:
    """Where conversations go while nobody is busy."""
    found = []
    for number in range(count):
        ticket = taken(replicas, hashlib.sha256(str(number).encode()).digest())
        replicas.answered(ticket)
        found.append(ticket.url)
    return found


def test_conversations_have_a_home_and_are_spread() -> None:
    replicas = Replicas(URLS)
    first = homes(replicas)
    assert homes(replicas) == first
    assert all(70 < first.count(url) < 130 for url in URLS)


def test_only_the_conversations_of_who_leaves_move() -> None:
    replicas = Replicas(URLS)
    before = homes(replicas)
    replicas.failed(taken(replicas), 0.0, Sign.GONE)
    (gone,) = (each.url for each in replicas.standings() if each.health is Health.EJECTED)
    after = homes(replicas)
    assert all(new == old for old, new in zip(before, after, strict=True) if old != gone)
    assert gone not in after


def test_a_busy_home_is_passed_over_beyond_the_slack_and_not_before() -> None:
    replicas = Replicas(URLS)
    home = taken(replicas, tokens=SLACK)
    assert taken(replicas, tokens=1).url == home.url
    away = taken(replicas)
    assert away.url != home.url
    replicas.answered(home)
    assert taken(replicas).url == home.url


def test_one_who_is_gone_is_left_out_at_once_and_one_who_errs_after_some_failures() -> None:
    replicas = Replicas(URLS[:1])
    for _ in range(FAILURES - 1):
        assert not replicas.failed(taken(replicas), 0.0, Sign.ILL)
    replicas.answered(taken(replicas))  # in a row, or they do not count
    for number in range(FAILURES):
        assert replicas.failed(taken(replicas), 0.0, Sign.ILL) is (number == FAILURES - 1)
    assert replicas.choose(b"a", 1) is None
    other = Replicas(URLS[:1])
    assert other.failed(taken(other), 0.0, Sign.GONE)


def test_the_way_back() -> None:
    replicas = Replicas(URLS[:1])
    replicas.failed(taken(replicas), 0.0, Sign.GONE)
    assert replicas.to_check(FIRST_PAUSE / 2) == ()
    assert replicas.next_check(0.0, 10.0) == FIRST_PAUSE == replicas.until_readmission(0.0)
    assert replicas.to_check(FIRST_PAUSE) == ((0, URLS[0]),)
    assert replicas.checked(0, FIRST_PAUSE, Sign.WELL)
    assert told(replicas) == [Health.ON_PROBATION]
    ticket = taken(replicas)
    assert replicas.choose(b"b", 1) is None  # one at a time
    assert replicas.begun(ticket)
    assert told(replicas) == [Health.HEALTHY]
    taken(replicas)


def test_who_fails_again_is_out_for_longer_until_an_answer_ends_well() -> None:
    replicas, now, pauses = Replicas(URLS[:1]), 0.0, []
    replicas.failed(taken(replicas), now, Sign.GONE)
    for _ in range(8):
        pauses.append(replicas.until_readmission(now))
        now += pauses[-1]
        replicas.checked(0, now, Sign.WELL)
        replicas.failed(taken(replicas), now, Sign.ILL)  # on probation one failure is enough
    assert pauses == [1, 2, 4, 8, 16, 32, LONGEST_PAUSE, LONGEST_PAUSE]
    now += LONGEST_PAUSE
    replicas.checked(0, now, Sign.WELL)
    replicas.answered(taken(replicas))
    replicas.failed(taken(replicas), now, Sign.GONE)
    assert replicas.until_readmission(now) == FIRST_PAUSE


def test_a_check_that_is_late_now_and_then_leaves_a_busy_replica_where_it_is() -> None:
    replicas = Replicas(URLS[:1])
    for _ in range(10):
        replicas.checked(0, 0.0, Sign.ILL)
        replicas.checked(0, 0.0, Sign.ILL)
        replicas.answered(taken(replicas))
    assert told(replicas) == [Health.HEALTHY]
    for _ in range(FAILURES):
        replicas.checked(0, 0.0, Sign.ILL)
    assert told(replicas) == [Health.EJECTED]


@pytest.mark.parametrize("sign", [Sign.ILL, Sign.GONE])
def test_a_failed_check_after_the_pause_doubles_it(sign: Sign) -> None:
    replicas = Replicas(URLS[:1])
    replicas.failed(taken(replicas), 0.0, Sign.GONE)
    assert not replicas.checked(0, FIRST_PAUSE, sign)
    assert replicas.until_readmission(FIRST_PAUSE) == 2 * FIRST_PAUSE


class History(RuleBasedStateMachine):
    """Requests that come and end in any way, checks that say anything, time that passes."""

    @initialize(count=st.integers(1, 4))
    def begin(self, count: int) -> None:
        self.replicas = Replicas(URLS[:count])
        self.now = 0.0
        self.tickets: list[Ticket] = []

    @rule(seconds=st.floats(0, 100))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(
        beginning=st.binary(max_size=2),
        tokens=st.integers(0, 3 * SLACK),
        tried=st.sets(st.integers(0, 3)),
    )
    def come(self, beginning: bytes, tokens: int, tried: set[int]) -> None:
        before = self.replicas.standings()
        ticket = self.replicas.choose(beginning, tokens, tried)
        free = [
            each
            for number, each in enumerate(before)
            if number not in tried
            and (
                each.health is Health.HEALTHY
                or (each.health is Health.ON_PROBATION and not each.requests)
            )
        ]
        assert (ticket is None) is (not free)
        if ticket is not None:
            chosen = before[ticket.replica]
            assert chosen in free
            # Never more than the slack above whoever has least to do.
            assert chosen.tokens <= min(each.tokens for each in free) + SLACK
            self.tickets.append(ticket)

    @precondition(lambda self: self.tickets)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        ticket = self.tickets.pop(data.draw(st.integers(0, len(self.tickets) - 1)))
        how = data.draw(st.sampled_from(["begun", "answered", "abandoned", Sign.ILL, Sign.GONE]))
        match how:
            case "begun":
                self.replicas.begun(ticket)
                self.tickets.append(ticket)
            case "answered":
                self.replicas.answered(ticket)
            case "abandoned":
                self.replicas.abandoned(ticket)
            case Sign():
                self.replicas.failed(ticket, self.now, how)

    @rule(data=st.data(), sign=st.sampled_from(Sign))
    def check(self, data: st.DataObject, sign: Sign) -> None:
        due = self.replicas.to_check(self.now)
        if due:
            number, _ = data.draw(st.sampled_from(due))
            before = self.replicas.standings()[number].health
            changed = self.replicas.checked(number, self.now, sign)
            after = self.replicas.standings()[number].health
            assert changed is (before is not after)
            assert not (sign is Sign.WELL and after is Health.EJECTED)

    @invariant()
    def what_is_outstanding_is_what_came_and_has_not_ended(self) -> None:
        if not hasattr(self, "replicas"):
            return
        for number, each in enumerate(self.replicas.standings()):
            mine = [ticket for ticket in self.tickets if ticket.replica == number]
            assert each.requests == len(mine)
            assert each.tokens == sum(ticket.tokens for ticket in mine)

    @invariant()
    def nobody_is_out_for_ever(self) -> None:
        if hasattr(self, "replicas"):
            longest = LONGEST_PAUSE + 1e-6  # sums of times are rounded
            assert 0.0 <= self.replicas.until_readmission(self.now) <= longest
            to_check = self.replicas.to_check(self.now + longest)
            assert len(to_check) == len(self.replicas.standings())


TestHistory = History.TestCase
