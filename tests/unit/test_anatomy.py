"""What a model is made of: exactly from a header, about from a catalogue row."""

from __future__ import annotations

from pathlib import Path

import pytest

from freehold.domain.errors import UnknownArchitecture
from freehold.engines.llamacpp.probe_model import write_probe_model
from freehold.machine.dissect import anatomy_of_header, anatomy_of_row
from freehold.weights.catalog import bundled
from freehold.weights.gguf import read_header
from freehold.weights.gguf_header import MetadataValue
from freehold.weights.gguf_types import TensorType
from tests.support.models_on_paper import dense, header, tensor


def test_every_byte_and_number_of_a_file_is_counted(tmp_path: Path) -> None:
    write_probe_model(tmp_path / "probe.gguf")
    found = read_header(tmp_path / "probe.gguf")
    anatomy = anatomy_of_header(found)
    last = sum(t.nbytes for t in found.tensors if t.name == "output_norm.weight")
    assert anatomy.bytes == sum(t.nbytes for t in found.tensors) - last
    assert (anatomy.embedding, anatomy.vocabulary, anatomy.feed_forward) == (256, 288, 512)
    assert anatomy.exact
    assert not anatomy.tied
    assert {part.type for part in anatomy.read()} == {
        *(TensorType.Q4_0, TensorType.Q8_0, TensorType.Q4_K, TensorType.Q6_K)
    }


def test_grouped_queries_keep_what_their_few_heads_need() -> None:
    attention = anatomy_of_header(dense()).layers[0].attention
    assert attention is not None
    assert (attention.heads, attention.keys, attention.values) == (8, 128, 128)


def test_every_sixth_layer_of_gemma_3_looks_at_everything() -> None:
    layers = anatomy_of_header(dense(12, window=512, architecture="gemma3")).layers
    windows = [layer.attention.window for layer in layers if layer.attention]
    assert windows == [512, 512, 512, 512, 512, None] * 2


def test_the_window_phi_3_states_is_not_used() -> None:
    layers = anatomy_of_header(dense(window=512, architecture="phi3")).layers
    assert all(layer.attention and layer.attention.window is None for layer in layers)


def test_latent_attention_keeps_the_compressed_keys_alone() -> None:
    numbers: dict[str, MetadataValue] = {
        "block_count": 1,
        "embedding_length": 1024,
        "attention.head_count": 16,
        "attention.head_count_kv": 1,
        "attention.key_length": 576,
        "attention.value_length": 512,
        "attention.key_length_mla": 192,
        "attention.value_length_mla": 128,
    }
    tensors = [
        tensor("token_embd", 1024, 2048),
        tensor("blk.0.attn_kv_a_mqa", 1024, 576),
        tensor("blk.0.ffn_up", 1024, 2048),
    ]
    (layer,) = anatomy_of_header(header("deepseek2", numbers, tensors)).layers
    assert layer.attention is not None
    assert (layer.attention.keys, layer.attention.values) == (576, 0)


def test_a_recurrent_layer_has_a_state_and_no_cache() -> None:
    numbers: dict[str, MetadataValue] = {
        "block_count": 2,
        "embedding_length": 512,
        "attention.head_count": 8,
        "attention.head_count_kv": 2,
        "ssm.conv_kernel": 4,
        "ssm.inner_size": 1024,
        "ssm.state_size": 128,
        "ssm.group_count": 1,
    }
    tensors = [
        tensor("token_embd", 512, 2048),
        tensor("blk.0.ssm_in", 512, 2304),
        tensor("blk.0.attn_qkv", 512, 512),
        tensor("blk.1.attn_k", 512, 128),
    ]
    first, second = anatomy_of_header(header("granitehybrid", numbers, tensors)).layers
    assert first.attention is None
    assert first.state == 4 * (3 * (1024 + 2 * 128) + 1024 * 128)
    assert second.attention is not None
    assert second.state == 0


def test_of_many_experts_a_token_reads_those_it_is_sent_to() -> None:
    numbers: dict[str, MetadataValue] = {
        "block_count": 1,
        "embedding_length": 512,
        "attention.head_count": 8,
        "expert_count": 16,
        "expert_used_count": 2,
    }
    tensors = [
        tensor("token_embd", 512, 2048),
        tensor("blk.0.attn_k", 512, 512),
        tensor("blk.0.ffn_up_exps", 512, 256, 16),
    ]
    anatomy = anatomy_of_header(header("qwen3moe", numbers, tensors))
    experts, plain = 512 * 256 * 16, 512 * 512
    assert anatomy.feed_forward == 2 * 256
    assert sum(w.elements for w in anatomy.read(1)) == plain + experts // 8
    assert sum(w.elements for w in anatomy.multiplied()) == plain + experts // 8
    assert sum(w.elements for w in anatomy.read(10_000)) == plain + experts


def test_layers_that_only_guess_ahead_are_left_on_the_disk() -> None:
    found = dense(4)
    more = header(
        "qwen2",
        {"nextn_predict_layers": 1, **_numbers(found)},
        list(found.tensors),
    )
    assert len(anatomy_of_header(more).layers) == 3


def _numbers(found: object) -> dict[str, MetadataValue]:
    metadata = found.metadata  # type: ignore[attr-defined]
    return {
        key.partition(".")[2]: value for key, value in metadata.items() if key.startswith("qwen2.")
    }


def test_an_unknown_architecture_is_refused_with_what_to_do() -> None:
    with pytest.raises(UnknownArchitecture, match="'martian' is not known") as caught:
        anatomy_of_header(dense(architecture="martian"))
    assert caught.value.hint


def test_a_header_without_a_number_that_matters_is_refused() -> None:
    with pytest.raises(UnknownArchitecture, match=r"attention\.head_count"):
        anatomy_of_header(
            header(
                "llama",
                {"block_count": 1, "embedding_length": 512},
                [tensor("token_embd", 512, 2048), tensor("blk.0.attn_k", 512, 128)],
            )
        )


def test_rows_of_the_catalogue_come_to_the_parameters_they_state() -> None:
    near = 0
    for row in bundled().models:
        for file in row.file:
            try:
                anatomy = anatomy_of_row(row, file)
            except UnknownArchitecture:
                assert row.architecture.name is None
                continue
            assert not anatomy.exact
            stated = row.architecture.parameters
            # A vision tower is a file of its own.
            if stated is not None and "vision" not in row.tasks:
                assert anatomy.parameters == pytest.approx(stated, rel=0.03)
                near += 1
            if file.size is not None:
                assert anatomy.bytes == pytest.approx(file.size, rel=1e-6)
    assert near > 30
