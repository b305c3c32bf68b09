"""The scheduler: who starts where, what a step does, and what stays true throughout."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, replace
from random import Random
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from freehold.domain.chat import AdapterUse, GenerateRequest
from freehold.domain.engine import CacheLayout
from freehold.engines.llamacpp.batching import Work
from freehold.engines.llamacpp.pace import Pace
from freehold.engines.llamacpp.prefix import (
    RECOMPUTED,
    WORTH_SAVING,
    InStream,
    OnShelf,
    Shelf,
    Stream,
)
from freehold.engines.llamacpp.scheduler import (
    HEADROOM,
    TURN_STEPS,
    Admission,
    EvictIdle,
    Limits,
    Move,
    Preempt,
    Scheduler,
    Step,
)
from freehold.engines.llamacpp.sequence import Phase, PrefixKey, Sequence

if TYPE_CHECKING:
    from freehold.engines.llamacpp.binding import Context
    from freehold.engines.llamacpp.cache import Cache

CHOSEN = 77  # the token every sequence "chooses"
REST = "-" * RECOMPUTED  # the end of a prompt, computed anew whatever is cached
LORA = (AdapterUse("lora"),)

_clock = itertools.count()


class SteadyPace(Pace):
    """A machine on which every step may read ``size`` tokens, and guesses of two pay."""

    def __init__(self, size: int) -> None:
        super().__init__(0.2)
        self.size = size

    def chunk(self, rows: int, readers: int = 1) -> int:
        return self.size

    def draft_length(self, rows: int, chance: float, limit: int, *, apart: bool) -> int:
        return min(2, max(0, limit))


def sequence(
    name: str,
    prompt: str | Iterable[int] = "abc",
    *,
    scope: str = "local",
    adapters: tuple[AdapterUse, ...] = (),
    max_tokens: int = 100,
    prompt_logprobs: int | None = None,
) -> Sequence:
    """A request whose prompt is spelled; each letter is one token. It arrives now."""
    tokens = tuple(map(ord, prompt)) if isinstance(prompt, str) else tuple(prompt)
    request = GenerateRequest(
        name,
        tokens,
        max_tokens,
        cache_scope=scope,
        adapters=adapters,
        prompt_logprobs=prompt_logprobs,
    )
    return Sequence(request, arrived=float(next(_clock)))


def scheduler_of(
    *arrived: Sequence,
    parallel: int = 2,
    chunk: int = 512,
    layout: CacheLayout = CacheLayout.STREAMS,
    streams: int | None = None,
    context: int = 2048,
    cells: int = 4096,
    batch: int = 512,
    outputs: int = 64,
    cuttable: bool = True,
    drafts: bool = False,
    shelf: int = 0,
) -> Scheduler:
    limits = Limits(
        streams=streams or parallel,
        parallel=parallel,
        context=context,
        cells=cells,
        batch=batch,
        outputs=outputs,
        layout=layout,
        cuttable=cuttable,
        drafts=drafts,
    )
    scheduler = Scheduler(limits, SteadyPace(chunk), Shelf(shelf, cuttable=limits.cuttable))
    for each in arrived:
        scheduler.add(each)
    return scheduler


def names(items: Iterable[Sequence | Work | Admission]) -> list[str]:
    return [
        (item if isinstance(item, Sequence) else item.sequence).request.request_id for item in items
    ]


def admit_all(scheduler: Scheduler) -> list[Admission]:
    admissions = []
    while (admission := scheduler.next_admission()) is not None:
        scheduler.admit(admission, kept=admission.reuse.keep, now=1.0)
        admissions.append(admission)
    return admissions


def decode(scheduler: Scheduler, says: int = CHOSEN) -> Step:
    """Plan, commit, and choose a token wherever there are logits."""
    step = scheduler.plan()
    for work in step.work:
        scheduler.commit(work, len(work.tokens) - len(work.draft))
        if work.completes:
            work.sequence.tokens.append(says)
            work.sequence.drafter.append(says)
            work.sequence.first_token_at = 1.0
    scheduler.stepped(step)
    return step


def turn(scheduler: Scheduler, says: int = CHOSEN) -> Step:
    """What the loop does at every turn."""
    admit_all(scheduler)
    move = scheduler.due_move()
    if move is not None:
        scheduler.moved(move)
    return decode(scheduler, says)


def read_and_gone(scheduler: Scheduler, *sequences: Sequence) -> None:
    """They have been read, one after the other, and have gone; what they committed stays."""
    for each in sequences:
        scheduler.add(each)
    while any(each.phase is not Phase.DECODE for each in sequences):
        turn(scheduler)
    for each in sequences:
        scheduler.release(each)


# Admission


def test_requests_start_in_order_of_arrival() -> None:
    scheduler = scheduler_of(*map(sequence, "ABCD"))
    assert names(admit_all(scheduler)) == ["A", "B"]
    assert admit_all(scheduler) == []
    scheduler.release(scheduler.running[1])
    assert names(admit_all(scheduler)) == ["C"]


def test_asking_changes_nothing() -> None:
    scheduler = scheduler_of(sequence("A"))
    assert scheduler.next_admission() == scheduler.next_admission()
    assert scheduler.plan().work == ()
    admit_all(scheduler)
    first, second = scheduler.plan(), scheduler.plan()
    assert [len(work.tokens) for work in first.work] == [3]
    assert [len(work.tokens) for work in second.work] == [3]


def test_a_backlog_of_unread_prompt_holds_others_back() -> None:
    scheduler = scheduler_of(sequence("A", "a" * 200), sequence("B", "b" * 200), chunk=64)
    running = []
    for _ in range(5):
        turn(scheduler)
        running.append(names(scheduler.running))
    # 200 are 64, 64, 64 and 8: B comes when the last 8 leave time for it.
    assert running == [["A"], ["A"], ["A"], ["A", "B"], ["A", "B"]]


def test_a_short_prompt_overtakes_a_long_one() -> None:
    long, longer, short = (
        sequence("long", "a" * 900),
        sequence("longer", "b" * 900),
        sequence("short", "c" * 20),
    )
    scheduler = scheduler_of(long, longer, short, parallel=4, chunk=64)
    assert names(turn(scheduler).work) == ["long", "short"]
    assert short.phase is Phase.DECODE
    assert longer.phase is Phase.WAITING


def test_short_prompts_overtake_one_at_a_time() -> None:
    long = sequence("A", "a" * 900)
    shorts = [sequence(name, name * 20) for name in "BCD"]
    scheduler = scheduler_of(long, *shorts, parallel=8, chunk=64)
    admit_all(scheduler)
    assert names(scheduler.running) == ["A", "B"]
    for number, short in enumerate(shorts):
        turn(scheduler)
        assert short.phase is Phase.DECODE
        assert all(later.phase is Phase.WAITING for later in shorts[number + 1 :])


def test_a_prompt_of_middling_length_does_not_overtake() -> None:
    scheduler = scheduler_of(sequence("A", "a" * 900), sequence("B", "b" * 33), chunk=64)
    assert names(admit_all(scheduler)) == ["A"]


def test_what_is_cached_of_a_long_prompt_makes_it_short() -> None:
    before = sequence("before", "b" * 600)
    scheduler = scheduler_of(before, parallel=3, chunk=64)
    while before.phase is not Phase.DECODE:
        turn(scheduler)
    scheduler.add(sequence("A", "a" * 900))
    scheduler.add(sequence("B", "b" * 600 + "." * 20))
    assert names(admit_all(scheduler)) == ["A", "B"]


def test_one_whose_grammar_is_compiled_waits_and_holds_nobody_back() -> None:
    first, second = sequence("first"), sequence("second")
    first.phase = Phase.COMPILING
    scheduler = scheduler_of(first, second, parallel=1)
    assert names(admit_all(scheduler)) == ["second"]
    first.phase = Phase.WAITING
    scheduler.release(second)
    assert names(admit_all(scheduler)) == ["first"]


def test_nobody_overtakes_one_that_waits_for_room() -> None:
    scheduler = scheduler_of(
        sequence("A", "a" * 200),
        sequence("B", "b" * 200),
        sequence("C", "c"),
        parallel=3,
        layout=CacheLayout.UNIFIED,
        streams=8,
        cells=300,
    )
    turn(scheduler)
    assert names(scheduler.running) == ["A"]
    scheduler.release(scheduler.running[0])
    turn(scheduler)
    assert names(scheduler.running) == ["B", "C"]


# Chunks


@pytest.mark.parametrize("length", [1, 7, 8, 9, 63, 64, 65, 71, 72, 73, 127, 129, 200])
def test_a_prompt_is_read_in_chunks_the_last_of_which_is_not_too_small(length: int) -> None:
    scheduler = scheduler_of(sequence("A", "a" * length), chunk=64)
    steps: list[Work] = []
    while not steps or not steps[-1].completes:
        steps.extend(turn(scheduler).work)
    assert [work.start for work in steps] == [
        sum(len(before.tokens) for before in steps[:number]) for number in range(len(steps))
    ]
    assert sum(len(work.tokens) for work in steps) == length
    assert all(len(work.tokens) <= 64 for work in steps)
    assert len(steps[-1].tokens) >= min(RECOMPUTED, length)
    assert [work.outputs for work in steps] == [0] * (len(steps) - 1) + [1]


def test_a_prompt_shares_the_batch_with_those_who_decode() -> None:
    scheduler = scheduler_of(
        sequence("talks", "a"), sequence("reads", "b" * 100), chunk=999, batch=32
    )
    turn(scheduler)
    assert [len(work.tokens) for work in turn(scheduler).work] == [1, 31]


# Fairness


def test_who_decodes_decodes_in_every_step() -> None:
    scheduler = scheduler_of(sequence("talks", "a"), parallel=3, chunk=64)
    turn(scheduler)
    scheduler.add(sequence("long", "b" * 900))
    scheduler.add(sequence("longer", "c" * 900))
    for _ in range(30):
        step = turn(scheduler)
        assert "talks" in names(work for work in step.work if work.decodes)
        assert step.prompt_tokens or all(work.decodes for work in step.work)


def test_a_long_prompt_is_read_however_many_short_ones_come() -> None:
    long = sequence("long", "a" * 900)
    scheduler = scheduler_of(long, parallel=3, chunk=64)
    turn(scheduler)
    for number in itertools.count():
        scheduler.add(sequence(str(number), [number] * 30))
        before = long.committed
        turn(scheduler)
        if long.phase is Phase.DECODE:
            break
        assert long.committed - before >= 24  # half a step, less what keeps the end whole
        for other in scheduler.sequences:
            if other is not long and other.phase is Phase.DECODE:
                scheduler.release(other)


def test_sequences_of_different_adapters_never_share_a_step() -> None:
    scheduler = scheduler_of(sequence("plain"), sequence("lora", adapters=LORA))
    admit_all(scheduler)
    for _ in range(3 * TURN_STEPS):
        step = decode(scheduler)
        assert {work.sequence.request.adapters for work in step.work} == {step.adapters}


def test_groups_of_adapters_take_turns_of_bounded_length() -> None:
    scheduler = scheduler_of(
        sequence("plain"), sequence("lora", adapters=LORA), sequence("other"), parallel=3
    )
    admit_all(scheduler)
    turns = [tuple(names(decode(scheduler).work)) for _ in range(4 * TURN_STEPS)]
    lengths = [(who, len([*same])) for who, same in itertools.groupby(turns)]
    assert lengths == 2 * [(("plain", "other"), TURN_STEPS), (("lora",), TURN_STEPS)]


def test_a_group_that_has_ended_gives_up_its_turn() -> None:
    plain, lora = sequence("plain"), sequence("lora", adapters=LORA)
    scheduler = scheduler_of(plain, lora)
    assert names(turn(scheduler).work) == ["plain"]
    scheduler.release(plain)
    assert names(turn(scheduler).work) == ["lora"]


def test_alone_a_group_has_every_turn() -> None:
    scheduler = scheduler_of(sequence("A", adapters=LORA))
    assert all(turn(scheduler).rows for _ in range(3 * TURN_STEPS) if scheduler.running)


# Streams


def test_who_runs_is_in_the_first_streams() -> None:
    scheduler = scheduler_of(*map(sequence, "ABC"), parallel=4)
    assert [admission.target for admission in admit_all(scheduler)] == [0, 1, 2]


def test_a_gap_is_left_to_whoever_comes_next() -> None:
    scheduler = scheduler_of(*map(sequence, "ABC"), parallel=4)
    turn(scheduler)
    scheduler.release(scheduler.running[0])
    scheduler.add(sequence("D"))
    assert [admission.target for admission in admit_all(scheduler)] == [0]
    assert scheduler.due_move() is None


def test_a_gap_for_which_nobody_comes_is_closed_after_one_step() -> None:
    scheduler = scheduler_of(*map(sequence, "ABC"), parallel=4)
    turn(scheduler)
    a, _, c = scheduler.running
    scheduler.release(a)
    assert scheduler.due_move() is None
    decode(scheduler)
    move = scheduler.due_move()
    assert move == Move(2, 0, shelve=False)
    scheduler.moved(move)
    assert c.stream == 0
    assert scheduler.streams[0].content.tolist() == c.tokens.array[: c.committed].tolist()
    assert scheduler.streams[2].length == 0
    assert scheduler.due_move() is None


def test_in_a_unified_cache_a_gap_costs_nothing() -> None:
    scheduler = scheduler_of(
        *map(sequence, "ABC"), parallel=4, layout=CacheLayout.UNIFIED, streams=8
    )
    turn(scheduler)
    scheduler.release(scheduler.running[0])
    assert [scheduler.due_move() for _ in range(3)] == [None] * 3


def test_a_conversation_goes_on_where_it_was() -> None:
    scheduler = scheduler_of(sequence("A", "a" * 40), parallel=3)
    turn(scheduler)
    read_and_gone(scheduler, sequence("B", "b" * 40))
    scheduler.add(sequence("B again", "b" * 40 + REST))
    (admission,) = admit_all(scheduler)
    assert admission.target == 1
    assert admission.reuse.source == InStream(1)
    assert admission.sequence.cached_tokens == 40


def test_a_prefix_too_far_up_is_copied_down() -> None:
    scheduler = scheduler_of(parallel=3)
    read_and_gone(
        scheduler, sequence("A", "a" * 40), sequence("B", "b" * 40), sequence("C", "c" * 40)
    )
    scheduler.add(sequence("C again", "c" * 40 + REST))
    (admission,) = admit_all(scheduler)
    assert admission.reuse.source == InStream(2)
    assert admission.target in (0, 1)
    assert admission.sequence.cached_tokens == 40


def test_the_prefix_of_a_running_sequence_is_copied() -> None:
    scheduler = scheduler_of(sequence("A", "a" * 40))
    turn(scheduler)
    scheduler.add(sequence("B", "a" * 40 + REST))
    (admission,) = admit_all(scheduler)
    assert (admission.target, admission.reuse.source) == (1, InStream(0))
    assert admission.reuse.keep == 40
    assert scheduler.streams[0].owner is scheduler.running[0]


def test_a_conversation_is_not_given_up_for_a_stranger_with_the_same_first_words() -> None:
    """Every prompt of a chat template begins alike: that is no reason to take another's place."""
    scheduler = scheduler_of(parallel=4, shelf=1000)
    read_and_gone(scheduler, sequence("A", "<system>" + "a" * 400))
    scheduler.add(sequence("B", "<system>" + "b" * 50))
    (admission,) = admit_all(scheduler)
    assert admission.target != 0 or admission.shelve


