"""Each kind of model that is taken in safetensors, with random weights: pulled, and run by vLLM.

What it says is noise; that vLLM takes the files as they were checked here, and is told the tokens
of the same texts, is not.
"""

from __future__ import annotations

from pathlib import Path

import httpx2
import pytest

from tests.end_to_end.test_vllm import wait_until_ready
from tests.support import vllm
from tests.support.command import freehold, serving
from tests.support.fake_hub import FakeFile, FakeHub, FakeRepository
from tests.support.tiny_checkpoint import KINDS, texts, weights

pytestmark = [pytest.mark.vllm, pytest.mark.native]

# The 0.5B is one of Qwen2's: `test_vllm_from_hub.py`.
OTHERS = tuple(kind for kind in KINDS if kind != "Qwen2ForCausalLM")


@pytest.mark.parametrize("kind", OTHERS)
def test_it_is_pulled_and_answers(tmp_path: Path, kind: str) -> None:
    reference = f"hf:someone/{kind.lower()}"
    files = {name: FakeFile(data, lfs=False) for name, data in texts(kind).items()}
    files["model.safetensors"] = FakeFile(weights(tmp_path, kind))
    home = tmp_path / "home"
    (home / "engines").mkdir(parents=True)
    (home / "engines" / "vllm").symlink_to(vllm.home() / "engines" / "vllm")
    repository = FakeRepository(reference.removeprefix("hf:"), files, card={"license": "mit"})
    with FakeHub([repository]) as hub:
        done = freehold(home, "pull", reference, extra={"HF_ENDPOINT": hub.endpoint})
    assert done.status == 0, done.err
    words = (reference, "--vllm", reference, "--context", "256", "--parallel", "2")
    with serving(home, *words) as running:
        wait_until_ready(running.url)
        asked = {"model": reference, "prompt": "hell 1234", "max_tokens": 8, "temperature": 0}
        said = [
            httpx2.post(f"{running.url}/v1/completions", json=asked, timeout=100, trust_env=False)
            for _ in range(2)
        ]
    for answer in said:
        assert answer.status_code == 200, answer.text
    first, again = (answer.json() for answer in said)
    # "hell", a space, and four digits, which no merge joins.
    assert first["usage"]["prompt_tokens"] == 6
    assert 1 <= first["usage"]["completion_tokens"] <= 8
    assert first["choices"][0]["text"] == again["choices"][0]["text"]
