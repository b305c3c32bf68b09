"""What vLLM says of itself: its figures, how far its start has come, and adapters it may read."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from freehold.api.metrics import Told, registry
from freehold.domain.chat import AdapterUse
from freehold.domain.errors import EngineError, InvalidRequest, RefusedFile
from freehold.engines.base import Adapter, AdapterKind
from freehold.engines.vllm.adapters import CONFIGURATION, WEIGHTS, Adapters, stage
from freehold.engines.vllm.figures import figures_of
from freehold.engines.vllm.launch import MAX_RANK
from freehold.engines.vllm.starting import FIRST_STAGE, Start
from freehold.runtime.engine_figures import EngineFigures
from freehold.runtime.observing import Meters
from tests.support.running import run
from tests.support.vllm import write_lora, write_safetensors

# As vLLM 0.32.0 writes them, shortened.
SAID = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="model"} 2.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="model"} 3.0
# TYPE vllm:num_requests_waiting_by_reason gauge
vllm:num_requests_waiting_by_reason{engine="0",model_name="model",reason="capacity"} 3.0
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0",model_name="model"} 0.5
# TYPE vllm:prefix_cache_queries counter
vllm:prefix_cache_queries_total{engine="0",model_name="model"} 1500.0
vllm:prefix_cache_queries_created{engine="0",model_name="model"} 1.7960135837575336e+09
# TYPE vllm:prefix_cache_hits counter
vllm:prefix_cache_hits_total{engine="0",model_name="model"} 1280.0
# TYPE vllm:external_prefix_cache_hits counter
vllm:external_prefix_cache_hits_total{engine="0",model_name="model"} 7.0
# TYPE vllm:num_preemptions counter
vllm:num_preemptions_total{engine="0",model_name="model"} 4.0
# TYPE vllm:request_queue_time_seconds histogram
vllm:request_queue_time_seconds_bucket{engine="0",le="0.3",model_name="model"} 5.0
vllm:request_queue_time_seconds_bucket{engine="0",le="2.0",model_name="model"} 8.0
vllm:request_queue_time_seconds_bucket{engine="0",le="+Inf",model_name="model"} 9.0
vllm:request_queue_time_seconds_count{engine="0",model_name="model"} 9.0
vllm:request_queue_time_seconds_sum{engine="0",model_name="model"} 12.5
# TYPE vllm:lora_requests_info gauge
vllm:lora_requests_info{max_lora="2",running_lora_adapters="red",waiting_lora_adapters=""} 1.0
# TYPE vllm:cache_config_info gauge
vllm:cache_config_info{block_size="128",engine="0",num_cpu_blocks="None",num_gpu_blocks="682"} 1.0
# TYPE http_requests counter
http_requests_total{handler="/inference/v1/generate",method="POST",status="2xx"} 9.0
"""


def test_its_figures_in_our_words() -> None:
    said = figures_of(SAID)
    assert (said.running, said.waiting, said.preemptions) == (2, 3, 4)
    assert said.cache_tokens == 682 * 128
    assert said.held_tokens == 341 * 128
    assert (said.queried_tokens, said.hit_tokens) == (1500, 1280)
    assert said.queue.buckets == (("0.3", 5.0), ("2.0", 8.0), ("+Inf", 9.0))
    assert said.queue.total == 12.5


def test_several_engines_of_one_server_are_one() -> None:
    both = SAID + "\n".join(
        line.replace('engine="0"', 'engine="1"')
        for line in SAID.splitlines()
        if not line.startswith("#")
    )
    said = figures_of(both + "\n")
    assert (said.running, said.cache_tokens, said.held_tokens) == (4, 2 * 682 * 128, 682 * 128)
    assert said.queue.buckets[-1] == ("+Inf", 18.0)


@pytest.mark.parametrize("text", ["", "x{", "vllm:num_requests_running 1\n", "<html>", "\x00" * 9])
def test_what_are_no_figures_of_vllm(text: str) -> None:
    with pytest.raises(EngineError):
        figures_of(text)


def test_they_are_told_under_the_names_of_every_engine() -> None:
    meters = Meters()
    meters.model("m").loads = 1
    figures = (EngineFigures("m", "vllm", 4, 512, figures_of(SAID), 1000),)
    samples = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in registry(Told(meters, figures, (), {})).collect()
        for sample in family.samples
    }
    m = (("engine", "vllm"), ("model", "m"))
    assert samples["freehold_engine_running", m] == 2
    assert samples["freehold_engine_held_tokens", m] == 341 * 128
    assert samples["freehold_engine_cache_tokens", m] == 682 * 128
    assert samples["freehold_engine_hit_tokens_total", m] == 1280
    assert samples["freehold_engine_queue_seconds_bucket", (("le", "2.0"), ("model", "m"))] == 8
    assert samples["freehold_engine_queue_seconds_sum", (("model", "m"),)] == 12.5
    # What it does not count is not made up.
    assert not [name for name, _ in samples if "drafted" in name or "shelved" in name]
    assert "red" not in str(samples)