def test_what_must_go_is_shelved_if_it_is_nowhere_else() -> None:
    scheduler = scheduler_of(parallel=1, shelf=1000)
    read_and_gone(scheduler, sequence("A", "a" * 40))
    scheduler.add(sequence("B", "b" * 40))
    admission = scheduler.next_admission()
    assert admission is not None
    assert admission.shelve
    stream = scheduler.streams[0]
    assert stream.key is not None
    scheduler.shelf.put(stream.content, stream.key, 40)
    admission = scheduler.next_admission()
    assert admission is not None
    assert not admission.shelve


def test_what_is_short_is_not_shelved() -> None:
    scheduler = scheduler_of(parallel=1, shelf=1000)
    read_and_gone(scheduler, sequence("A", "a" * (WORTH_SAVING - 1)))
    scheduler.add(sequence("B", "b" * 40))
    (admission,) = admit_all(scheduler)
    assert not admission.shelve


def test_a_prefix_comes_back_from_the_shelf() -> None:
    scheduler = scheduler_of(parallel=1, shelf=1000)
    key = PrefixKey("local", ())
    item = scheduler.shelf.put(np.array([ord("a")] * 40, dtype=np.int32), key, 40)
    scheduler.add(sequence("A", "a" * 40 + REST))
    (admission,) = admit_all(scheduler)
    assert admission.reuse.source == OnShelf(item.number)
    assert admission.sequence.cached_tokens == 40


