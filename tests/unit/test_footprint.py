"""Memory a model takes, against numbers worked out by hand and said by llama.cpp's log."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freehold.domain.engine import CacheConfig, CacheLayout, CacheType
from freehold.machine.anatomy import Attention, Layer
from freehold.machine.dissect import anatomy_of_header, anatomy_of_row
from freehold.machine.footprint import Footprint, cache_per_token, footprint, repacked_types
from freehold.machine.profile import EngineSettings
from freehold.weights.catalog import bundled
from freehold.weights.gguf_types import TensorType
from tests.support.models_on_paper import dense

MIB = 1 << 20
ROW = bundled().find("qwen2.5-coder", "0.5b")
assert ROW is not None
DEFAULT = anatomy_of_row(ROW, ROW.file[0])


def settings(**cache: object) -> EngineSettings:
    return EngineSettings(dataclasses.replace(CacheConfig(), **cache), 2, 512)  # type: ignore[arg-type]


def of_default(context: int, sequences: int, **cache: object) -> Footprint:
    return footprint(
        DEFAULT, settings(**cache), context, sequences, repacked=repacked_types(("avx2",))
    )


def test_a_token_of_the_default_model_takes_12_kib() -> None:
    # 24 layers, 2 heads of 64, keys and values, 2 bytes each.
    assert of_default(8192, 1).cache_per_token == 24 * 2 * 64 * 2 * 2 == 12_288


@pytest.mark.parametrize(
    ("context", "sequences", "said"), [(1024, 1, 12), (8192, 1, 96), (4096, 4, 192)]
)
def test_the_cache_is_as_large_as_llama_cpp_says(context: int, sequences: int, said: int) -> None:
    assert of_default(context, sequences).cache == said * MIB


def test_a_cache_of_q8_0_takes_34_bytes_for_32_numbers() -> None:
    small = of_default(1024, 1, key_type=CacheType.Q8_0, value_type=CacheType.Q8_0)
    assert small.cache_per_token == 24 * 2 * 64 * 2 * 34 // 32


def test_latent_attention_of_deepseek_takes_69_kib_a_token() -> None:
    # 61 layers, 512 + 64 numbers, 2 bytes each (and no values).
    layer = Layer(Attention(128, 1, 576, 0), ())
    assert cache_per_token([layer] * 61, CacheConfig()) == 61 * 576 * 2


def test_a_pool_is_as_large_as_it_is_made() -> None:
    pool = of_default(4096, 8, layout=CacheLayout.UNIFIED, cells=8192)
    assert pool.cache == 8192 * 12_288
    assert pool.outputs > of_default(4096, 8).outputs


def test_scores_of_plain_attention_grow_with_the_context_and_those_of_flash_do_not() -> None:
    plain = of_default(8192, 1).compute - of_default(4096, 1).compute
    flash = of_default(8192, 1, flash_attention=True).compute
    flash -= of_default(4096, 1, flash_attention=True).compute
    # 14 heads, 512 tokens, 4,096 cells: 4 bytes, and 2 more as an operand; and the mask.
    assert plain == 4096 * 512 * (14 * 6 + 4)
    assert flash == 4096 * 512 * 2


def test_repacking_copies_the_types_the_processor_has_kernels_for() -> None:
    anatomy = anatomy_of_header(dense())
    none = footprint(anatomy, settings(), 1024, 1, repacked=repacked_types(("avx2",)))
    all_of_it = footprint(anatomy, settings(), 1024, 1, repacked=repacked_types(("amx_int8",)))
    assert none.repacked == 0
    matrices = sum(w.bytes for layer in anatomy.layers for w in layer.weights)
    assert all_of_it.repacked == matrices + anatomy.output.bytes
    without = EngineSettings(CacheConfig(), 2, 512, repack=False)
    assert footprint(anatomy, without, 1024, 1, repacked=frozenset(TensorType)).repacked == 0


_LAYOUTS = st.sampled_from(CacheLayout)


@given(st.integers(1, 40_000), st.integers(0, 40_000), st.integers(1, 64), st.booleans(), _LAYOUTS)
def test_more_context_and_more_sequences_never_take_less(
    context: int, more: int, sequences: int, flash: bool, layout: CacheLayout
) -> None:
    small = of_default(context, sequences, flash_attention=flash, layout=layout)
    longer = of_default(context + more, sequences, flash_attention=flash, layout=layout)
    wider = of_default(context, sequences + 1, flash_attention=flash, layout=layout)
    assert small.total <= longer.total
    assert small.total <= wider.total
    for each in (small, longer, wider):
        assert sum(each.layers) + each.host == each.total
        assert each.buffers <= each.host