def test_its_start_in_stages() -> None:
    lines = (
        ("(APIServer pid=1) INFO [model.py:733] Resolved architecture: Qwen2ForCausalLM", None),
        ("(Worker pid=3) INFO Starting to load model /somewhere...", None),
        ("\rLoading safetensors checkpoint shards:   0% Completed | 0/4 [00:00<?, ?it/s]", 0.0),
        ("\rLoading safetensors checkpoint shards:  75% Completed | 3/4 [00:01<00:00]", 0.75),
        ("(Worker pid=3) INFO Loading weights took 0.77 seconds", 0.75),
        ("(EngineCore pid=2) INFO CPU KV cache size: 87,296 tokens", 0.75),
        ("(APIServer pid=1) INFO [entry.py:136] Supported tasks: ['generate']", 0.75),
    )
    start, stages = Start(), [FIRST_STAGE]
    for line, progress in lines:
        start = start.heard(line)
        assert start.progress == progress
        if start.stage != stages[-1]:
            stages.append(start.stage)
    assert stages == [
        FIRST_STAGE,
        "starting its processes",
        "loading the weights",
        "preparing the computation",
        "warming up",
        "opening its socket",
    ]


@pytest.mark.parametrize("line", ["", "checkpoint shards: Completed | 5/0", "something else"])
def test_lines_that_say_nothing_of_it(line: str) -> None:
    assert Start().heard(line) == Start()


def test_what_ended_it_is_remembered_and_not_who_heard_of_it() -> None:
    start = Start("loading the weights", 0.5)
    for line in (
        "(Worker pid=3) ERROR 11-30 09:16:20 [x.py:7] ValueError: No kernel for fp8 on this CPU.",
        "(EngineCore pid=2) Exception: WorkerProc initialization failed due to an exception.",
        "RuntimeError: Engine core initialization failed. See root cause above.",
    ):
        start = start.heard(line)
    assert start.trouble == "ValueError: No kernel for fp8 on this CPU."
    assert (start.stage, start.progress) == ("loading the weights", 0.5)


# Adapters


def test_only_what_was_read_is_in_the_folder(tmp_path: Path) -> None:
    adapter = write_lora(tmp_path, 1)
    (Path(adapter.path).parent / "adapter_model.bin").write_bytes(b"\x80\x04")
    (Path(adapter.path).parent / "tokenizer.json").write_text("{}")
    stage(Path(adapter.path), tmp_path / "staged")
    assert {path.name for path in (tmp_path / "staged").iterdir()} == {WEIGHTS, CONFIGURATION}


@pytest.mark.parametrize(
    "change",
    [
        {"peft_type": "IA3"},
        {"r": MAX_RANK + 1},
        {"r": 0},
        {"r": True},
        {"auto_map": {"AutoModel": "code.Model"}},
        {"auto_mapping": {"x": {"auto_map": 1}}},
    ],
)
def test_configurations_that_are_refused(tmp_path: Path, change: dict[str, object]) -> None:
    adapter = write_lora(tmp_path, 1)
    path = Path(adapter.path).with_name(CONFIGURATION)
    path.write_text(json.dumps({**json.loads(path.read_bytes()), **change}))
    with pytest.raises(RefusedFile):
        stage(Path(adapter.path), tmp_path / "staged")


def test_files_that_are_no_adapters(tmp_path: Path) -> None:
    adapter = Path(write_lora(tmp_path, 1).path)
    with pytest.raises(RefusedFile):
        stage(adapter.with_name("adapter_model.bin"), tmp_path / "a")
    whole = adapter.read_bytes()
    adapter.write_bytes(whole[:-10])
    with pytest.raises(RefusedFile, match="cut short"):
        stage(adapter, tmp_path / "b")
    adapter.write_bytes(b"\x80\x04" + whole)
    with pytest.raises(RefusedFile):
        stage(adapter, tmp_path / "c")
    adapter.unlink()
    with pytest.raises(RefusedFile):
        stage(adapter, tmp_path / "d")


def test_weights_that_are_no_lora(tmp_path: Path) -> None:
    adapter = Path(write_lora(tmp_path, 1).path)
    write_safetensors(adapter, {"model.embed_tokens.weight": np.zeros((2, 2))})
    with pytest.raises(RefusedFile, match="no LoRA"):
        stage(adapter, tmp_path / "staged")


def test_slots_names_and_strengths(tmp_path: Path) -> None:
    posted: list[str] = []

    async def post(path: str, body: dict[str, object]) -> bytes:
        posted.append(f"{path} {body['lora_name']}")
        return b""

    async def scenario() -> None:
        adapter = write_lora(tmp_path, 1)
        none = Adapters(0, post, tmp_path / "none")
        with pytest.raises(InvalidRequest, match="without room"):
            await none.add(adapter)
        folder = tmp_path / "server"
        folder.mkdir()
        adapters = Adapters(1, post, folder)
        with pytest.raises(InvalidRequest, match="control vectors"):
            await adapters.add(Adapter("v", AdapterKind.CONTROL_VECTOR, adapter.path))
        await adapters.add(adapter)
        for uses in (
            (AdapterUse(adapter.name, 0.5),),
            (AdapterUse(adapter.name), AdapterUse(adapter.name)),
            (AdapterUse("other"),),
        ):
            with pytest.raises(InvalidRequest), adapters.used(uses):
                pass
        with adapters.used((AdapterUse(adapter.name),)) as name:
            assert name is not None
        await adapters.remove(adapter.name)
        assert posted[-1] == f"/v1/unload_lora_adapter {name}"
        assert not list(folder.iterdir())
        await adapters.add(adapter)
        with adapters.used((AdapterUse(adapter.name),)) as again:
            assert again != name  # its cache goes by the name

    run(scenario())
