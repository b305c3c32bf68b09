"""How much the models may take, and what each needs: as measured here, else as estimated."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freehold.domain.durations import seconds, spelled
from freehold.domain.settings import Settings
from freehold.engines.base import EngineConfig
from freehold.machine.computer import Memory
from freehold.machine.footprint import PROCESS_BYTES
from freehold.runtime.needs import needed, setup
from freehold.runtime.room import RESERVE_MOST, Room, process
from freehold.weights.library import Library, LocalModel
from tests.support.models import write_model
from tests.support.tiny_model import write_tiny_llama

GIB = 1024**3


def room(
    state: Path, *, budget: int | None = None, total: int = 0, available: int = 0, names: str = ""
) -> Room:
    return Room(state, budget, lambda: Memory(total, available), lambda _: 111, names)


@pytest.fixture
def model(tmp_path: Path) -> LocalModel:
    heads = {"head_count": 8, "head_count_kv": 2}
    path = write_model(
        tmp_path / "m.gguf",
        metadata={
            "llama.block_count": 3,
            "llama.embedding_length": 64,
            **{f"llama.attention.{name}": count for name, count in heads.items()},
        },
    )
    return Library.open(Settings(home=tmp_path / "home")).local(str(path))


@pytest.mark.parametrize(
    ("total", "available", "expected"),
    [
        (7 * GIB, 7 * GIB, 6 * GIB),  # a seventh is left
        (64 * GIB, 64 * GIB, 64 * GIB - RESERVE_MOST),
        (64 * GIB, 3 * GIB, 3 * GIB),  # other programs have the rest
    ],
)
def test_without_a_budget_the_machine_decides(
    tmp_path: Path, total: int, available: int, expected: int
) -> None:
    assert room(tmp_path, total=total, available=available).allowed([]) == expected


def test_what_our_own_workers_hold_is_ours(tmp_path: Path) -> None:
    mine = room(tmp_path, total=64 * GIB, available=GIB)
    assert GIB < mine.allowed([os.getpid()]) < 2 * GIB
    assert mine.allowed([2**22 + 1]) == GIB  # no such process


def test_a_budget_is_a_budget(tmp_path: Path) -> None:
    assert room(tmp_path, budget=5, total=GIB, available=1).allowed([os.getpid()]) == 5


def test_a_process_as_it_is() -> None:
    mine = process(os.getpid())
    assert mine is not None
    assert 0 < mine.own <= mine.resident
    assert process(2**22 + 1) is None


def test_what_was_measured_goes_before_the_estimate(tmp_path: Path, model: LocalModel) -> None:
    state = tmp_path / "state"
    assert room(state).needed(model) == 111
    room(state).remember(model, 222)
    assert room(state).needed(model) == 222
    assert room(state, names="other settings").needed(model) == 111


def test_a_damaged_record_costs_only_what_it_said(tmp_path: Path, model: LocalModel) -> None:
    state = tmp_path / "state"
    room(state).remember(model, 222)
    (state / "memory.json").write_text("{")
    assert room(state).needed(model) == 111
    room(state).remember(model, 333)
    assert room(state).needed(model) == 333


def test_where_nothing_can_be_written_nothing_is_kept_and_nothing_fails(
    tmp_path: Path, model: LocalModel
) -> None:
    (tmp_path / "state").write_text("in the way")
    blocked = room(tmp_path / "state")
    blocked.remember(model, 222)
    assert blocked.needed(model) == 222
    assert room(tmp_path / "state").needed(model) == 111


def test_the_rough_estimate_by_hand(tmp_path: Path, model: LocalModel) -> None:
    # 3 layers, 2 key-value heads of 64 / 8 numbers, keys and values, 2 bytes each, and 2 sequences
    # of 512 tokens: what the model was trained for is less than what is set.
    cache = 3 * 2 * (8 + 8) * 2 * (2 * 512)
    whole = EngineConfig("m", (), context=8192, parallel=2, threads=1)
    assert needed(model, whole) - model.size == cache + 384 * 1024**2
    half = EngineConfig("m", (), context=256, parallel=2, threads=1)
    assert needed(model, half) - model.size == cache // 2 + 384 * 1024**2


def test_a_known_architecture_is_worked_out(tmp_path: Path) -> None:
    path = write_tiny_llama(tmp_path / "tiny.gguf")
    tiny = Library.open(Settings(home=tmp_path / "home")).local(str(path))
    few, many = (
        needed(tiny, EngineConfig("tiny", (), context=256, parallel=parallel, threads=1))
        for parallel in (1, 4)
    )
    assert PROCESS_BYTES + tiny.size < few < many < PROCESS_BYTES + 64 * 1024**2


def test_what_changes_the_need_changes_the_name(tmp_path: Path) -> None:
    names = {
        setup(Settings(home=tmp_path, **each))
        for each in ({}, {"context": 512}, {"parallel": 1}, {"cache_type": "bf16"})
    }
    assert len(names) == 4


# Durations


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("5m", 300),
        ("1h30m", 5400),
        ("300", 300),
        (300, 300),
        ("1.5s", 1.5),
        ("0", 0),
        ("10µs", 1e-5),
    ],
)
def test_durations(text: str | int, expected: float) -> None:
    assert seconds(text) == pytest.approx(expected)


@pytest.mark.parametrize("text", ["forever", "-1", -1, "-5m", -0.5])
def test_for_ever(text: str | float) -> None:
    assert seconds(text) == float("inf")


@pytest.mark.parametrize("text", ["", "soon", "5 m", "5x", "m", float("nan")])
def test_what_is_no_duration(text: str | float) -> None:
    with pytest.raises(ValueError, match="no duration"):
        seconds(text)


@given(st.integers(0, 10**8))
def test_what_is_spelled_is_read_again(length: int) -> None:
    assert seconds(spelled(length)) == length