# Prefixes


def test_followers_wait_for_what_another_is_computing() -> None:
    leader = sequence("leader", "a" * 200 + "1" * 8)
    followers = [sequence(name, "a" * 200 + name * 8) for name in "23"]
    scheduler = scheduler_of(leader, *followers, parallel=3, chunk=100)
    turn(scheduler)
    assert names(scheduler.running) == ["leader"]
    while leader.phase is not Phase.DECODE:
        turn(scheduler)
    turn(scheduler)
    assert names(scheduler.running) == ["leader", "2", "3"]
    assert [follower.cached_tokens for follower in followers] == [200, 200]


def test_a_follower_does_not_wait_for_a_few_tokens() -> None:
    common = "a" * (WORTH_SAVING - 1)
    scheduler = scheduler_of(
        sequence("A", common + "1" * 40), sequence("B", common + "2" * 40), chunk=512
    )
    assert names(admit_all(scheduler)) == ["A", "B"]


def test_others_pass_a_follower_that_waits() -> None:
    scheduler = scheduler_of(
        sequence("leader", "a" * 200),
        sequence("follower", "a" * 200),
        sequence("stranger", "b" * 20),
        parallel=3,
    )
    assert names(admit_all(scheduler)) == ["leader", "stranger"]


def test_when_the_leader_is_cancelled_its_follower_goes_on_from_there() -> None:
    leader, follower = sequence("leader", "a" * 200), sequence("follower", "a" * 200)
    scheduler = scheduler_of(leader, follower, chunk=64)
    turn(scheduler)
    scheduler.release(leader)
    admit_all(scheduler)
    assert names(scheduler.running) == ["follower"]
    assert follower.cached_tokens == 64


def test_when_a_leader_is_cancelled_unread_its_follower_computes_all() -> None:
    leader, follower = sequence("leader", "a" * 200), sequence("follower", "a" * 200)
    scheduler = scheduler_of(leader, follower)
    admit_all(scheduler)
    scheduler.release(leader)
    turn(scheduler)
    assert follower.cached_tokens == 0
    assert follower.phase is Phase.DECODE


