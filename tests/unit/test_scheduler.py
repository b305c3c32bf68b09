"""The scheduler: who starts where, what a step does, and what stays true throughout."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from freehold.domain.chat import GenerateRequest
from freehold.engines.llamacpp.prefix import RECOMPUTED, Slot, choose, common_prefix, reusable
from freehold.engines.llamacpp.scheduler import Admission, Scheduler, Work
from freehold.engines.llamacpp.sequence import Phase, Sequence

CHOSEN = 77  # the token every sequence "chooses"
REST = "-" * RECOMPUTED  # the end of a prompt, computed anew whatever is cached


def sequence(name: str, prompt: str | list[int] = "abc", scope: str = "local") -> Sequence:
    """A request whose prompt is spelled; each letter is one token."""
    tokens = tuple(map(ord, prompt)) if isinstance(prompt, str) else tuple(prompt)
    return Sequence(GenerateRequest(name, tokens, 10, cache_scope=scope), arrived=0.0)


def names(found: tuple[Admission, ...] | tuple[Work, ...]) -> list[str]:
    return [item.sequence.request.request_id for item in found]


def admit_all(scheduler: Scheduler) -> tuple[Admission, ...]:
    admissions = scheduler.admissions()
    for admission in admissions:
        scheduler.admit(admission, kept=admission.keep, now=1.0)
    return admissions


def step(scheduler: Scheduler) -> tuple[Work, ...]:
    """Admit, plan, commit, and choose a token wherever there are logits."""
    admit_all(scheduler)
    work = scheduler.plan()
    for item in work:
        scheduler.commit(item)
        if item.wants_logits:
            item.sequence.tokens.append(CHOSEN)
    return work


def with_cached(*contents: tuple[str, str]) -> Scheduler:
    """A scheduler whose slots hold (prompt, scope), in order of their use."""
    scheduler = Scheduler(len(contents), 512)
    for prompt, scope in contents:
        scheduler.add(sequence(prompt, prompt, scope))
    step(scheduler)
    for running in tuple(scheduler.sequences):
        scheduler.release(running)
    return scheduler


# Admission


def test_requests_start_in_order_of_arrival() -> None:
    scheduler = Scheduler(2, 512)
    for name in "ABCD":
        scheduler.add(sequence(name))
    assert names(admit_all(scheduler)) == ["A", "B"]
    assert admit_all(scheduler) == ()
    scheduler.release(scheduler.sequences[1])
    assert names(admit_all(scheduler)) == ["C"]


def test_asking_who_may_start_changes_nothing() -> None:
    scheduler = Scheduler(2, 512)
    scheduler.add(sequence("A"))
    assert scheduler.admissions() == scheduler.admissions() != ()
    assert scheduler.plan() == ()


def test_two_who_start_together_get_different_slots() -> None:
    scheduler = with_cached(("abcd", "local"), ("zzzz", "local"))
    scheduler.add(sequence("A", "abcd"))
    scheduler.add(sequence("B", "abcd"))
    assert {admission.slot for admission in admit_all(scheduler)} == {0, 1}


def test_the_slot_that_saves_most_is_taken() -> None:
    scheduler = with_cached(("abxx", "local"), ("abcd", "local"), ("zzzz", "local"))
    scheduler.add(sequence("A", "abcd" + REST))
    (admission,) = admit_all(scheduler)
    assert (admission.slot, admission.keep) == (1, 4)
    assert admission.sequence.cached_tokens == 4
    (work,) = scheduler.plan()
    assert (work.start, work.tokens) == (4, tuple(map(ord, REST)))


def test_a_prefix_of_another_scope_is_not_reused() -> None:
    scheduler = with_cached(("abcd", "theirs"), ("zzzz", "ours"))
    scheduler.add(sequence("A", "abcd" + REST, "ours"))
    (admission,) = admit_all(scheduler)
    assert admission.keep == 0


def test_a_slot_taken_over_forgets_what_it_held() -> None:
    scheduler = with_cached(("abcd", "theirs"))
    scheduler.add(sequence("A", "xyz", "ours"))
    admit_all(scheduler)
    assert scheduler.slots[0].tokens == []
    assert scheduler.slots[0].scope == "ours"


def test_without_a_prefix_the_least_recently_used_slot_is_taken() -> None:
    scheduler = with_cached(("aaaa", "local"), ("bbbb", "local"))
    scheduler.add(sequence("again", "aaaa" + REST))
    step(scheduler)
    scheduler.release(scheduler.sequences[0])
    scheduler.add(sequence("new", "zzzz"))
    assert admit_all(scheduler)[0].slot == 1


def test_the_cache_may_keep_less_than_hoped() -> None:
    scheduler = with_cached(("abcd", "local"))
    scheduler.add(sequence("A", "abcd" + REST))
    (admission,) = scheduler.admissions()
    assert admission.keep == 4
    scheduler.admit(admission, kept=0, now=1.0)
    (work,) = scheduler.plan()
    assert (work.start, len(work.tokens)) == (0, 4 + RECOMPUTED)
    assert admission.sequence.cached_tokens == 0


@pytest.mark.parametrize("length", [1, RECOMPUTED - 1, RECOMPUTED, RECOMPUTED + 1, 20])
def test_the_end_of_a_prompt_is_always_decoded(length: int) -> None:
    cached = "abcdefghijklmnopqrst"
    scheduler = with_cached((cached, "local"))
    scheduler.add(sequence("A", cached[:length]))
    (admission,) = admit_all(scheduler)
    assert admission.keep == max(0, length - RECOMPUTED)
    (work,) = scheduler.plan()
    assert work.tokens == tuple(map(ord, cached[admission.keep : length]))
    assert work.wants_logits


# Steps


def test_a_long_prompt_is_cut_to_the_budget() -> None:
    scheduler = Scheduler(1, 4)
    scheduler.add(sequence("A", "abcdefghij"))
    steps = [step(scheduler) for _ in range(4)]
    assert [len(work.tokens) for (work,) in steps] == [4, 4, 2, 1]
    assert [work.start for (work,) in steps] == [0, 4, 8, 10]
    assert [work.wants_logits for (work,) in steps] == [False, False, True, True]


def test_decoding_is_never_starved_by_prompts() -> None:
    scheduler = Scheduler(3, 8)
    scheduler.add(sequence("talks", "a"))
    step(scheduler)
    scheduler.add(sequence("long", "b" * 100))
    scheduler.add(sequence("longer", "c" * 100))
    for _ in range(20):
        work = step(scheduler)
        assert names(work)[0] == "talks"
        assert sum(len(item.tokens) for item in work) == 8


def test_prompts_are_worked_off_oldest_first() -> None:
    scheduler = Scheduler(2, 4)
    scheduler.add(sequence("A", "aaaaaa"))
    scheduler.add(sequence("B", "bbbbbb"))
    assert [names(step(scheduler)) for _ in range(3)] == [["A"], ["A", "B"], ["A", "B"]]


def test_what_is_left_of_the_budget_goes_to_the_next_prompt() -> None:
    scheduler = Scheduler(2, 4)
    scheduler.add(sequence("A", "aaa"))
    scheduler.add(sequence("B", "bbb"))
    assert [len(item.tokens) for item in step(scheduler)] == [3, 1]


def test_more_decodes_than_budget_still_all_decode() -> None:
    scheduler = Scheduler(3, 3)
    for name in "ABC":
        scheduler.add(sequence(name, "a"))
    step(scheduler)
    assert [len(item.tokens) for item in step(scheduler)] == [1, 1, 1]


# Ends


def test_cancelled_while_waiting() -> None:
    scheduler = Scheduler(1, 512)
    scheduler.add(sequence("A"))
    scheduler.add(sequence("B"))
    step(scheduler)
    scheduler.release(scheduler.sequences[1])
    assert names(step(scheduler)) == ["A"]
    assert scheduler.find("B") is None


def test_cancelled_in_the_middle_of_its_prompt() -> None:
    scheduler = Scheduler(1, 4)
    scheduler.add(sequence("A", "abcd" + REST))
    step(scheduler)
    scheduler.release(scheduler.sequences[0])
    assert not scheduler.slots[0].busy
    assert scheduler.slots[0].tokens == [*map(ord, "abcd")]
    scheduler.add(sequence("B", "abcd" + REST))
    (work,) = step(scheduler)
    assert work.start == 4


def test_cancelled_while_it_talks_the_last_choice_is_not_in_the_cache() -> None:
    scheduler = Scheduler(1, 512)
    scheduler.add(sequence("A", "ab"))
    step(scheduler)
    step(scheduler)
    running = scheduler.sequences[0]
    assert running.completion_tokens == 2
    scheduler.release(running)
    assert scheduler.slots[0].tokens == [*map(ord, "ab"), CHOSEN]


def test_the_next_turn_of_a_conversation_continues_its_answer() -> None:
    scheduler = Scheduler(2, 512)
    scheduler.add(sequence("turn 1", [1, 2, 3]))
    for _ in range(3):
        step(scheduler)
    scheduler.release(scheduler.sequences[0])
    scheduler.add(sequence("turn 2", [1, 2, 3, CHOSEN, CHOSEN, *map(ord, REST)]))
    (admission,) = admit_all(scheduler)
    assert admission.keep == 5


def test_a_cleared_slot_holds_nothing() -> None:
    scheduler = with_cached(("abcd", "local"), ("abcd", "local"))
    scheduler.clear({0, 1})
    scheduler.add(sequence("A", "abcd"))
    assert admit_all(scheduler)[0].keep == 0


# Prefixes


def test_common_prefix() -> None:
    assert common_prefix([1, 2, 3], [1, 2, 4]) == 2
    assert common_prefix([1, 2], [1, 2, 3]) == 2
    assert common_prefix([], [1]) == 0


def test_no_free_slot() -> None:
    assert choose([Slot(0, busy=True)], [1], "local") is None


def test_reusable_needs_the_scope() -> None:
    slot = Slot(0, tokens=[1, 2, 3], scope="a")
    prompt = [1, 2, 3, *map(ord, REST)]
    assert reusable(slot, prompt, "a") == 3
    assert reusable(slot, prompt, "b") == 0


class Scheduling(RuleBasedStateMachine):
    """Any order of arrivals, steps, ends and failures."""

    BUDGET = 6
    SLOTS = 3

    def __init__(self) -> None:
        super().__init__()
        self.scheduler = Scheduler(self.SLOTS, self.BUDGET)
        self.numbers = itertools.count()
        self.waiting_order: list[str] = []
        self.there: set[str] = set()

    @rule(
        prompt=st.lists(st.integers(0, 2), min_size=1, max_size=20),
        scope=st.sampled_from(["ours", "theirs"]),
    )
    def arrive(self, prompt: list[int], scope: str) -> None:
        name = str(next(self.numbers))
        self.scheduler.add(sequence(name, prompt, scope))
        self.waiting_order.append(name)
        self.there.add(name)

    @rule(memory_can_be_cut=st.booleans())
    def admit(self, memory_can_be_cut: bool) -> None:
        before = {slot.index: (slot.scope, [*slot.tokens]) for slot in self.scheduler.slots}
        for admission in self.scheduler.admissions():
            request = admission.sequence.request
            scope, held = before[admission.slot]
            assert admission.keep < len(request.prompt)
            assert list(request.prompt[: admission.keep]) == held[: admission.keep]
            assert admission.keep == 0 or scope == request.cache_scope
            assert self.waiting_order.pop(0) == request.request_id
            kept = admission.keep if memory_can_be_cut else 0
            self.scheduler.admit(admission, kept=kept, now=0.0)

    def planned(self) -> tuple[Work, ...]:
        work = self.scheduler.plan()
        assert work == self.scheduler.plan()
        assert len({item.slot for item in work}) == len(work)
        decoding = [s for s in self.scheduler.sequences if s.phase is Phase.DECODE]
        assert [item.sequence for item in work[: len(decoding)]] == decoding
        assert sum(len(item.tokens) for item in work) <= max(self.BUDGET, len(decoding))
        for item in work:
            assert item.tokens
            known = item.sequence.tokens
            assert list(item.tokens) == known[item.start : item.start + len(item.tokens)]
            assert item.start == item.sequence.committed == len(self.slot_of(item).tokens)
            assert item.wants_logits == (item.start + len(item.tokens) == len(known))
        running = [s for s in self.scheduler.sequences if s.phase is not Phase.WAITING]
        assert bool(work) == bool(running)
        return work

    def slot_of(self, work: Work) -> Slot:
        return self.scheduler.slots[work.slot]

    @rule(tokens=st.lists(st.integers(0, 2), min_size=SLOTS, max_size=SLOTS), ends=st.booleans())
    def decode(self, tokens: list[int], ends: bool) -> None:
        for item, token in zip(self.planned(), tokens, strict=False):
            self.scheduler.commit(item)
            if item.wants_logits and ends:
                self.release(item.sequence)
            elif item.wants_logits:
                item.sequence.tokens.append(token)

    @rule()
    def decode_fails(self) -> None:
        work = self.planned()
        for item in work:
            self.release(item.sequence)
        self.scheduler.clear({item.slot for item in work})
        assert all(self.slot_of(item).tokens == [] for item in work)

    @precondition(lambda self: self.there)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.there)))
        found = self.scheduler.find(name)
        assert found is not None
        if found.phase is Phase.WAITING:
            self.waiting_order.remove(name)
        self.release(found)

    def release(self, ending: Sequence) -> None:
        self.scheduler.release(ending)
        self.there.remove(ending.request.request_id)

    @invariant()
    def a_slot_belongs_to_one(self) -> None:
        taken = [s.slot for s in self.scheduler.sequences if s.slot is not None]
        assert len(taken) == len(set(taken))
        assert {slot.index for slot in self.scheduler.slots if slot.busy} == set(taken)

    @invariant()
    def a_slot_holds_what_its_sequence_committed(self) -> None:
        for known in self.scheduler.sequences:
            assert known.committed <= len(known.tokens)
            assert tuple(known.tokens[: known.prompt_tokens]) == known.request.prompt
            if known.phase is Phase.WAITING:
                assert known.slot is None
                continue
            assert known.slot is not None
            slot = self.scheduler.slots[known.slot]
            assert slot.scope == known.request.cache_scope
            assert slot.tokens == known.tokens[: known.committed]
            if known.phase is Phase.DECODE:
                assert known.committed == len(known.tokens) - 1

    @invariant()
    def nobody_is_lost(self) -> None:
        assert {s.request.request_id for s in self.scheduler.sequences} == self.there

    def teardown(self) -> None:
        """Left alone, everyone who came is served and leaves."""
        for _ in range(20 * len(self.there)):
            self.admit(memory_can_be_cut=True)
            self.decode([0] * self.SLOTS, ends=True)
        assert not self.there


Scheduling.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestScheduling = Scheduling.TestCase
