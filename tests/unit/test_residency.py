"""Who is loaded, who waits and who leaves: the decisions alone, by a clock that is a number."""

from __future__ import annotations

import math
from typing import ClassVar

import pytest
from hypothesis import settings as profile
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from freehold.domain.errors import DeadlineExceeded, FreeholdError, LoadFailed, Unavailable
from freehold.runtime.residency import Residency
from freehold.runtime.residency_words import (
    Asked,
    CancelLoad,
    Closed,
    Dismissed,
    Effect,
    Event,
    Failed,
    Gone,
    Grant,
    Left,
    Load,
    Loaded,
    Measured,
    Phase,
    Pinned,
    Refuse,
    Ticked,
    Turn,
    Unload,
    Why,
)

TURN = Turn(requests=3, seconds=10.0, idle=1.0)
ROOM = 100


class House:
    """A residency, a clock, and all effects so far. Sizes are as given to `ask`."""

    def __init__(self, keep_alive: float = math.inf) -> None:
        self.residency = Residency(keep_alive=keep_alive, turn=TURN)
        self.now = 0.0
        self.budget = ROOM
        self.tickets = 0

    def tell(self, event: Event) -> list[Effect]:
        return list(self.residency.handle(event, self.now, self.budget))

    def ask(
        self, key: str, size: int = 60, *, deadline: float | None = None, stay: float | None = None
    ) -> tuple[int, list[Effect]]:
        self.tickets += 1
        asked = Asked(self.tickets, key, key.upper(), size, deadline, stay)
        return self.tickets, self.tell(asked)

    def loaded(self, key: str, size: int = 60) -> None:
        """Ask for it, load it and give it back."""
        ticket, effects = self.ask(key, size)
        assert effects == [Load(key)]
        assert self.tell(Loaded(key)) == [Grant(ticket)]
        assert self.tell(Left(ticket)) == []

    def later(self, seconds: float) -> list[Effect]:
        self.now += seconds
        return self.tell(Ticked())

    def phases(self) -> dict[str, Phase]:
        return {one.key: one.phase for one in self.residency.residents(self.now)}


def refusal(effects: list[Effect], kind: type[FreeholdError]) -> FreeholdError:
    (effect,) = effects
    assert isinstance(effect, Refuse)
    assert type(effect.error) is kind
    return effect.error


def test_loads_coalesce_and_are_granted_together() -> None:
    house = House()
    first, effects = house.ask("a")
    assert effects == [Load("a")]
    second, effects = house.ask("a")
    assert effects == []
    assert house.tell(Loaded("a")) == [Grant(first), Grant(second)]
    third, effects = house.ask("a")
    assert effects == [Grant(third)]


def test_two_that_fit_are_loaded_at_the_same_time() -> None:
    house = House()
    assert house.ask("a", 60)[1] == [Load("a")]
    assert house.ask("b", 40)[1] == [Load("b")]


def test_the_least_recently_used_leaves_and_only_then_the_other_comes() -> None:
    house = House()
    house.loaded("a", 40)
    house.now = 5
    house.loaded("b", 40)
    house.now = 10
    ticket, effects = house.ask("c", 50)
    assert effects == [Unload("a", Why.ROOM)]
    assert house.tell(Gone("a")) == [Load("c")]
    assert house.tell(Loaded("c")) == [Grant(ticket)]


def test_a_small_one_stays_where_a_large_one_must_leave_anyway() -> None:
    house = House()
    house.loaded("small", 10)
    house.loaded("large", 80)
    house.now = 10
    assert house.ask("c", 85)[1] == [Unload("large", Why.ROOM)]


def test_a_client_that_asks_without_pause_keeps_its_model_for_one_turn() -> None:
    house = House()
    house.loaded("a")
    mine, effects = house.ask("a")
    theirs, effects = house.ask("b")
    assert effects == []
    for _ in range(TURN.requests):
        house.now += 0.1
        assert house.tell(Left(mine)) == []  # idle, but only for a moment
        mine, effects = house.ask("a")
        assert effects == [Grant(mine)]
    house.tell(Left(mine))
    mine, effects = house.ask("a")
    assert effects == []
    assert house.phases() == {"a": Phase.LEAVING, "b": Phase.WAITING}
    assert house.tell(Gone("a")) == [Load("b")]
    assert house.tell(Loaded("b")) == [Grant(theirs)]  # and a waits now