@pytest.mark.parametrize(
    ("scope", "adapters"),
    [("theirs", ()), ("local", LORA), ("local", (AdapterUse("lora", 0.5),))],
)
def test_nothing_is_shared_across_scopes_and_adapters(
    scope: str, adapters: tuple[AdapterUse, ...]
) -> None:
    scheduler = scheduler_of(parallel=3, shelf=1000)
    read_and_gone(scheduler, sequence("idle", "a" * 100))
    scheduler.shelf.put(np.array([ord("a")] * 90, dtype=np.int32), PrefixKey("local", ()), 90)
    scheduler.add(sequence("running", "a" * 100 + "b" * 40))
    admit_all(scheduler)
    other = sequence("other", "a" * 100 + "b" * 40, scope=scope, adapters=adapters)
    scheduler.add(other)
    admit_all(scheduler)
    assert other in scheduler.running  # it did not wait for what it may not have
    assert other.cached_tokens == other.committed == 0


def test_a_place_taken_over_forgets_what_it_held() -> None:
    scheduler = scheduler_of(parallel=1)
    read_and_gone(scheduler, sequence("A", "a" * 40, scope="theirs"))
    scheduler.add(sequence("B", "b" * 40, scope="ours"))
    admit_all(scheduler)
    (stream,) = scheduler.streams
    assert stream.content.tolist() == []
    assert stream.key == PrefixKey("ours", ())


def test_the_cache_may_keep_less_than_hoped() -> None:
    scheduler = scheduler_of(parallel=1)
    read_and_gone(scheduler, sequence("A", "a" * 40))
    scheduler.add(sequence("B", "a" * 40 + REST))
    admission = scheduler.next_admission()
    assert admission is not None
    assert admission.reuse.keep == 40
    scheduler.admit(admission, kept=0, now=1.0)
    (work,) = scheduler.plan().work
    assert (work.start, len(work.tokens)) == (0, 40 + RECOMPUTED)
    assert admission.sequence.cached_tokens == 0


@pytest.mark.parametrize("length", [1, RECOMPUTED - 1, RECOMPUTED, RECOMPUTED + 1, 20])
def test_the_end_of_a_prompt_is_always_decoded(length: int) -> None:
    cached = "abcdefghijklmnopqrst"
    scheduler = scheduler_of(parallel=1)
    read_and_gone(scheduler, sequence("A", cached))
    scheduler.add(sequence("B", cached[:length]))
    (admission,) = admit_all(scheduler)
    assert admission.reuse.keep == max(0, length - RECOMPUTED)
    (work,) = scheduler.plan().work
    assert work.tokens.tolist() == [*map(ord, cached[admission.reuse.keep : length])]
    assert work.outputs == 1


def test_the_next_turn_of_a_conversation_continues_its_answer() -> None:
    scheduler = scheduler_of(sequence("turn 1", [1, 2, 3]))
    for _ in range(3):
        turn(scheduler)
    scheduler.release(scheduler.running[0])
    scheduler.add(sequence("turn 2", [1, 2, 3, CHOSEN, CHOSEN, *map(ord, REST)]))
    (admission,) = admit_all(scheduler)
    assert admission.sequence.cached_tokens == 5


def test_a_stream_that_is_lost_holds_nothing() -> None:
    scheduler = scheduler_of(parallel=1)
    read_and_gone(scheduler, sequence("A", "a" * 40))
    scheduler.lost([0])
    scheduler.add(sequence("B", "a" * 40))
    (admission,) = admit_all(scheduler)
    assert admission.reuse.keep == 0


# Memory that cannot be cut


def checkpoint(scheduler: Scheduler, one: Sequence) -> None:
    """Do as the loop does when a sequence has come to a place agreed on."""
    if one.committed in one.checkpoints and one.stream is not None:
        one.checkpoints.discard(one.committed)
        stream = scheduler.streams[one.stream]
        for item in scheduler.shelf.displaced(stream.content, one.key, one.committed):
            scheduler.shelf.remove(item.number)
        scheduler.shelf.put(stream.content, one.key, one.committed)


def turn_with_checkpoints(scheduler: Scheduler) -> Step:
    step = turn(scheduler)
    for work in step.work:
        if not work.completes:
            checkpoint(scheduler, work.sequence)
    return step


@pytest.mark.parametrize(
    ("prompt", "cached"),
    [
        ("a" * 40 + "x" * 10 + "z" * 20, 50),
        ("a" * 40 + "y" * 20, 0),
        ("a" * 40, 0),
        ("a" * 40 + "x" * 10, 0),
    ],
)
def test_uncuttable_memory_serves_only_what_continues_all_of_it(prompt: str, cached: int) -> None:
    scheduler = scheduler_of(parallel=1, cuttable=False)
    read_and_gone(scheduler, sequence("A", "a" * 40 + "x" * 10))
    scheduler.add(sequence("B", prompt))
    (admission,) = admit_all(scheduler)
    assert admission.sequence.cached_tokens == cached


def test_the_end_of_a_prompt_is_always_decoded_of_uncuttable_memory_too() -> None:
    scheduler = scheduler_of(parallel=1, cuttable=False)
    read_and_gone(scheduler, sequence("A", "a" * 40))
    scheduler.add(sequence("B", "a" * 40 + "b" * (RECOMPUTED - 1)))
    admit_all(scheduler)
    (work,) = scheduler.plan().work
    assert len(work.tokens) >= RECOMPUTED


def test_a_repeated_prompt_starts_from_its_checkpoint() -> None:
    scheduler = scheduler_of(parallel=1, cuttable=False, shelf=1000, chunk=64)
    first = sequence("first", "a" * 100)
    scheduler.add(first)
    chunks = []
    while first.phase is not Phase.DECODE:
        chunks += [len(work.tokens) for work in turn_with_checkpoints(scheduler).work]
    assert chunks == [64, 28, RECOMPUTED]
    scheduler.release(first)
    again = sequence("again", "a" * 100)
    scheduler.add(again)
    admit_all(scheduler)
    assert again.cached_tokens == 100 - RECOMPUTED


def test_siblings_agree_on_a_checkpoint_and_share_it() -> None:
    leader, follower = (
        sequence("leader", "a" * 100 + "1" * 60),
        sequence("follower", "a" * 100 + "2" * 60),
    )
    scheduler = scheduler_of(leader, follower, cuttable=False, shelf=1000, chunk=80)
    starts = []
    while leader.phase is not Phase.DECODE:
        starts += [
            work.start for work in turn_with_checkpoints(scheduler).work if work.sequence is leader
        ]
    assert 100 in starts
    while follower.phase is not Phase.DECODE:
        turn_with_checkpoints(scheduler)
    assert follower.cached_tokens == 100


