"""Predicted speed: sums that can be checked by hand, and what must hold for any numbers."""

from __future__ import annotations

import dataclasses

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from freehold.domain.engine import CacheConfig, CacheType
from freehold.engines.llamacpp import pace
from freehold.machine.calibration import FEW, MANY, TypeCost
from freehold.machine.computer import Gpu, GpuKind
from freehold.machine.dissect import anatomy_of_header
from freehold.machine.footprint import CELLS
from freehold.machine.placement import OnCard, Placement
from freehold.machine.prices import measured_prices
from freehold.machine.profile import EngineSettings
from freehold.machine.roofline import roofline
from freehold.machine.speed import (
    FIRST_CHUNK,
    MEASURED_BAND,
    READING_SECONDS,
    SMALLEST_CHUNK,
    bytes_moved,
    cells_read,
    largest_chunk,
    predict,
    reading_chunk,
    time_to_first_token,
)
from freehold.weights.gguf_types import padded
from tests.support.models_on_paper import COMPUTER, calibration, dense

SETTINGS = EngineSettings(CacheConfig(), 4, 512)
MODEL = anatomy_of_header(dense())
# Of each layer: queries 512, keys and values 128 each, output 512, feed-forward 2 * 1,024 + 512.
ROWS = 4 * 3840


def test_a_step_is_the_sum_of_what_was_measured() -> None:
    known = calibration()
    matrices = sum(w.elements for layer in MODEL.layers for w in layer.weights)
    step = known.step + 4 * known.layer
    step += (matrices + MODEL.output.elements) * 34 / 32 / 20e9
    step += (ROWS + 2048) * 1e-8
    step += 2048 * known.logit
    step += 4 * 8 * 2304 * 1e-8  # layers, heads, cells in blocks of 256
    found = predict(MODEL, known, COMPUTER, SETTINGS, depth=2048)
    assert found.decode == pytest.approx(1 / step)
    assert found.each == found.decode
    assert found.band == MEASURED_BAND
    assert "20.0 GB/s measured 2026-11-24" in found.basis


def test_a_prompt_takes_its_chunks_one_after_the_other() -> None:
    known = calibration()
    matrices = sum(w.elements for layer in MODEL.layers for w in layer.weights)
    seconds = 0.0
    for tokens, cells in ((512, 512), (512, 1024), (176, 1280)):
        seconds += known.step + 4 * known.layer + tokens * (matrices * 1e-11 + ROWS * 1e-9)
        seconds += 4 * 8 * tokens * cells * 4e-9
    seconds += MODEL.output.elements * 34 / 32 / 20e9 + 2048 * (known.logit + 1e-8)
    assert time_to_first_token(MODEL, known, COMPUTER, SETTINGS, 1200) == pytest.approx(seconds)


@given(chunks=st.integers(0, 2000), tokens=st.integers(1, 5000))
def test_cells_in_closed_form_are_those_counted_chunk_by_chunk(chunks: int, tokens: int) -> None:
    counted = sum(padded(chunk * tokens, CELLS) for chunk in range(1, chunks + 1))
    assert cells_read(chunks, tokens) == counted


def test_a_prompt_of_any_length_is_planned_at_once() -> None:
    """Chunk by chunk, a prompt of 100 million tokens took a server minutes."""
    one, two = (
        time_to_first_token(MODEL, calibration(), COMPUTER, SETTINGS, prompt)
        for prompt in (10**15, 2 * 10**15)
    )
    assert two / one == pytest.approx(4, rel=0.01)


def test_a_slow_machine_reads_in_pieces_of_a_second() -> None:
    assert reading_chunk(MODEL, calibration(), COMPUTER, SETTINGS) == 512
    for slower in (100, 200):
        known = calibration(slower)
        size = reading_chunk(MODEL, known, COMPUTER, SETTINGS)
        assert SMALLEST_CHUNK < size < 512
        seconds = size / predict(MODEL, known, COMPUTER, SETTINGS, depth=0).prefill
        assert seconds == pytest.approx(READING_SECONDS, rel=0.15)
        larger = dataclasses.replace(MODEL, layers=MODEL.layers * 2)
        assert reading_chunk(larger, known, COMPUTER, SETTINGS) < size
    assert reading_chunk(MODEL, calibration(1e6), COMPUTER, SETTINGS) == SMALLEST_CHUNK


