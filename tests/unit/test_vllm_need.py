"""What vLLM takes for a model in safetensors: from its configuration and its headers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from freehold.domain.engine import Precision, Quantization
from freehold.domain.errors import InvalidSetting
from freehold.domain.settings import resolve
from freehold.machine.computer import Computer
from freehold.machine.placement import RUNTIME
from freehold.machine.vllm_need import (
    SHARE,
    Room,
    VllmNeed,
    cached_bytes,
    capacity,
    effective,
    precision,
    room,
    trained_context,
    weight_bytes,
)
from freehold.weights.checkpoint import quantisation
from freehold.weights.safetensors import Tensor

MACHINES = Path(__file__).parents[1] / "data" / "machines"
# As Qwen2.5-0.5B has them.
CONFIG: dict[str, Any] = {
    "hidden_size": 896,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "num_hidden_layers": 24,
    "max_position_embeddings": 32768,
}


def tensor(name: str, *shape: int, dtype: str = "BF16", size: int = 2) -> Tensor:
    count = 1
    for each in shape:
        count *= each
    return Tensor(name, dtype, shape, 0, count * size)


def computer(name: str) -> Computer:
    said = msgspec.json.decode((MACHINES / f"{name}.json").read_bytes())
    return msgspec.convert(said.get("computer", said), Computer)


def test_the_cache_is_that_of_grouped_heads() -> None:
    short, long = Precision.BFLOAT16, Precision.FLOAT32
    assert cached_bytes(CONFIG, short) == 24 * 2 * (896 // 14) * 2 * 2
    assert cached_bytes(CONFIG, long) == 2 * cached_bytes(CONFIG, short)
    assert cached_bytes({**CONFIG, "head_dim": 128}, short) == 24 * 2 * 128 * 2 * 2
    assert cached_bytes({"text_config": CONFIG}, short) == cached_bytes(CONFIG, short)
    assert trained_context(CONFIG) == 32768


@pytest.mark.parametrize(
    "config",
    [{}, {**CONFIG, "num_attention_heads": 0}, {**CONFIG, "num_hidden_layers": "24"}],
)
def test_a_configuration_that_does_not_tell_takes_nothing_for_granted(
    config: dict[str, Any],
) -> None:
    assert cached_bytes(config, Precision.BFLOAT16) == 0


def test_matrices_become_smaller_and_embeddings_stay() -> None:
    tensors = [
        tensor("model.embed_tokens.weight", 1000, 64),
        tensor("model.layers.0.mlp.up_proj.weight", 256, 64, dtype="F32", size=4),
        tensor("model.layers.0.input_layernorm.weight", 64),
        tensor("lm_head.weight", 1000, 64),
    ]
    others = 2 * (1000 * 64) * 2 + 64 * 2
    short, long = Precision.BFLOAT16, Precision.FLOAT32
    assert weight_bytes(tensors, Quantization.NONE, short) == others + 256 * 64 * 2
    assert weight_bytes(tensors, Quantization.NONE, long) == 2 * (others + 256 * 64 * 2)
    assert weight_bytes(tensors, Quantization.FP8_PER_TENSOR, short) == others + 256 * 64
    assert weight_bytes(tensors, Quantization.MXFP4, short) == others + 256 * 64 * 4.25 / 8


@pytest.mark.parametrize(
    ("sets", "computed"),
    [
        (("avx", "avx2", "fma"), Precision.FLOAT32),
        (("avx2", "avx512f"), Precision.BFLOAT16),
        (("avx2", "avx512f", "amx_bf16"), Precision.BFLOAT16),
        (("neon", "bf16"), Precision.BFLOAT16),
        (None, Precision.BFLOAT16),
    ],
)
def test_only_an_old_processor_computes_with_32_bits(
    sets: tuple[str, ...] | None, computed: Precision
) -> None:
    assert precision(CONFIG, Quantization.NONE, sets) is computed
    assert precision(CONFIG, Quantization.FP8_PER_CHANNEL, sets) is Precision.BFLOAT16
    awq = {"quantization_config": {"quant_method": "awq", "bits": 4}}
    assert precision(awq, Quantization.NONE, sets) is Precision.BFLOAT16


def test_what_is_quantised_already_stays_as_it_is() -> None:
    awq = {"quantization_config": {"quant_method": "awq", "bits": 4}}
    assert quantisation(awq) == "awq, 4 bits"
    assert quantisation({"quantization_config": {"quant_method": "fp8"}}) == "fp8"
    assert quantisation({"quantization_config": {"quant_method": "\x1b[31m"}}) == "an unknown way"
    assert quantisation(CONFIG) is None
    assert effective(Quantization.MXFP8, awq) is Quantization.NONE
    assert effective(Quantization.MXFP8, CONFIG) is Quantization.MXFP8
    packed = [tensor("model.layers.0.mlp.up_proj.qweight", 64, 32, dtype="I32", size=4)]
    assert weight_bytes(packed, Quantization.NONE, Precision.FLOAT32) == 64 * 32 * 4


def test_without_a_card_everything_lies_in_memory() -> None:
    here = computer("two-cores")
    need = VllmNeed(10**9, 10**9)
    found = room(need, here, cards=1)
    assert (found.cards, found.needed) == (0, need.total)
    assert found.available == here.memory.available
    assert not room(need, here, cards=1, memory=10**9).enough


def test_cards_hold_weights_and_cache_in_even_shares() -> None:
    two = computer("two-cards")
    shares = [int(gpu.total * SHARE) for gpu in two.gpus]
    need = VllmNeed(10**9, 10**9)
    assert room(need, two, cards=2).available == 2 * min(shares)
    assert room(need, two, cards=1).available == max(shares)
    assert room(need, two, cards=1).needed == 2 * 10**9 + RUNTIME


def test_a_card_of_which_too_little_is_free_holds_nothing() -> None:
    here = computer("rtx-4090")
    (card,) = here.gpus
    assert capacity(card) == int(card.total * SHARE)
    assert capacity(msgspec.structs.replace(card, available=int(card.total * 0.9))) == 0


def test_how_many_tokens_there_is_room_for() -> None:
    assert Room(1, needed=0, available=105_000).tokens(100) == 768  # of 1,000, in steps of 256
    assert Room(1, needed=200_000, available=105_000).tokens(100) == 0


def test_the_setting_knows_what_vllm_knows() -> None:
    def resolved(value: str) -> str:
        return resolve({}, environ={"FREEHOLD_QUANTIZATION": value}).quantization

    assert resolved("fp8_per_tensor") == "fp8_per_tensor"
    assert resolve({}, environ={}).quantization == "none"
    with pytest.raises(InvalidSetting, match=r"fp8_per_tensor.* FREEHOLD_QUANTIZATION"):
        resolved("q4_k_m")