def test_a_checkpoint_is_of_use_after_a_longer_one_was_saved() -> None:
    """Uncuttable memory serves only as a whole: a longer prefix does not replace a shorter."""
    scheduler = scheduler_of(parallel=1, cuttable=False, shelf=1000, chunk=512)
    leader, follower = (
        sequence("leader", "a" * 100 + "1" * 60),
        sequence("follower", "a" * 100 + "2" * 60),
    )
    scheduler.add(leader)
    scheduler.add(follower)
    while leader.phase is not Phase.DECODE:
        turn_with_checkpoints(scheduler)
    scheduler.release(leader)
    turn_with_checkpoints(scheduler)
    assert follower.cached_tokens == 100


def test_a_sibling_inside_the_end_of_a_prompt_does_not_cut_it() -> None:
    leader = sequence("leader", "a" * 100)
    follower = sequence("follower", "a" * 97 + "2" * 60)
    scheduler = scheduler_of(leader, follower, cuttable=False, shelf=1000, chunk=512)
    while leader.phase is not Phase.DECODE:
        last = [w for w in turn_with_checkpoints(scheduler).work if w.sequence is leader]
    assert len(last[-1].tokens) >= RECOMPUTED


@pytest.mark.parametrize(
    ("layout", "learnt"), [(CacheLayout.STREAMS, False), (CacheLayout.UNIFIED, True)]
)
def test_a_step_that_ran_as_several_batches_says_nothing_of_one(
    layout: CacheLayout, learnt: bool
) -> None:
    """In streams, guesses of one sequence beside another's single row."""
    scheduler = scheduler_of(sequence("A", [1, 2, 3, 1, 2]), sequence("B", "xyz"), layout=layout)
    turn(scheduler)
    scheduler.pace = Pace(0.2)
    even = scheduler.plan()
    assert {len(work.tokens) for work in even.work} == {1}
    first = even.work[0]
    uneven = Step((replace(first, tokens=np.array([1, 2, 3], dtype=np.int32)), *even.work[1:]))
    scheduler.timed(uneven, 9.0)
    assert (scheduler.pace.decode_seconds(uneven.rows) > 0) is learnt
    scheduler.timed(even, 0.1)
    assert scheduler.pace.decode_seconds(even.rows) > 0


def test_uncuttable_memory_is_not_guessed_for() -> None:
    scheduler = scheduler_of(sequence("A", [1, 2, 3, 1, 2]), drafts=True, cuttable=False)
    turn(scheduler, says=3)
    (work,) = turn(scheduler).work
    assert len(work.draft) == 0


# Preemption


def unified(
    *arrived: Sequence, parallel: int = 3, cells: int = 4096, chunk: int = 512
) -> Scheduler:
    return scheduler_of(
        *arrived,
        parallel=parallel,
        layout=CacheLayout.UNIFIED,
        streams=parallel + 4,
        cells=cells,
        chunk=chunk,
    )


def test_relief_takes_what_is_idle_longest_first_then_the_newest() -> None:
    scheduler = unified()
    read_and_gone(scheduler, sequence("A", "a" * 40), sequence("B", "b" * 40))
    read_and_gone(scheduler, sequence("A again", "a" * 40))
    for name in "XYZ":
        scheduler.add(sequence(name, name * 3))
    admit_all(scheduler)
    given_up = []
    while (relief := scheduler.relief()) is not None:
        match relief:
            case EvictIdle(index):
                given_up.append(chr(scheduler.streams[index].content[0]))
                scheduler.lost([index])
            case Preempt(preempted):
                given_up += names([preempted])
                scheduler.preempt(preempted)
    assert given_up == ["b", "a", "Z", "Y"]
    assert names(scheduler.running) == ["X"]  # the last one is never put aside


def test_the_preempted_goes_back_to_its_old_place() -> None:
    first, second, third = map(sequence, ("first", "second", "third"))
    scheduler = unified(first, second, third, parallel=2)
    turn(scheduler)
    scheduler.preempt(second)
    assert names(scheduler.waiting) == ["second", "third"]
    scheduler.release(first)
    assert names(admit_all(scheduler)) == ["second", "third"]


def test_the_preempted_reads_all_its_tokens_and_goes_on() -> None:
    first, second = sequence("first", "a" * 20), sequence("second", "b" * 20)
    scheduler = unified(first, second)
    for _ in range(5):
        turn(scheduler)
    said = second.tokens.array.tolist()
    stream = scheduler.preempt(second)
    assert scheduler.streams[stream].length == 0
    assert (second.phase, second.stream, second.committed) == (Phase.WAITING, None, 0)
    scheduler.release(first)
    (work,) = turn(scheduler).work
    assert work.tokens.tolist() == said
    assert work.completes
    assert second.completion_tokens == 6
    assert second.phase is Phase.DECODE


def test_after_the_first_token_a_preempted_may_take_over_a_prefix() -> None:
    scheduler = unified(sequence("first", "a" * 60), sequence("second", "a" * 60 + "b" * 8))
    while not all(s.completion_tokens for s in scheduler.sequences):
        turn(scheduler)
    first, second = scheduler.running
    scheduler.preempt(second)
    scheduler.release(first)
    (admission,) = admit_all(scheduler)
    assert admission.reuse.keep == 60


def test_nobody_takes_the_room_for_which_another_was_put_aside() -> None:
    first, second = sequence("first"), sequence("second")
    scheduler = unified(first, second)
    turn(scheduler)
    scheduler.preempt(second)
    scheduler.add(sequence("third"))
    for _ in range(3):
        assert names(turn(scheduler).work) == ["first"]
    scheduler.release(first)
    assert names(admit_all(scheduler)) == ["second", "third"]


def test_what_is_shared_counts_once() -> None:
    scheduler = unified(
        sequence("A", "a" * 200), *(sequence(n, "a" * 200 + n * 8) for n in "BC"), cells=420
    )
    for _ in range(3):
        turn(scheduler)
    assert names(scheduler.running) == ["A", "B", "C"]


def test_what_is_shared_counts_for_those_who_stay() -> None:
    """The leader has gone, its tokens are still there: they are its followers' now."""
    leader, follower = sequence("leader", "a" * 200), sequence("follower", "a" * 200 + "b" * 8)
    scheduler = unified(leader, follower, cells=300)
    while follower.phase is not Phase.DECODE:
        turn(scheduler)
    scheduler.release(leader)
    scheduler.add(sequence("new", "c" * 120))
    assert admit_all(scheduler) == []


