"""The planner: what fits where, and what must hold whatever the machine and the wish."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import msgspec
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from freehold.machine.candidates import Candidate, of_row
from freehold.machine.computer import Computer, Gpu, GpuKind, Memory
from freehold.machine.explain import MOST_USERS, explain
from freehold.machine.placement import MARGIN, RUNTIME, Load, place
from freehold.machine.plan import (
    Choice,
    Exclusion,
    Given,
    Reason,
    Why,
    choice_of,
    fits,
    measured_speed,
    plan,
    weigh,
)
from freehold.machine.profile import EngineSettings, Profile, Speeds
from freehold.machine.quality import quality
from freehold.machine.wishes import Wishes
from freehold.trust.verdict import Outcome, Use
from freehold.weights.catalog import bundled
from tests.support.models_on_paper import calibration

MACHINES = Path(__file__).parents[1] / "data" / "machines"
GB = 10**9


def machine(name: str) -> Computer:
    return msgspec.json.decode((MACHINES / f"{name}.json").read_bytes(), type=Computer)


@functools.cache
def candidates() -> tuple[Candidate, ...]:
    return tuple(of_row(row, None) for row in bundled().models)


def candidate(reference: str) -> Candidate:
    return next(each for each in candidates() if each.reference == reference)


def chosen(reference: str, where: str, wishes: Wishes | None = None) -> Choice:
    weighed = weigh(candidate(reference), Given(machine(where), wishes or Wishes()))
    assert isinstance(weighed, Choice), weighed.reasons
    return weighed


def reasons(weighed: Choice | Exclusion) -> dict[Why, Reason]:
    assert isinstance(weighed, Exclusion)
    return {reason.why: reason for reason in weighed.reasons}


# Cards: the numbers are worked out beside each case


def load(layers: int) -> Load:
    """Layers of 2 GB (2.5 with a repacked copy on the host), an output of 1 GB that is tied."""
    return Load(
        on_card=(*[2 * GB] * layers, GB),
        on_host=(*[5 * GB // 2] * layers, 0),
        buffers=GB // 2,
        host=GB,
    )


def test_a_card_of_24_gb_takes_what_fits_with_the_output_first() -> None:
    gpus = machine("rtx-4090").gpus
    # 24.0 GB free / 1.05 = 22.86. Overhead 0.5 + 0.5, output 1, ten layers 20: 22.0.
    whole = place(load(10), gpus)
    assert whole.whole
    assert [(card.layers, card.needed) for card in whole.cards] == [(11, 22 * GB)]
    assert whole.host == GB
    # Of twelve layers two stay on the host: 1 + 2 x 2.5 = 6 GB.
    partly = place(load(12), gpus)
    assert (partly.offloaded, partly.layers, partly.whole) == (11, 13, False)
    assert partly.host == 6 * GB


def test_two_cards_are_filled_in_turn() -> None:
    gpus = machine("two-cards").gpus
    # 24 GB: 1 + 10 x 2 = 21 of 22.86. 12 GB: 1 + 4 x 2 + 1 = 10 of 11.43; a fifth layer would
    # make 12. Six of twenty layers stay: 1 + 6 x 2.5 = 16 GB.
    placed = place(load(20), gpus)
    assert [(c.index, c.layers, c.needed) for c in placed.cards] == [
        (0, 10, 21 * GB),
        (1, 5, 10 * GB),
    ]
    assert (placed.host, placed.total) == (16 * GB, 47 * GB)


def test_two_cards_share_what_one_would_hold_by_their_free_memory() -> None:
    small, large = machine("two-cards").gpus[::-1]
    # Of ten, the output included, a third: 0 to 3 tenths lie below 12 / 36. 1 + 4 x 2 = 9 GB, and
    # 1 + 5 x 2 + 1 = 12 GB.
    placed = place(load(9), (small, large))
    assert [(c.index, c.layers, c.needed) for c in placed.cards] == [
        (0, 4, 9 * GB),
        (1, 6, 12 * GB),
    ]
    assert placed.whole
    # A third of four is nearly full already: what llama.cpp would do does not fit, filling does.
    crowded = msgspec.structs.replace(small, available=3 * GB)
    placed = place(load(9), (crowded, large))
    assert [(c.index, c.layers) for c in placed.cards] == [(1, 10)]


def test_what_a_model_on_two_cards_takes_is_the_sum_of_its_parts() -> None:
    both = chosen("deepseek-r1:32b", "two-cards").placement
    first, second = both.cards
    assert both.whole
    assert first.layers == pytest.approx(2 * second.layers, abs=3)
    for card, gpu in zip(both.cards, machine("two-cards").gpus, strict=True):
        assert card.needed * MARGIN <= gpu.available
    assert not chosen("deepseek-r1:32b", "rtx-4090").placement.whole
    # One after the other: no faster than the better card alone would be, no slower than the other.
    speeds = []
    for gpu in machine("two-cards").gpus:
        roomy = msgspec.structs.replace(gpu, available=100 * GB)
        one = msgspec.structs.replace(machine("two-cards"), gpus=(roomy,))
        weighed = weigh(candidate("deepseek-r1:32b"), Given(one, Wishes()))
        assert isinstance(weighed, Choice)
        speeds.append(weighed.estimate.tokens_per_second)
    together = chosen("deepseek-r1:32b", "two-cards").estimate.tokens_per_second
    assert speeds[1] < together < speeds[0]


def test_small_models_do_not_profit_from_a_faster_card_as_large_ones_do() -> None:
    """Starting kernels takes as long on any card."""

    def gain(reference: str) -> float:
        fast = chosen(reference, "h200").estimate.tokens_per_second
        return fast / chosen(reference, "rtx-4090").estimate.tokens_per_second

    assert gain("qwen2.5-coder:0.5b") < 2 < gain("deepseek-r1:14b") < 5


def test_apples_card_shares_the_memory() -> None:
    (gpu,) = machine("macbook-m3-max-36").gpus
    # 24 GiB / 1.05 = 24.54 GB, no runtime of its own: 0.5 + 11 x 2 + 1 = 23.5. The host has that
    # too, 1 GB of its own, and the twelfth layer: 23.5 + 1 + 2.5 = 27.
    placed = place(load(12), [gpu])
    assert [(card.layers, card.needed) for card in placed.cards] == [(12, 23_500_000_000)]
    assert placed.host == placed.total == 27 * GB  # counted once


def test_no_card_or_a_full_one() -> None:
    full = Gpu("full", GpuKind.CUDA, 24 * GB, RUNTIME)
    for gpus in ((), (full,)):
        placed = place(load(3), gpus)
        assert (placed.cards, placed.host) == ((), GB + 3 * 5 * GB // 2)


def test_a_real_model_on_an_h200() -> None:
    choice = chosen("deepseek-r1:8b", "h200")
    needs, placed = choice.footprint, choice.placement
    anatomy = choice.candidate.anatomy
    assert anatomy is not None
    # 8,192 tokens x 32 layers x (8 + 8) heads x 128 numbers x 2 bytes.
    assert needs.cache == 8192 * 32 * 16 * 128 * 2 == 1_073_741_824
    (card,) = placed.cards
    assert placed.whole
    # The embedding stays on the host; everything else of the file is on the card.
    on_card = needs.weights - anatomy.lookup.bytes + needs.cache + needs.buffers + RUNTIME
    assert card.needed == on_card
    assert placed.host == needs.total - needs.weights - needs.cache - needs.repacked + (
        anatomy.lookup.bytes
    )
    assert choice.vllm is not None
    assert "not measured; docs/vllm.md" in choice.vllm


def test_the_other_engine_is_named_only_where_its_weights_fit() -> None:
    assert chosen("deepseek-r1:8b", "rtx-4090").vllm is not None  # 16.1 + 1.1 of 24 GB
    assert chosen("deepseek-r1:14b", "rtx-4090").vllm is None  # 29.5 GB
    assert chosen("qwen2.5-coder:0.5b", "macbook-m3-max-36").vllm is None  # no CUDA


def test_in_a_container_of_4_gb() -> None:
    made = plan(candidates(), Given(machine("container-4gb"), Wishes()))
    assert "qwen2.5-coder:0.5b" in [choice.candidate.reference for choice in made.choices]
    assert all(choice.footprint.total * MARGIN <= 3_900_000_000 for choice in made.choices)
    eight = next(e for e in made.excluded if e.candidate.reference == "deepseek-r1:8b")
    reason = reasons(eight)[Why.MEMORY]
    assert reason.has == 3_900_000_000
    assert f"{(reason.wanted or 0) / GB - 3.9:.1f} GB short" in reason.text


# What must hold

machines = st.sampled_from(sorted(path.stem for path in MACHINES.glob("*.json"))).map(machine)
told = st.sampled_from([each for each in candidates() if each.anatomy is not None])


def sized(computer: Computer, memory: int, cards: float) -> Computer:
    """The same with so much memory, and so much of its cards free."""
    return msgspec.structs.replace(
        computer,
        memory=Memory(memory, memory),
        gpus=tuple(
            msgspec.structs.replace(gpu, available=int(gpu.available * cards))
            for gpu in computer.gpus
        ),
    )


@settings(max_examples=50)
@given(machines, told, st.integers(0, 200 * GB), st.integers(0, 50 * GB), st.data())
def test_more_memory_never_fits_fewer(
    computer: Computer, one: Candidate, memory: int, more: int, data: st.DataObject
) -> None:
    cards, fuller = sorted((data.draw(st.floats(0, 1)), data.draw(st.floats(0, 1))))
    small = sized(computer, memory, cards)
    large = sized(computer, memory + more, fuller)
    if fits(weigh(one, Given(small, Wishes()))):
        assert fits(weigh(one, Given(large, Wishes())))


@settings(max_examples=50)
@given(machines, told, st.integers(1, 64), st.integers(1, 64), st.integers(1, 2**17), st.data())
def test_more_users_or_context_never_fit_more(
    computer: Computer, one: Candidate, users: int, more: int, context: int, data: st.DataObject
) -> None:
    longer = data.draw(st.integers(context, 2**17))
    small = Given(computer, Wishes(users=users, context=context, prompt=1))
    if fits(choice_of(one, small, users=users + more, context=longer)):
        assert fits(weigh(one, small)) or context == 1  # a prompt and an answer need two


def estimates(one: Candidate, what: Given) -> tuple[float, float]:
    weighed = weigh(one, what)
    assume(isinstance(weighed, Choice))
    assert isinstance(weighed, Choice)
    return weighed.estimate.tokens_per_second, weighed.estimate.first_token


@settings(max_examples=50)
@given(told, st.integers(1, 8), st.floats(1, 20), st.booleans())
def test_a_slower_machine_is_never_planned_faster(
    one: Candidate, users: int, slowness: float, measured: bool
) -> None:
    computer = sized(machine("two-cores"), 4000 * GB, 1)
    computer = msgspec.structs.replace(
        computer, disk=msgspec.structs.replace(computer.disk, available=10**13)
    )
    wishes = Wishes(users=users)
    if measured:
        fast = Given(computer, wishes, calibration())
        slow = Given(computer, wishes, calibration(slowness))
    else:
        fast = Given(computer, wishes)
        slow = Given(one_core(computer), wishes)
    fast_speed, fast_wait = estimates(one, fast)
    slow_speed, slow_wait = estimates(one, slow)
    assert slow_speed <= fast_speed
    assert slow_wait >= fast_wait


def one_core(computer: Computer) -> Computer:
    return msgspec.structs.replace(
        computer, processor=msgspec.structs.replace(computer.processor, cores=1)
    )


@settings(max_examples=50)
@given(
    machines,
    st.builds(
        Wishes,
        users=st.integers(1, 32),
        context=st.none() | st.integers(1, 300_000),
        first_token=st.none() | st.floats(0.01, 100),
        tokens_per_second=st.none() | st.floats(0.1, 1000),
        memory=st.none() | st.integers(1, 300 * GB),
        task=st.sampled_from([None, "code", "vision"]),
        uses=st.frozensets(st.sampled_from(list(Use))),
    ),
    st.lists(st.sampled_from(candidates()), max_size=6, unique_by=lambda each: each.reference),
)
def test_everything_is_chosen_or_has_a_reason_with_numbers(
    computer: Computer, wishes: Wishes, some: list[Candidate]
) -> None:
    made = plan(some, Given(computer, wishes))
    named = [choice.candidate.reference for choice in made.choices]
    named += [each.candidate.reference for each in made.excluded]
    assert sorted(named) == sorted(each.reference for each in some)
    scores = [choice.candidate.quality.score for choice in made.choices if choice.candidate.quality]
    assert scores == sorted(scores, reverse=True)
    for each in made.excluded:
        assert each.reasons
        for reason in each.reasons:
            _speaks(reason)


def _speaks(reason: Reason) -> None:
    assert reason.text.endswith(".")
    if reason.why in {Why.ARCHITECTURE, Why.SOURCE, Why.TASK, Why.LICENCE}:
        return
    assert reason.wanted is not None
    assert reason.has is not None
    if reason.why is Why.TOKENS_PER_SECOND:
        assert reason.has < reason.wanted
    elif reason.why is Why.WAIT:
        assert reason.has > reason.wanted
    else:
        assert reason.has < reason.wanted
    assert any(character.isdigit() for character in reason.text)


@given(told, st.integers(1, 16), st.integers(2, 20_000))
def test_without_cards_the_host_has_it_all(one: Candidate, users: int, context: int) -> None:
    what = Given(sized(machine("two-cores"), 10**13, 1), Wishes(users=users, context=context))
    weighed = choice_of(one, what)
    if isinstance(weighed, Choice):
        assert weighed.placement.host == weighed.footprint.total


@pytest.mark.parametrize("where", ["container-4gb", "two-cores", "rtx-4090", "macbook-m3-max-36"])
@pytest.mark.parametrize("reference", ["qwen2.5-coder:0.5b", "deepseek-r1:8b", "gemma3:4b"])
def test_the_largest_context_is_the_largest(reference: str, where: str) -> None:
    what = Given(machine(where), Wishes(users=2))
    explained = explain(candidate(reference), what)
    anatomy = explained.candidate.anatomy
    assert anatomy is not None
    assert anatomy.context is not None
    context, users = explained.largest_context, explained.most_users
    assert context in {0, anatomy.context} or fits_with(what, explained.candidate, context=context)
    if context < anatomy.context:
        assert not fits_with(what, explained.candidate, context=max(context, 512) + 1)
    assert users in {0, MOST_USERS} or fits_with(what, explained.candidate, users=users)
    if users < MOST_USERS:
        assert not fits_with(what, explained.candidate, users=users + 1)


def fits_with(
    what: Given, one: Candidate, *, users: int | None = None, context: int | None = None
) -> bool:
    return fits(choice_of(one, what, users=users, context=context))


# Wishes


def test_what_a_licence_forbids_is_left_out() -> None:
    one = candidate("deepseek-r1:8b")
    allowed = dataclasses.replace(
        one, outcomes={Use.RUN: Outcome.DUTIES, Use.SERVE: Outcome.CONFLICT}
    )
    computer = machine("h200")
    run, serve = (Given(computer, Wishes(uses=frozenset({use}))) for use in Use)
    assert isinstance(weigh(allowed, run), Choice)
    assert "CONFLICT" in reasons(weigh(allowed, serve))[Why.LICENCE].text
    assert Why.LICENCE in reasons(weigh(one, serve))  # not judged is not allowed


def test_what_was_trained_for_less_or_leaves_no_room() -> None:
    long = Given(machine("h200"), Wishes(context=65536))
    reason = reasons(weigh(candidate("qwen2.5-coder:0.5b"), long))[Why.CONTEXT]
    assert (reason.wanted, reason.has) == (65536, 32768)
    tight = Given(machine("h200"), Wishes(context=512, prompt=512))
    assert Why.CONTEXT in reasons(weigh(candidate("qwen2.5-coder:0.5b"), tight))


def test_slowness_and_waiting() -> None:
    wishes = Wishes(users=4, tokens_per_second=20, first_token=1)
    found = reasons(weigh(candidate("deepseek-r1:7b"), Given(machine("two-cores"), wishes)))
    assert {Why.TOKENS_PER_SECOND, Why.WAIT} <= found.keys()


def test_an_architecture_nobody_knows() -> None:
    unknown = dataclasses.replace(
        candidate("deepseek-r1:7b"), anatomy=None, unknown="No such thing.", size=5 * GB
    )
    reason = reasons(weigh(unknown, Given(machine("h200"), Wishes())))[Why.ARCHITECTURE]
    assert reason.text == "No such thing. Its weights are 5.0 GB."


# Measured


def profile(settings: EngineSettings) -> Profile:
    return Profile(
        source="a" * 64,
        weights="a" * 64,
        computer="",
        build="b",
        measured_at="2026-11-24T10:00:00+00:00",
        version="0",
        settings=settings,
        depth=2048,
        users=8,
        before=Speeds(100, 30, 10, 60),
        after=Speeds(200, 40, 30, 160),
    )


def test_what_was_measured_changes_no_estimate() -> None:
    one = dataclasses.replace(candidate("qwen2.5-coder:0.5b"), digest="a" * 64)
    plain = Given(machine("two-cores"), Wishes())
    held = profile(plain.settings(one))
    before = weigh(one, plain)
    after = weigh(one, dataclasses.replace(plain, profiles={"a" * 64: held}))
    assert isinstance(before, Choice)
    assert isinstance(after, Choice)
    assert after.estimate == before.estimate
    assert (before.measured, after.measured) == (None, held)


def test_a_measured_speed_is_of_its_own_workload() -> None:
    held = profile(EngineSettings(Given(machine("two-cores"), Wishes()).cache, 2, 512))
    assert measured_speed(held, 1, 512) == 40
    assert measured_speed(held, 1, 2000) == 30
    assert measured_speed(held, 8, 512) == 20
    assert measured_speed(held, 4, 512) is None


# Quality


def test_more_bits_and_more_parameters_are_better() -> None:
    assert quality(8 * GB, 8 * GB, 8.5, "Q8_0").score > quality(8 * GB, 8 * GB, 4.8, None).score
    assert quality(8 * GB, 8 * GB, 4.8, None).score > quality(4 * GB, 4 * GB, 16, "F16").score
    # A mixture lies between its active and all of its parameters.
    mixture = quality(30 * GB, 3 * GB, 4.8, "Q4_K_M").score
    assert quality(3 * GB, 3 * GB, 4.8, None).score < mixture
    assert mixture < quality(30 * GB, 30 * GB, 4.8, None).score
    # What a model was trained in has lost nothing.
    assert quality(GB, GB, 4.25, "MXFP4").score == GB
