"""What of a prompt is cached where, and what is worth keeping."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from freehold.domain.chat import AdapterUse
from freehold.engines.llamacpp.prefix import (
    RECOMPUTED,
    WORTH_SAVING,
    InStream,
    OnShelf,
    Reuse,
    Shelf,
    Stream,
    best_reuse,
    usable,
    worth_shelving,
)
from freehold.engines.llamacpp.sequence import PrefixKey, Sequence
from freehold.engines.llamacpp.tokens import TokenArray, TokenLog, common_prefix
from tests.unit.test_scheduler import sequence

OURS, THEIRS = PrefixKey("ours", ()), PrefixKey("theirs", ())
REST = [0] * RECOMPUTED

token_lists = st.lists(st.integers(0, 2), max_size=200)


def tokens(*runs: int | list[int]) -> TokenArray:
    flat = [token for run in runs for token in (run if isinstance(run, list) else [run])]
    return np.array(flat, dtype=np.int32)


def stream_of(
    index: int, content: list[int], key: PrefixKey = OURS, owner: Sequence | None = None
) -> Stream:
    return Stream(index, TokenLog(content), len(content), key, owner)


# Tokens


@given(token_lists, token_lists)
def test_common_prefix(left: list[int], right: list[int]) -> None:
    common = common_prefix(tokens(left), tokens(right))
    assert left[:common] == right[:common]
    assert common == min(len(left), len(right)) or left[common] != right[common]


@given(token_lists, token_lists)
def test_a_log_is_what_was_put_in(begin: list[int], more: list[int]) -> None:
    log = TokenLog(begin)
    for token in more:
        log.append(token)
    assert log.array.tolist() == begin + more
    assert len(log) == len(begin + more)
    assert not (begin + more) or log[-1] == (begin + more)[-1]


def test_a_log_has_no_tokens_beyond_its_end() -> None:
    with pytest.raises(IndexError):
        TokenLog([1, 2])[2]


# Reuse


@given(token_lists, token_lists)
def test_what_is_usable_is_the_same_and_leaves_the_end(
    content: list[int], wanted: list[int]
) -> None:
    keep = usable(tokens(content), tokens(wanted), cuttable=True)
    assert content[:keep] == wanted[:keep]
    assert keep == 0 or len(wanted) - keep >= RECOMPUTED


@given(token_lists, token_lists)
def test_uncuttable_memory_is_usable_as_a_whole_or_not_at_all(
    content: list[int], more: list[int]
) -> None:
    wanted = content + more + [0] * RECOMPUTED
    assert usable(tokens(content), tokens(wanted), cuttable=False) == len(content)
    assert usable(tokens(wanted), tokens(content), cuttable=False) == 0
    assert usable(tokens(content, 1), tokens(content, [2] * 20), cuttable=False) == 0


def test_nothing_is_reused_where_there_is_nothing() -> None:
    assert best_reuse(tokens(1, REST), OURS, [Stream(0)], Shelf(0), cuttable=True) == Reuse()


def test_the_longest_prefix_is_taken() -> None:
    shelf = Shelf(100)
    shelved = shelf.put(tokens(1, 2, 3), OURS, 3)
    streams = [stream_of(0, [1, 2]), stream_of(1, [1, 2, 3, 4]), stream_of(2, [9])]
    wanted = tokens(1, 2, 3, 4, 5, REST)
    assert best_reuse(wanted, OURS, streams, shelf, cuttable=True) == Reuse(InStream(1), 4)
    assert best_reuse(wanted, OURS, streams[:1], shelf, cuttable=True) == Reuse(
        OnShelf(shelved.number), 3
    )


def test_at_equal_length_idle_comes_before_running_and_running_before_the_shelf() -> None:
    shelf = Shelf(100)
    shelf.put(tokens(1, 2), OURS, 2)
    running = stream_of(0, [1, 2], owner=sequence("running", [1, 2]))
    idle = stream_of(1, [1, 2])
    wanted = tokens(1, 2, REST)

    def source(*streams: Stream) -> object:
        return best_reuse(wanted, OURS, streams, shelf, cuttable=True).source

    assert source(running, idle) == source(idle, running) == InStream(1)
    assert source(running) == InStream(0)
    assert isinstance(source(), OnShelf)


@pytest.mark.parametrize("key", [THEIRS, PrefixKey("ours", (AdapterUse("lora"),))])
def test_what_was_computed_for_others_is_not_taken(key: PrefixKey) -> None:
    shelf = Shelf(100)
    shelf.put(tokens(1, 2), OURS, 2)
    found = best_reuse(tokens(1, 2, REST), key, [stream_of(0, [1, 2])], shelf, cuttable=True)
    assert found == Reuse()


def test_what_is_in_a_stream_is_what_is_in_the_cache() -> None:
    """An owner knows tokens that are not in the cache yet."""
    stream = Stream(0, TokenLog([1, 2, 3, 4]), 2, OURS)
    found = best_reuse(tokens(1, 2, 3, 4, REST), OURS, [stream], Shelf(0), cuttable=True)
    assert found.keep == 2


# The shelf


@given(st.lists(st.tuples(token_lists, st.integers(0, 60), st.booleans()), max_size=30))
def test_a_shelf_is_never_over_its_capacity(
    arrivals: list[tuple[list[int], int, bool]],
) -> None:
    shelf = Shelf(100)
    for content, size, ours in arrivals:
        key = OURS if ours else THEIRS
        for item in shelf.displaced(tokens(content), key, size):
            shelf.remove(item.number)
        new = shelf.put(tokens(content), key, size)
        assert shelf.size <= shelf.capacity
        assert new.number in [item.number for item in shelf]
        assert len({item.number for item in shelf}) == len(shelf)


def test_what_is_too_big_displaces_all_and_does_not_fit_even_so() -> None:
    shelf = Shelf(10)
    shelf.put(tokens(1), OURS, 4)
    shelf.put(tokens(2), OURS, 4)
    assert len(shelf.displaced(tokens(3), OURS, 11)) == 2


def test_least_recently_used_goes_first() -> None:
    shelf = Shelf(10)
    first, second = (shelf.put(tokens(n), OURS, 5) for n in (1, 2))
    shelf.touch(first.number)
    assert [item.number for item in shelf.displaced(tokens(3), OURS, 5)] == [second.number]
    assert len(shelf.displaced(tokens(3), OURS, 6)) == 2
    assert len(shelf) == 2  # nothing is gone before it is removed


def test_only_as_much_goes_as_must() -> None:
    shelf = Shelf(10)
    for n in (1, 2):
        shelf.put(tokens(n), OURS, 3)
    assert shelf.displaced(tokens(3), OURS, 4) == ()
    assert len(shelf.displaced(tokens(3), OURS, 5)) == 1


def test_a_prefix_takes_the_place_of_its_own_beginning() -> None:
    shelf = Shelf(100)
    beginning = shelf.put(tokens(1, 2), OURS, 2)
    shelf.put(tokens(1, 2), THEIRS, 2)
    shelf.put(tokens(1, 3), OURS, 2)
    assert [item.number for item in shelf.displaced(tokens(1, 2, 4), OURS, 3)] == [beginning.number]


def test_touching_what_has_gone_does_nothing() -> None:
    shelf = Shelf(10)
    item = shelf.put(tokens(1), OURS, 5)
    shelf.remove(item.number)
    shelf.touch(item.number)
    assert len(shelf) == 0


def test_a_shelved_prefix_does_not_change_with_the_stream_it_came_from() -> None:
    shelf, stream = Shelf(100), stream_of(0, [1, 2, 3])
    item = shelf.put(stream.content, OURS, 3)
    stream.content[:] = 9
    assert item.content.tolist() == [1, 2, 3]


# Worth shelving

LONG = [1] * WORTH_SAVING


def test_what_is_long_and_nowhere_else_is_worth_shelving() -> None:
    stream = stream_of(0, LONG)
    others = [stream, stream_of(1, LONG[:-1]), stream_of(2, [2, *LONG])]
    assert worth_shelving(stream, others, Shelf(100))


def test_what_is_short_empty_or_has_no_shelf_is_not() -> None:
    short, empty = stream_of(0, LONG[:-1]), Stream(1)
    assert not worth_shelving(short, [short], Shelf(100))
    assert not worth_shelving(empty, [empty], Shelf(100))
    assert not worth_shelving(stream_of(0, LONG), [], Shelf(0))


def test_what_is_also_elsewhere_is_not() -> None:
    stream, longer = stream_of(0, LONG), stream_of(1, [*LONG, 7])
    assert not worth_shelving(stream, [stream, longer], Shelf(100))
    shelf = Shelf(100)
    shelf.put(tokens(LONG, 7), OURS, 1)
    assert not worth_shelving(stream, [stream], shelf)


def test_what_others_have_does_not_count() -> None:
    stream = stream_of(0, LONG)
    shelf = Shelf(100)
    shelf.put(tokens(LONG), THEIRS, 1)
    assert worth_shelving(stream, [stream, stream_of(1, LONG, THEIRS)], shelf)