def test_a_pool_that_is_full_of_running_sequences_admits_nobody() -> None:
    scheduler = unified(
        sequence("A", "a" * 100), sequence("B", "b" * 100), cells=200 + 2 * HEADROOM - 1
    )
    assert names(admit_all(scheduler)) == ["A"]


# Ends


def test_cancelled_while_its_grammar_is_compiled() -> None:
    compiling = sequence("A")
    compiling.phase = Phase.COMPILING
    scheduler = scheduler_of(compiling, sequence("B"))
    scheduler.release(compiling)
    assert scheduler.find("A") is None
    assert names(turn(scheduler).work) == ["B"]


def test_cancelled_while_waiting() -> None:
    scheduler = scheduler_of(sequence("A"), sequence("B"), parallel=1)
    turn(scheduler)
    scheduler.release(scheduler.waiting[0])
    assert names(turn(scheduler).work) == ["A"]
    assert scheduler.find("B") is None


def test_cancelled_in_the_middle_of_its_prompt() -> None:
    scheduler = scheduler_of(sequence("A", "a" * 100), parallel=1, chunk=64)
    turn(scheduler)
    scheduler.release(scheduler.running[0])
    assert scheduler.streams[0].owner is None
    assert scheduler.streams[0].length == 64
    scheduler.add(sequence("B", "a" * 100))
    (work,) = turn(scheduler).work
    assert work.start == 64


def test_cancelled_while_it_talks_the_last_choice_is_not_in_the_cache() -> None:
    scheduler = scheduler_of(sequence("A", "ab"))
    turn(scheduler)
    turn(scheduler)
    running = scheduler.running[0]
    assert running.completion_tokens == 2
    scheduler.release(running)
    assert scheduler.streams[0].content.tolist() == [*map(ord, "ab"), CHOSEN]


def test_cancelled_while_preempted() -> None:
    scheduler = unified(sequence("A"), sequence("B"))
    turn(scheduler)
    preempted = scheduler.running[1]
    scheduler.preempt(preempted)
    scheduler.release(preempted)
    assert names(scheduler.sequences) == ["A"]


def test_a_step_that_was_given_up_is_done_again() -> None:
    scheduler = scheduler_of(sequence("A", "a" * 100), chunk=64)
    turn(scheduler)
    (running,) = scheduler.running
    scheduler.rolled_back(running, 64)
    (work,) = scheduler.plan().work
    assert (work.start, len(work.tokens)) == (64, 36)


def test_who_loses_its_place_in_the_cache_reads_its_answer_again() -> None:
    scheduler = scheduler_of(sequence("A", "a" * 20))
    for _ in range(4):
        turn(scheduler)
    (running,) = scheduler.running
    scheduler.rolled_back(running, 10)
    (work,) = turn(scheduler).work
    assert (work.start, len(work.tokens), work.decodes) == (10, 14, False)
    assert running.completion_tokens == 5


# Log-probabilities of prompts


def test_every_position_of_a_shown_prompt_is_computed() -> None:
    scheduler = scheduler_of(parallel=1, outputs=20, chunk=512)
    read_and_gone(scheduler, sequence("A", "a" * 60))
    shown = sequence("B", "a" * 60, prompt_logprobs=1)
    scheduler.add(shown)
    positions: list[int] = []
    while shown.phase is not Phase.DECODE:
        (work,) = turn(scheduler).work
        assert work.outputs <= 20
        positions += range(work.start + len(work.tokens) - work.outputs, work.start + 512)[
            : work.outputs
        ]
    assert positions == [*range(60)]
    assert shown.cached_tokens == 0


def test_a_shown_prompt_waits_for_nobody() -> None:
    scheduler = scheduler_of(sequence("A", "a" * 200), sequence("B", "a" * 200, prompt_logprobs=1))
    assert names(admit_all(scheduler)) == ["A", "B"]


# Any order of arrivals, steps, ends and failures


@dataclass(frozen=True, eq=False)
class Cell:
    """One token in the cache; ``key`` is whose."""

    token: int
    key: PrefixKey


Saved = npt.NDArray[np.object_]


class Memory:
    """What a device's cache does, without one: streams of cells, shared where one pool is.

    ``loses`` tokens fewer than asked for are kept by the next operation, as by a sliding
    window that has moved on. ``kept`` is what it told of last.
    """

    def __init__(self, streams: int, cells: int | None, *, cuttable: bool) -> None:
        self.held: list[list[Cell]] = [[] for _ in range(streams)]
        self.cells = cells  # None: each stream has its own
        self.cuttable = cuttable
        self.loses = 0

    def tokens(self, stream: int) -> list[int]:
        return [cell.token for cell in self.held[stream]]

    @property
    def layout(self) -> CacheLayout:
        return CacheLayout.STREAMS if self.cells is None else CacheLayout.UNIFIED

    @property
    def used(self) -> int:
        return len({id(cell) for cells in self.held for cell in cells})

    def has_room(self, count: int) -> bool:
        return self.cells is None or self.used + count <= self.cells

    def write(self, stream: int, start: int, tokens: Iterable[int], key: PrefixKey) -> None:
        assert start == len(self.held[stream]), "positions in the cache must be consecutive"
        self.held[stream] += [Cell(int(token), key) for token in tokens]

    def truncate(self, stream: int, keep: int) -> int:
        cells = self.held[stream]
        if keep > len(cells) or (not self.cuttable and keep < len(cells)):
            keep = 0
        if self.loses and keep:
            keep, self.loses = max(0, keep - self.loses) if self.cuttable else 0, 0
        del cells[keep:]
        return keep

    def copy(self, source: int, target: int, keep: int) -> int:
        assert source != target
        return self._put(target, self.held[source], keep)

    def save(self, stream: int) -> Saved:
        saved = np.empty(len(self.held[stream]), dtype=object)
        # Cells in host memory are others than those in the pool.
        saved[:] = [Cell(cell.token, cell.key) for cell in self.held[stream]]
        return saved

    def saved_size(self, stream: int) -> int:
        return len(self.held[stream])

    def restore(self, stream: int, blob: Saved, keep: int) -> int:
        self.held[stream] = []
        if not self.has_room(len(blob)):
            return 0
        return self._put(stream, [Cell(cell.token, cell.key) for cell in blob], keep)

    def _put(self, stream: int, cells: Iterable[Cell], keep: int) -> int:
        copied = [*cells]
        self.held[stream] = copied
        return self.truncate(stream, keep)