def test_between_few_tokens_and_many_costs_lie_on_a_line() -> None:
    prices, part = measured_prices(calibration()), MODEL.layers[0].weights[0]
    few, middle, many = (prices.product(part, n) for n in (FEW, (FEW + MANY) // 2, MANY))
    assert few < middle < many
    assert middle == pytest.approx((few + many) / 2)


def test_what_was_not_measured_widens_the_band_and_is_said() -> None:
    others = EngineSettings(
        CacheConfig(key_type=CacheType.Q8_0, value_type=CacheType.Q8_0, flash_attention=True),
        2,
        512,
        repack=False,
    )
    found = predict(MODEL, calibration(), COMPUTER, others, depth=0)
    assert found.band > MEASURED_BAND
    for words in ("cache not measured", "4 threads, not 2", "repacked"):
        assert words in found.basis


def test_a_calibration_made_in_company_is_trusted_less() -> None:
    known = msgspec.structs.replace(calibration(), share=0.4)
    found = predict(MODEL, known, COMPUTER, SETTINGS, depth=0)
    assert found.band > MEASURED_BAND
    assert "40% of the cores' time" in found.basis


def test_without_a_calibration_nothing_is_called_measured() -> None:
    found = predict(MODEL, None, COMPUTER, SETTINGS, depth=0)
    assert found.band > 0.5
    assert "nothing of it is measured" in found.basis


def test_a_narrow_model_takes_longer_for_as_many_weights() -> None:
    whole = MODEL.layers[0]
    thin = tuple(dataclasses.replace(w, rows=4 * w.rows) for w in whole.weights)
    narrow = dataclasses.replace(MODEL, layers=(dataclasses.replace(whole, weights=thin),) * 4)
    as_it_is = predict(MODEL, calibration(), COMPUTER, SETTINGS, depth=0)
    found = predict(narrow, calibration(), COMPUTER, SETTINGS, depth=0)
    assert 1 / found.decode - 1 / as_it_is.decode == pytest.approx(3 * ROWS * 1e-8)
    assert found.prefill < as_it_is.prefill


def test_nothing_is_read_faster_than_memory_gives_it() -> None:
    known = msgspec.structs.replace(
        calibration(), types=(TypeCost("Q8_0", 1e-13, 1e-12, 1e-12),), bandwidth=1e9
    )
    found = predict(MODEL, known, COMPUTER, SETTINGS, depth=0)
    assert found.decode < 1e9 / bytes_moved(MODEL, SETTINGS, 0, 1)


def test_a_step_reads_no_more_of_a_prompt_than_takes_a_second() -> None:
    assert READING_SECONDS == pace.ALONE_SECONDS
    assert (FIRST_CHUNK, SMALLEST_CHUNK) == (pace.FIRST_CHUNK, pace.SMALLEST_CHUNK)
    assert largest_chunk(MODEL, None, COMPUTER, SETTINGS) == 512
    assert largest_chunk(MODEL, calibration(), COMPUTER, SETTINGS) == 512
    slow = calibration(100)
    seconds = predict(MODEL, slow, COMPUTER, SETTINGS, depth=0).prefill
    assert largest_chunk(MODEL, slow, COMPUTER, SETTINGS) == round((1 + MEASURED_BAND) * seconds)
    assert largest_chunk(MODEL, calibration(10_000), COMPUTER, SETTINGS) == FIRST_CHUNK


def test_layers_on_a_card_are_read_at_the_card_s_speed() -> None:
    card = Gpu("card", GpuKind.CUDA, 24 << 30, 24 << 30, bandwidth=1e12)
    computer = type(COMPUTER)(
        COMPUTER.system, COMPUTER.processor, COMPUTER.memory, COMPUTER.disk, (card,)
    )

    def decode(layers: int) -> float:
        placed = Placement(5, (OnCard(0, "card", layers, 1, 2),) if layers else (), 0, 0)
        return predict(MODEL, None, computer, SETTINGS, 0, placement=placed).decode

    speeds = [decode(layers) for layers in range(6)]
    assert speeds[1:] == sorted(speeds[1:])  # the first is bought with a step of the card's
    read = sum(w.bytes for layer in MODEL.layers for w in layer.weights) + MODEL.output.bytes
    # 50 µs for each of four layers and for the output, and the bytes at what is reached.
    assert 1 / speeds[-1] == pytest.approx(5 * 50e-6 + read / 0.85e12, rel=0.1)


@given(
    st.integers(0, 30_000),
    st.integers(0, 3000),
    st.integers(1, 63),
    st.floats(1, 10),
    st.booleans(),
)
def test_more_to_do_and_a_slower_machine_never_make_it_faster(
    depth: int, more: int, sequences: int, slower: float, measured: bool
) -> None:
    known = calibration() if measured else None
    found = predict(MODEL, known, COMPUTER, SETTINGS, depth, sequences)
    deeper = predict(MODEL, known, COMPUTER, SETTINGS, depth + more, sequences)
    fuller = predict(MODEL, known, COMPUTER, SETTINGS, depth, sequences + 1)
    assert deeper.decode <= found.decode
    assert deeper.prefill <= found.prefill
    assert fuller.each <= found.each * (1 + 1e-9)
    if measured:
        slow = predict(MODEL, calibration(slower), COMPUTER, SETTINGS, depth, sequences)
        assert slow.decode == pytest.approx(found.decode / slower)
        assert slow.prefill == pytest.approx(found.prefill / slower)


def test_a_roofline_is_the_share_of_what_is_possible() -> None:
    known = calibration()
    limit = known.bandwidth / bytes_moved(MODEL, SETTINGS, 1000, 4) * 4
    found = roofline(
        *(MODEL, known, SETTINGS), depth=1000, sequences=4, decode=limit / 2, prefill=1
    )
    assert found.decode == pytest.approx(0.5)
    matrices = sum(w.elements for layer in MODEL.layers for w in layer.weights)
    looks = 4 * 8 * 128 * (1000 + 256)
    assert found.prefill == pytest.approx(2 * (matrices + looks) / 200e9)
    assert found.text.startswith("decode at 50%")
