"""Which cards vLLM is given, how they share a model, and how long a context they hold."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from freehold.machine.computer import Gpu, GpuKind
from freehold.machine.vllm_cards import Shape, Sharing, Wish, choose, shape_of
from tests.unit.test_vllm_need import CONFIG, computer

# Llama 3.1: 8 and 70 billion weights of 16 bits, heads of 128.
SMALL = Shape(32, 8, 32)
SMALL_WISH = Wish(16_060_000_000, 32 * 8 * 128 * 2 * 2, 4, 8192, most=131_072)
LARGE = Shape(64, 8, 80)
LARGE_WISH = Wish(141_100_000_000, 80 * 8 * 128 * 2 * 2, 4, 8192, most=131_072)
(RTX,) = computer("rtx-4090").gpus
(H200,) = computer("h200").gpus


def taken(gpu: Gpu) -> Gpu:
    """By another program, a quarter of it."""
    return msgspec.structs.replace(gpu, available=gpu.total * 3 // 4)


def test_one_card_is_enough_and_holds_what_context_it_can() -> None:
    found = choose(SMALL_WISH, SMALL, [RTX])
    assert found is not None
    assert (found.cards, found.sharing) == ((0,), Sharing())
    # By hand: 92 % of 25.77 GB, less 5 %, less weights and 0.5 GB, by 131,072 bytes for each of 4.
    assert found.context == 11_264
    assert found.room.enough
    assert not choose_at(found.context + 256, SMALL_WISH, SMALL, [RTX])
    assert found.words == "NVIDIA GeForce RTX 4090"


def choose_at(context: int, wish: Wish, shape: Shape, gpus: list[Gpu]) -> bool:
    found = choose(replace(wish, context=context, most=None), shape, gpus)
    assert found is not None
    assert found.context == context
    return found.room.enough


def test_the_models_own_context_where_it_fits() -> None:
    found = choose(SMALL_WISH, SMALL, [H200])
    assert found is not None
    assert found.context == 131_072


def test_what_was_said_of_the_context_holds() -> None:
    said = replace(SMALL_WISH, context=2048, most=None)
    for gpus in ([RTX], [H200]):
        found = choose(said, SMALL, gpus)
        assert found is not None
        assert found.context == 2048


def test_as_few_cards_as_hold_it_share_each_layer() -> None:
    found = choose(LARGE_WISH, LARGE, [H200] * 4)
    assert found is not None
    assert (found.cards, found.sharing) == ((0, 1), Sharing(tensor=2))
    assert found.context == 92_928
    assert found.words == (
        "2 NVIDIA H200 of 4 cards, which share each layer (on 1 it would need 152.3 GB of 138.7 GB)"
    )


def test_eight_that_share_each_layer_go_before_seven_in_a_row() -> None:
    found = choose(LARGE_WISH, LARGE, [RTX] * 8)
    assert found is not None
    assert found.sharing == Sharing(tensor=8)
    seven = choose(LARGE_WISH, LARGE, [RTX] * 7)
    assert seven is not None
    assert seven.sharing == Sharing(pipeline=7)
    assert "each with a part of the layers" in seven.words


def test_groups_where_heads_cannot_be_divided_further() -> None:
    odd = Shape(40, 10, 40)  # so many as Phi 3 medium has
    found = choose(replace(LARGE_WISH, weights=80_000_000_000), odd, [RTX] * 6)
    assert found is not None
    assert found.sharing == Sharing(tensor=5)
    wide = choose(replace(LARGE_WISH, weights=100_000_000_000), odd, [RTX] * 6)
    assert wide is not None
    assert wide.sharing == Sharing(tensor=2, pipeline=3)
    assert "in 3 groups with a part of the layers, 2 to a layer" in wide.words


@pytest.mark.parametrize(
    ("shape", "possible"),
    [
        (Shape(32, 8, 32), {1, 2, 4, 8, 16, 32}),
        (Shape(14, 2, 24), {1, 2, 14}),  # 7 cards cannot have the same part of 2 heads
        (Shape(28, 4, 28), {1, 2, 4, 28}),
        (Shape(40, 10, 40), {1, 2, 5, 10, 20, 40}),
    ],
)
def test_heads_are_divided_as_vllm_demands(shape: Shape, possible: set[int]) -> None:
    assert {count for count in range(1, 65) if shape.divisible(count)} == possible


def test_what_is_copied_takes_room_on_each_card() -> None:
    """Two heads that are kept, on four cards that share a layer: each has one, so all lie twice."""
    wish = Wish(10**9, 1000, 1, 1_000_000)
    shared, copied = (choose(wish, Shape(32, kept, 4), [RTX] * 4, Sharing(4)) for kept in (4, 2))
    assert shared is not None
    assert copied is not None
    assert copied.room.needed - shared.room.needed == 1_000_000 * 1000


def test_cards_of_two_kinds_share_nothing() -> None:
    two = computer("two-cards").gpus
    found = choose(SMALL_WISH, SMALL, two)
    assert found is not None
    assert (found.name, found.cards, found.found) == ("NVIDIA GeForce RTX 3090", (0,), 2)
    assert choose(SMALL_WISH, SMALL, two, Sharing(tensor=2)) is None


def test_a_card_that_is_taken_is_left_alone() -> None:
    found = choose(SMALL_WISH, SMALL, [taken(RTX), RTX])
    assert found is not None
    assert (found.cards, found.found) == ((1,), 2)
    assert choose(SMALL_WISH, SMALL, [taken(RTX)]) is None


def test_what_was_said_of_the_sharing_holds() -> None:
    found = choose(SMALL_WISH, SMALL, [RTX] * 4, Sharing(tensor=2))
    assert found is not None
    assert (found.cards, found.sharing) == ((0, 1), Sharing(tensor=2))
    assert choose(SMALL_WISH, SMALL, [RTX] * 2, Sharing(tensor=2, pipeline=2)) is None


def test_a_shorter_context_where_no_cards_hold_the_usual_one() -> None:
    tight = replace(SMALL_WISH, users=16)
    found = choose(tight, SMALL, [RTX])
    assert found is not None
    assert 0 < found.context < 8192
    assert found.room.enough


def test_weights_that_no_card_holds_are_said() -> None:
    found = choose(LARGE_WISH, LARGE, [RTX] * 2)
    assert found is not None
    assert not found.room.enough
    assert found.context == 8192


def test_of_a_model_that_does_not_tell_its_shape_one_card_takes_all() -> None:
    found = choose(Wish(40_000_000_000, 0, 4, 8192, most=8192), None, [RTX, RTX])
    assert found is not None
    assert found.sharing == Sharing()
    assert not found.room.enough
    assert shape_of({}) is None
    assert shape_of(CONFIG) == Shape(14, 2, 24)


def test_other_cards_are_none_of_vllms() -> None:
    apple = Gpu("Apple M3 Max", GpuKind.METAL, 25_769_803_776, 25_769_803_776)
    assert choose(SMALL_WISH, SMALL, [apple]) is None
    found = choose(SMALL_WISH, SMALL, [apple, RTX])
    assert found is not None
    assert (found.cards, found.found) == ((0,), 1)