PARALLEL, CONTEXT, CELLS, BATCH, OUTPUTS, SHELF = 3, 180, 260, 60, 20, 300
SHARED = ([1] * 40 + [2] * 60, [1] * 40 + [3, 1, 2] * 20, [2, 3] * 45)


@pytest.mark.native  # the cache's neighbour is the binding
class Scheduling(RuleBasedStateMachine):
    """The real cache and scheduler over a memory that only pretends."""

    scheduler: Scheduler
    memory: Memory
    cache: Cache

    def __init__(self) -> None:
        super().__init__()
        self.numbers = itertools.count()
        self.there: dict[str, Sequence] = {}
        self.shown: dict[str, set[int]] = {}
        self.since_stepped: dict[str, int] = {}

    @initialize(unified=st.sampled_from([False, True, True]), cuttable=st.booleans())
    def begin(self, unified: bool, cuttable: bool) -> None:
        from freehold.engines.llamacpp.cache import Cache

        streams = 6 if unified else PARALLEL
        limits = Limits(
            streams=streams,
            parallel=PARALLEL,
            context=CONTEXT,
            cells=CELLS,
            batch=BATCH,
            outputs=OUTPUTS,
            layout=CacheLayout.UNIFIED if unified else CacheLayout.STREAMS,
            cuttable=cuttable,
        )
        self.memory = Memory(streams, limits.cells if unified else None, cuttable=cuttable)
        self.scheduler = Scheduler(limits, Pace(0.2), Shelf(SHELF, cuttable=limits.cuttable))
        self.cache = Cache(cast("Context", self.memory), self.scheduler)

    # What happens

    @rule(random=st.randoms(use_true_random=False), count=st.integers(1, 6))
    def arrive(self, random: Random, count: int) -> None:
        for _ in range(count):
            name = str(next(self.numbers))
            shared = random.choice(SHARED)[: random.choice([0, 30, 60, 90])]
            own = random.choices([1, 2, 3], k=random.randint(1, 50))
            arriving = sequence(
                name,
                [*shared, *own],
                scope=random.choice(["ours", "ours", "ours", "theirs"]),
                adapters=random.choice([(), (), (), LORA]),
                max_tokens=random.choice([5, 80]),
                prompt_logprobs=random.choice([None, None, None, 0]),
            )
            if random.random() < 0.2:
                arriving.phase = Phase.COMPILING
            self.scheduler.add(arriving)
            self.there[name] = arriving
            self.shown[name] = set()

    @rule()
    def constraints_are_compiled(self) -> None:
        for waiting in self.scheduler.waiting:
            if waiting.phase is Phase.COMPILING:
                waiting.phase = Phase.WAITING

    @rule(loses=st.integers(0, 40))
    def the_window_moves_on(self, loses: int) -> None:
        self.memory.loses = loses

    @rule(random=st.randoms(use_true_random=False), count=st.integers(1, 20))
    def turns(self, random: Random, count: int) -> None:
        for _ in range(count):
            self.turn(random, may_abort=True)
            self.the_cache_holds_what_the_scheduler_believes()

    @precondition(lambda self: self.there)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        self.release(self.there[data.draw(st.sampled_from(sorted(self.there)))])

    @precondition(lambda self: self.scheduler.limits.layout is CacheLayout.UNIFIED)
    @rule()
    def the_device_has_no_room(self) -> None:
        """Not even where it should have: others use its memory too."""
        before = len(self.scheduler.running)
        if not self.cache.relieve():
            assert before <= 1
            assert all(s.owner or not s.length for s in self.scheduler.streams)

    @precondition(lambda self: self.scheduler.running)
    @rule()
    def a_step_fails(self) -> None:
        step = self.scheduler.plan()
        for work in step.work:
            self.release(work.sequence)
        self.cache.forget(tuple(work.stream for work in step.work))

    # As the loop does it

    def turn(self, random: Random, *, may_abort: bool) -> None:
        self.admit()
        step = self.planned()
        if not step.work:
            return
        if may_abort and not step.rows and random.random() < 0.2:
            self.abort(step, random)
            return
        if not self.memory.has_room(sum(len(work.tokens) for work in step.work)):
            assert self.cache.relieve(), "one sequence alone always has room"
            return
        for work in step.work:
            self.memory.write(work.stream, work.start, work.tokens, work.sequence.key)
        seconds = 0.05 + 0.01 * step.rows + 0.002 * step.prompt_tokens
        self.scheduler.timed(step, seconds)
        for work in step.work:
            self.advance(work, random)
        self.scheduler.stepped(step)
        self.count_turns(step)

    def admit(self) -> None:
        while (admission := self.scheduler.next_admission()) is not None:
            assert admission.sequence.phase is Phase.WAITING
            target = self.scheduler.streams[admission.target]
            assert target.owner is None
            wanted = admission.sequence.tokens.array.tolist()
            keep, source = admission.reuse.keep, admission.reuse.source
            assert keep < len(wanted)
            if isinstance(source, InStream):
                held = self.scheduler.streams[source.index]
                assert held.key == admission.sequence.key
                assert self.memory.tokens(source.index)[:keep] == wanted[:keep]
            elif isinstance(source, OnShelf):
                (item,) = [item for item in self.scheduler.shelf if item.number == source.number]
                assert item.key == admission.sequence.key
                assert item.content[:keep].tolist() == wanted[:keep]
            self.cache.admit(admission, 1.0)
        move = self.scheduler.due_move()
        if move is not None:
            self.cache.move(move)
        if any(s.phase is Phase.WAITING for s in self.scheduler.waiting):
            assert self.scheduler.running, "somebody waits and nobody runs"

    def planned(self) -> Step:
        step, again = self.scheduler.plan(), self.scheduler.plan()
        assert [work.tokens.tolist() for work in step.work] == [
            work.tokens.tolist() for work in again.work
        ]
        assert bool(step.work) == bool(self.scheduler.running)
        streams = [work.stream for work in step.work]
        assert streams == sorted(set(streams))
        assert sum(len(work.tokens) for work in step.work) <= BATCH
        assert sum(work.outputs for work in step.work) <= OUTPUTS
        group = [s for s in self.scheduler.running if s.request.adapters == step.adapters]
        assert {work.sequence.request.request_id for work in step.work if work.decodes} == {
            s.request.request_id for s in group if s.phase is Phase.DECODE
        }
        for work in step.work:
            self.check_work(work, step)
        return step

    def check_work(self, work: Work, step: Step) -> None:
        one = work.sequence
        assert one.request.adapters == step.adapters
        assert work.stream == one.stream
        assert work.start == one.committed
        assert len(work.tokens) > 0
        known = one.tokens.array[work.start :].tolist()
        if work.decodes:
            assert work.tokens[:1].tolist() == known
            assert work.outputs == len(work.tokens)
            assert one.completion_tokens + len(work.tokens) <= one.request.max_tokens
            assert len(one.tokens) + len(work.draft) < CONTEXT
            assert not len(work.draft) or self.memory.cuttable
            return
        assert work.tokens.tolist() == known[: len(work.tokens)]
        assert work.completes == (len(work.tokens) == len(known))
        if work.completes and not one.wants_prompt_logprobs:
            # What the cache lost in between may have left less of an end to read.
            assert work.outputs == 1
        end = work.start + len(work.tokens)
        assert not any(work.start < at < end for at in one.checkpoints)

    def abort(self, step: Step, random: Random) -> None:
        for work in step.work:
            done = work.tokens[: random.randint(0, len(work.tokens))]
            if self.memory.has_room(len(done)):
                self.memory.write(work.stream, work.start, done, work.sequence.key)
        for work in step.work:
            self.cache.roll_back(work.sequence)

    def advance(self, work: Work, random: Random) -> None:
        one = work.sequence
        if one.wants_prompt_logprobs:
            end = work.start + len(work.tokens)
            self.shown[one.request.request_id].update(range(end - work.outputs, end))
        if not work.completes:
            self.scheduler.commit(work, len(work.tokens))
            self.cache.keep_checkpoint(one)
            return
        drafted = len(work.draft)
        matched = random.randint(0, drafted)
        self.scheduler.commit(work, len(work.tokens) - drafted + matched)
        if matched < drafted:
            kept = self.memory.truncate(work.stream, one.committed)
            self.scheduler.rolled_back(one, kept)
        if drafted:
            one.drafter.learn(drafted, matched)
        if one.wants_prompt_logprobs:
            positions = self.shown[one.request.request_id]
            assert positions >= {*range(one.prompt_tokens)}, "a position was not shown"
        one.first_token_at = 1.0
        for token in [*work.draft[:matched].tolist(), random.randint(1, 3)]:
            one.tokens.append(token)
            one.drafter.append(token)
        full = len(one.tokens) >= CONTEXT or one.completion_tokens >= one.request.max_tokens
        if full or random.random() < 0.02:
            self.release(one)

    def count_turns(self, step: Step) -> None:
        """Who decodes is in a step at least every so many."""
        stepped = {work.sequence.request.request_id for work in step.work}
        decoding = {s.request.request_id for s in self.scheduler.running if s.phase is Phase.DECODE}
        self.since_stepped = {
            name: 0 if name in stepped else self.since_stepped.get(name, 0) + 1 for name in decoding
        }
        assert all(count <= 2 * PARALLEL * TURN_STEPS for count in self.since_stepped.values())

    def release(self, ending: Sequence) -> None:
        self.scheduler.release(ending)
        del self.there[ending.request.request_id]

    # What is true throughout

    @invariant()
    def the_cache_holds_what_the_scheduler_believes(self) -> None:
        for stream in self.scheduler.streams:
            assert stream.content.tolist() == self.memory.tokens(stream.index)
            assert {cell.key for cell in self.memory.held[stream.index]} <= {stream.key}

    @invariant()
    def a_stream_belongs_to_one(self) -> None:
        taken = {s.stream: s for s in self.scheduler.running}
        assert len(taken) == len(self.scheduler.running) <= PARALLEL
        assert {s.index: s.owner for s in self.scheduler.streams if s.owner is not None} == taken

    @invariant()
    def nobody_is_lost_and_nobody_is_twice(self) -> None:
        found = names(self.scheduler.sequences)
        assert sorted(found) == sorted(self.there)

    @invariant()
    def who_waits_holds_nothing_and_who_runs_has_something_to_do(self) -> None:
        for waiting in self.scheduler.waiting:
            assert waiting.phase in (Phase.WAITING, Phase.COMPILING)
            assert (waiting.stream, waiting.committed) == (None, 0)
        for running in self.scheduler.running:
            assert running.phase in (Phase.PREFILL, Phase.DECODE)
            assert running.committed < len(running.tokens)
            if running.phase is Phase.DECODE:
                assert running.committed == len(running.tokens) - 1
            assert running.cached_tokens <= max(0, running.prompt_tokens - 1)

    @invariant()
    def order_is_by_arrival(self) -> None:
        for them in (self.scheduler.running, self.scheduler.waiting):
            arrivals = [one.arrived for one in them]
            assert arrivals == sorted(arrivals)

    @invariant()
    def the_shelf_is_what_it_says(self) -> None:
        shelf, blobs = self.scheduler.shelf, self.cache.blobs
        assert shelf.size <= shelf.capacity
        assert {item.number for item in shelf} == blobs.keys()
        for item in shelf:
            cells = cast("Saved", blobs[item.number])
            assert [cell.token for cell in cells] == item.content.tolist()
            assert {cell.key for cell in cells} <= {item.key}

    def teardown(self) -> None:
        """Left alone, everyone who came is served and leaves."""
        if not hasattr(self, "scheduler"):
            return
        self.constraints_are_compiled()
        self.memory.loses = 0
        random = Random(0)
        # Each is read a chunk at a time, says at most 80 tokens, and may have to begin again.
        for _ in range(300 * (1 + len(self.there))):
            if not self.there:
                break
            self.turn(random, may_abort=False)
            self.the_cache_holds_what_the_scheduler_believes()
        assert not self.there, "somebody waits for ever"


Scheduling.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestScheduling = pytest.mark.native(Scheduling.TestCase)


def test_pretended_memory_counts_what_is_shared_once() -> None:
    key = PrefixKey("local", ())
    memory = Memory(2, 10, cuttable=True)
    memory.write(0, 0, [1, 2, 3], key)
    assert memory.copy(0, 1, 2) == 2
    memory.write(1, 2, [9], key)
    assert memory.used == 4
    memory.truncate(0, 0)
    assert memory.used == 3
    assert memory.tokens(1) == [1, 2, 9]


def test_an_empty_stream_has_no_key() -> None:
    stream = Stream(0, key=PrefixKey("local", ()), length=0)
    stream.empty()
    assert stream.key is None
