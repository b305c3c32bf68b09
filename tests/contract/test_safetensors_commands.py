"""Commands on a model in safetensors, which vLLM runs and llama.cpp does not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from freehold.domain.settings import resolve
from freehold.weights.files import hash_file
from freehold.weights.library import Library
from freehold.weights.registry import ModelFile
from tests.support.command import freehold
from tests.support.fake_hub import FakeHub
from tests.unit.test_checkpoint import CONFIG, REFERENCE, files, repository, shard
from tests.unit.test_vllm_need import MACHINES, computer


def pulled(tmp_path: Path, **config: object) -> Path:
    """A store with it; the hub is gone."""
    home = tmp_path / "home"
    content = files(tmp_path)
    content["config.json"] = json.dumps({**CONFIG, **config}).encode()
    with FakeHub([repository(content)]) as hub:
        done = freehold(home, "pull", REFERENCE, extra={"HF_ENDPOINT": hub.endpoint})
    assert done.status == 0, done.err
    return home


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return pulled(tmp_path)


def test_tune_says_what_to_do_instead(home: Path) -> None:
    done = freehold(home, "tune", REFERENCE)
    assert done.status == 2
    assert f"{REFERENCE} is in safetensors, which llama.cpp does not read." in done.err
    assert f"freehold bench {REFERENCE}" in done.err
    assert done.out == ""


def test_bench_says_how_it_is_run(home: Path) -> None:
    done = freehold(home, "bench", REFERENCE, "--users", "1", "--requests", "1", timeout=60)
    assert done.status != 0
    assert "safetensors" in done.err
    assert "vllm = " in done.err


def test_a_plan_of_it_is_a_plan_for_vllm(home: Path) -> None:
    done = freehold(home, "plan", REFERENCE)
    assert done.status == 0, done.err
    assert "vLLM runs" in done.out
    asked = ("plan", REFERENCE, "--users", "3", "--context", "256", "--json")
    said = json.loads(freehold(home, *asked, extra={"FREEHOLD_QUANTIZATION": "mxfp8"}).out)
    assert said["engine"] == "vllm"
    assert said["quantization"] == "mxfp8"
    # 2 layers, 2 heads of 32, keys and values, 16 bits.
    assert said["memory_estimated"]["cache"] == 3 * 256 * 2 * 2 * 32 * 2 * 2
    assert said["room"]["enough"] is True


def test_a_plan_counts_what_the_processor_computes_with(home: Path) -> None:
    asked = ("plan", REFERENCE, "--context", "256")
    with_avx512 = ("--machine", str(MACHINES / "two-cores.json"))
    without = ("--machine", str(MACHINES / "container-4gb.json"))
    assert "16 bits each" in freehold(home, *asked, *with_avx512).out
    assert "32 bits each: without AVX-512" in freehold(home, *asked, *without).out
    short, long = (
        json.loads(freehold(home, *asked, *machine, "--json").out)
        for machine in (with_avx512, without)
    )
    assert (short["precision"], long["precision"]) == ("bfloat16", "float32")
    for part in ("weights", "cache"):
        assert long["memory_estimated"][part] == 2 * short["memory_estimated"][part]


def test_a_plan_says_which_cards_and_why(home: Path, tmp_path: Path) -> None:
    (card,) = computer("rtx-4090").gpus
    several = tmp_path / "several.json"
    machine = msgspec.structs.replace(computer("rtx-4090"), gpus=(card,) * 3)
    several.write_bytes(msgspec.json.encode(machine))
    words = ("plan", REFERENCE, "--machine", str(several))
    said = json.loads(freehold(home, *words, "--json").out)
    assert said["cards"]["numbers"] == [0]
    assert said["context"] == 512
    extra = {"FREEHOLD_TENSOR_PARALLEL": "2"}
    shared = freehold(home, *words, extra=extra)
    assert shared.status == 0, shared.err
    assert "Cards: 2 NVIDIA GeForce RTX 4090 of 3 cards, which share each layer." in shared.out
    here = ("plan", REFERENCE, "--machine", str(MACHINES / "two-cores.json"))
    short = freehold(home, *here, "--users", "256", "--memory", "3.435GB")
    assert "It does not fit" in short.out
    assert "With --context 256 it would." in short.out


def test_a_plan_of_everything_says_why_it_is_no_choice(home: Path) -> None:
    said = json.loads(freehold(home, "plan", "--json").out)
    (found,) = [each for each in said["excluded"] if REFERENCE in json.dumps(each)]
    assert "vLLM runs" in json.dumps(found)


def converted(home: Path, tiny: Path, folder: Path, of: str | None = None) -> None:
    """A model, and weights in safetensors that were made of it, or ``of`` another."""
    done = freehold(home, "import", str(tiny), "--name", "tiny:gguf")
    assert done.status == 0, done.err
    here = Library.open(resolve({"home": str(home)}, environ={}))
    made = folder / "made"
    made.write_bytes(shard(folder, "a"))
    digest, size = hash_file(made), made.stat().st_size
    here.store.adopt(made, digest)
    parent = here.registry.get("tiny:gguf")
    weights = ModelFile("model.safetensors", size, digest)
    here.registry.put(
        replace(
            parent,
            reference="tiny:gguf-safetensors",
            files=(weights,),
            derived_from=of or parent.files[0].sha256,
        )
    )


@pytest.mark.native
def test_what_was_converted_is_known_by_its_parent(tmp_path: Path, tiny: Path) -> None:
    home = tmp_path / "home"
    converted(home, tiny, tmp_path)
    name = "tiny:gguf-safetensors"
    for words in (("show", name), ("licence", name), ("verify-files", name), ("plan", name)):
        done = freehold(home, *words)
        assert done.status == 0, (words, done.err)
    for done in (freehold(home, "tune", name), freehold(home, "run", name, "x")):
        assert done.status == 2, done.err
        assert f"{name} is in safetensors, which llama.cpp does not read." in done.err


def test_what_was_converted_of_a_model_that_is_gone_is_refused(tmp_path: Path, tiny: Path) -> None:
    home = tmp_path / "home"
    converted(home, tiny, tmp_path, of="0" * 64)
    orphaned = freehold(home, "show", "tiny:gguf-safetensors")
    assert orphaned.status == 2
    assert "the model it was made of, which is gone" in orphaned.err


def test_its_own_quantisation_is_shown_and_kept(tmp_path: Path) -> None:
    home = pulled(tmp_path, quantization_config={"quant_method": "awq", "bits": 4})
    shown = freehold(home, "show", REFERENCE)
    assert shown.status == 0, shown.err
    assert "awq, 4 bits" in shown.out
    extra = {"FREEHOLD_QUANTIZATION": "fp8_per_tensor"}
    said = json.loads(freehold(home, "plan", REFERENCE, "--json", extra=extra).out)
    assert (said["quantisation"], said["quantization"]) == ("awq, 4 bits", "none")