def test_a_turn_ends_by_the_clock_too_and_running_answers_are_not_cut() -> None:
    house = House()
    house.loaded("a")
    mine, _ = house.ask("a")
    house.ask("b")
    assert house.later(TURN.seconds) == []
    assert house.ask("a")[1] == []  # behind b now
    assert house.phases()["a"] is Phase.READY
    assert house.tell(Left(mine)) == [Unload("a", Why.ROOM)]


def test_what_is_idle_leaves_when_it_has_been_for_a_while() -> None:
    house = House()
    house.loaded("a")
    assert house.ask("b")[1] == []
    assert house.residency.wake(house.now) == TURN.idle
    assert house.later(TURN.idle) == [Unload("a", Why.ROOM)]


def test_nobody_is_closed_to_others_once_nobody_waits() -> None:
    house = House()
    house.loaded("a")
    house.ask("a")
    theirs, _ = house.ask("b")
    house.later(TURN.seconds)
    again, effects = house.ask("a")
    assert effects == []
    assert house.tell(Left(theirs)) == [Grant(again)]
    assert house.phases() == {"a": Phase.READY}


def test_nobody_leaves_before_all_who_must_can() -> None:
    house = House()
    house.loaded("a", 50)
    house.loaded("b", 50)
    mine, _ = house.ask("b", 50)
    house.now = 5
    assert house.ask("c", 90)[1] == []
    assert house.later(TURN.seconds) == []
    assert house.tell(Left(mine)) == [Unload("a", Why.ROOM), Unload("b", Why.ROOM)]


def test_what_can_never_fit_is_refused_at_once_with_both_numbers() -> None:
    house = House()
    error = refusal(house.ask("a", 2_000_000_000)[1], LoadFailed)
    assert error.message == ("A needs about 2.00 GB of memory, and 0.00 GB are available to it.")
    assert house.phases() == {}


def test_pinned_models_are_named_in_the_way_and_stay() -> None:
    house = House()
    house.loaded("a")
    house.tell(Pinned("a", pinned=True))
    house.now = 100
    assert "beside what is pinned (A)" in refusal(house.ask("b")[1], LoadFailed).message
    house.tell(Pinned("a", pinned=False))
    assert house.ask("b")[1] == [Unload("a", Why.ROOM)]


def test_pinning_what_is_in_the_way_refuses_who_waited_for_it() -> None:
    house = House()
    house.loaded("a")
    house.ask("b")
    refusal(house.tell(Pinned("a", pinned=True)), LoadFailed)


def test_an_unused_model_leaves_when_its_time_is_over() -> None:
    house = House(keep_alive=20)
    house.loaded("a")
    assert house.residency.wake(house.now) == 20
    assert house.later(19) == []
    assert house.later(1) == [Unload("a", Why.TIME)]
    assert house.tell(Gone("a")) == []
    assert house.phases() == {}


def test_a_request_may_say_how_long_and_who_says_nothing_changes_nothing() -> None:
    house = House(keep_alive=20)
    house.loaded("a")
    ticket, _ = house.ask("a", stay=math.inf)
    house.tell(Left(ticket))
    ticket, _ = house.ask("a")
    house.tell(Left(ticket))
    assert house.later(1000) == []
    ticket, _ = house.ask("a", stay=0)
    assert house.tell(Left(ticket)) == [Unload("a", Why.TIME)]


def test_pinned_models_do_not_age() -> None:
    house = House(keep_alive=20)
    house.loaded("a")
    house.tell(Pinned("a", pinned=True))
    assert house.later(1000) == []
    assert house.tell(Dismissed("a")) == [Unload("a", Why.TIME)]


def test_told_to_leave_it_does_when_its_users_have() -> None:
    house = House()
    house.loaded("a")
    ticket, _ = house.ask("a")
    assert house.tell(Dismissed("a")) == []
    assert house.tell(Left(ticket)) == [Unload("a", Why.TIME)]


def test_asked_for_while_it_leaves_it_comes_back() -> None:
    house = House(keep_alive=20)
    house.loaded("a")
    assert house.later(20) == [Unload("a", Why.TIME)]
    ticket, effects = house.ask("a")
    assert effects == []
    assert house.tell(Gone("a")) == [Load("a")]
    assert house.tell(Loaded("a")) == [Grant(ticket)]


def test_a_load_that_fails_fails_all_who_wait_and_the_next_tries_again() -> None:
    house = House()
    house.ask("a")
    house.ask("a")
    error = LoadFailed("No.")
    assert house.tell(Failed("a", error)) == [Refuse(1, error), Refuse(2, error)]
    assert house.ask("a")[1] == [Load("a")]


def test_a_load_nobody_waits_for_goes_on_until_its_room_is_needed() -> None:
    house = House()
    ticket, _ = house.ask("a")
    assert house.tell(Left(ticket)) == []
    assert house.ask("b")[1] == [CancelLoad("a")]
    assert house.ask("a")[1] == []
    assert house.tell(Gone("a")) == [Load("b")]
    assert house.phases() == {"b": Phase.LOADING, "a": Phase.WAITING}


def test_a_load_nobody_waits_for_can_be_told_to_stop() -> None:
    house = House()
    ticket, _ = house.ask("a")
    house.tell(Left(ticket))
    assert house.tell(Dismissed("a")) == [CancelLoad("a")]


@pytest.mark.parametrize("phase", ["loading", "waiting", "another's turn"])
def test_a_request_that_waits_too_long_hears_why(phase: str) -> None:
    house = House()
    expected = "A was still being loaded"
    if phase == "waiting":
        house.loaded("b")
        house.ask("b")
        expected = "A had no room beside B"
    if phase == "another's turn":
        house.loaded("a")
        house.ask("a")
        house.ask("b")
        house.later(TURN.seconds)
        expected = "it was another model's turn and A was leaving"
    house.ask("a", deadline=house.now + 5)
    assert house.residency.wake(house.now) is not None
    house.now += 5
    error = refusal(house.tell(Ticked()), DeadlineExceeded)
    assert expected in error.message


def test_at_the_end_all_leave_and_nobody_comes() -> None:
    house = House()
    house.loaded("a")
    house.ask("a")
    house.ask("b")
    effects = house.tell(Closed())
    assert Unload("a", Why.CLOSING) in effects
    refusal([effect for effect in effects if isinstance(effect, Refuse)], Unavailable)
    refusal(house.ask("c")[1], Unavailable)
    assert house.tell(Gone("a")) == []
    assert house.phases() == {}


def test_what_is_measured_counts_if_it_is_more() -> None:
    house = House()
    house.loaded("a", 40)
    house.tell(Measured("a", 30))
    assert house.residency.taken == 40
    house.tell(Measured("a", 70))
    assert house.residency.taken == 70


# Everything at once

KEYS = st.sampled_from("abcd")


class Households(RuleBasedStateMachine):
    """Any events in any order, and the promises after each of them."""

    SIZES: ClassVar[dict[str, int]] = {"a": 60, "b": 50, "c": 30, "d": 110}

    def __init__(self) -> None:
        super().__init__()
        self.house = House(keep_alive=25)
        self.waiting: dict[int, str] = {}
        self.using: dict[int, str] = {}
        self.pinned: set[str] = set()
        self.loading: set[str] = set()
        self.leaving: set[str] = set()
        self.ready: dict[str, float] = {}
        self.granted: dict[str, int] = {}  # since it was ready
        self.idle: dict[str, float] = {}
        self.answered: set[int] = set()

    def tell(self, event: Event) -> None:
        for effect in self.house.tell(event):
            self.check(effect)

    def check(self, effect: Effect) -> None:
        now = self.house.now
        match effect:
            case Grant(ticket):
                key = self.using[ticket] = self.waiting.pop(ticket)
                assert key in self.ready
                self.granted[key] += 1
                self.answered.add(ticket)
            case Refuse(ticket):
                del self.waiting[ticket]
                self.answered.add(ticket)
            case Load(key):
                assert key not in self.loading | self.leaving | set(self.ready)
                self.loading.add(key)
                held = self.loading | self.leaving | set(self.ready)
                assert sum(self.SIZES[each] for each in held) <= self.house.budget
            case Unload(key, why):
                assert key not in self.using.values()
                assert key not in self.pinned
                if why is Why.ROOM:
                    turn = self.granted[key] >= TURN.requests
                    turn = turn or now >= self.ready[key] + TURN.seconds
                    assert turn or now >= self.idle[key] + TURN.idle
                del self.ready[key]
                self.leaving.add(key)
            case CancelLoad(key):
                assert key not in self.waiting.values()
                self.loading.remove(key)
                self.leaving.add(key)

    @rule(key=KEYS, patience=st.sampled_from((None, 3.0, 30.0)), stay=st.sampled_from((None, 0, 9)))
    def ask(self, key: str, patience: float | None, stay: float | None) -> None:
        self.house.tickets += 1
        ticket = self.house.tickets
        self.waiting[ticket] = key
        deadline = None if patience is None else self.house.now + patience
        self.tell(Asked(ticket, key, key, self.SIZES[key], deadline, stay))

    @rule(data=st.data())
    @precondition(lambda self: self.waiting or self.using)
    def leave(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from(sorted({**self.waiting, **self.using})))
        self.waiting.pop(ticket, None)
        if (key := self.using.pop(ticket, None)) is not None:
            self.idle[key] = self.house.now
        self.answered.add(ticket)
        self.tell(Left(ticket))

    @rule(data=st.data(), well=st.booleans())
    @precondition(lambda self: self.loading)
    def end_load(self, data: st.DataObject, well: bool) -> None:
        key = data.draw(st.sampled_from(sorted(self.loading)))
        self.loading.remove(key)
        if well:
            self.ready[key] = self.idle[key] = self.house.now
            self.granted[key] = 0
            self.tell(Loaded(key))
        else:
            self.tell(Failed(key, LoadFailed("No.")))

    @rule(data=st.data())
    @precondition(lambda self: self.leaving)
    def end_leaving(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.leaving)))
        self.leaving.remove(key)
        self.tell(Gone(key))

    @rule(key=KEYS, pinned=st.booleans())
    def pin(self, key: str, pinned: bool) -> None:
        (self.pinned.add if pinned else self.pinned.discard)(key)
        self.tell(Pinned(key, pinned))

    @rule(key=KEYS)
    def dismiss(self, key: str) -> None:
        self.pinned.discard(key)
        self.tell(Dismissed(key))

    @rule(seconds=st.sampled_from((0.5, 2.0, 10.0)))
    def wait(self, seconds: float) -> None:
        """As the manager does: it is told whenever it wanted to be."""
        end = self.house.now + seconds
        while (wake := self.house.residency.wake(self.house.now)) is not None and wake <= end:
            assert wake > self.house.now
            self.house.now = wake
            self.tell(Ticked())
        self.house.now = end
        self.tell(Ticked())

    @rule(budget=st.sampled_from((60, ROOM)))
    def change_budget(self, budget: int) -> None:
        self.house.budget = budget
        self.tell(Ticked())

    @invariant()
    def seen_as_it_is(self) -> None:
        phases = self.house.phases()
        assert {key for key, phase in phases.items() if phase is Phase.LOADING} == self.loading
        assert {key for key, phase in phases.items() if phase is Phase.READY} == set(self.ready)
        assert {key for key, phase in phases.items() if phase is Phase.LEAVING} == self.leaving
        queued = {key for key, phase in phases.items() if phase is Phase.WAITING}
        assert queued <= set(self.waiting.values())
        assert set(self.waiting.values()) <= set(phases)

    @invariant()
    def what_cannot_fit_does_not_wait(self) -> None:
        assert "d" not in self.waiting.values()

    def teardown(self) -> None:
        """If answers end, loads end and time passes, nobody waits for ever, and turns are kept."""
        owed = set(self.waiting)
        for _ in range(60 * (len(owed) + 1)):
            if not self.waiting:
                break
            for ticket in list(self.using):
                self.idle[self.using.pop(ticket)] = self.house.now
                self.tell(Left(ticket))
            for key in sorted(self.loading):
                self.loading.remove(key)
                self.ready[key] = self.idle[key] = self.house.now
                self.granted[key] = 0
                self.tell(Loaded(key))
            for key in sorted(self.leaving):
                self.leaving.remove(key)
                self.tell(Gone(key))
            self.wait(0.5)
        assert not self.waiting
        assert owed <= self.answered


TestHouseholds = Households.TestCase
TestHouseholds.settings = profile(max_examples=100, stateful_step_count=50, deadline=None)


def test_two_models_that_fight_are_exchanged_once_a_turn() -> None:
    """Two clients that ask without pause; answers take a tenth of a second."""
    house = House()
    tickets: dict[str, int] = {}
    granted = {"a": 0, "b": 0}
    loads: list[str] = []
    work: list[Effect] = []
    for key in "ab":
        tickets[key], effects = house.ask(key)
        work += effects
    for _ in range(400):
        house.now += 0.1
        effects, work = work, []
        for effect in effects:
            match effect:
                case Load(key):
                    loads.append(key)
                    work += house.tell(Loaded(key))
                case Unload(key):
                    work += house.tell(Gone(key))
                case Grant(ticket):
                    key = next(key for key, mine in tickets.items() if mine == ticket)
                    granted[key] += 1
                    work += house.tell(Left(ticket))
                    tickets[key], more = house.ask(key)
                    work += more
        work += house.tell(Ticked())
    assert loads[:4] == ["a", "b", "a", "b"]
    assert abs(granted["a"] - granted["b"]) <= TURN.requests
    assert len(loads) <= (granted["a"] + granted["b"]) / TURN.requests + 2
    assert min(granted.values()) > 50
