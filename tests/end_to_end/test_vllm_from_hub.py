"""Safetensors from a hub, pulled and run by vLLM: the real 0.5B, as its converted files are.

The hub is one on loopback that speaks the API; no other can be asked here.
"""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path

import httpx2
import pytest

from freehold.text.vocabulary import Vocabulary, close_vocabulary, open_vocabulary
from tests.end_to_end.test_vllm import wait_until_ready
from tests.support import vllm
from tests.support.command import freehold, serving
from tests.support.fake_hub import FakeFile, FakeHub, FakeRepository

pytestmark = [pytest.mark.vllm, pytest.mark.weights, pytest.mark.native]

REFERENCE = "hf:someone/coder-0.5b"
TEXTS = (
    "def f(x):\n\treturn x ** 2  # don't\n",
    "It's 12345 o'clock; I'll go.\r\n\r\n  now   ",
    "\u65e5\u672c\u8a9e\u306e\u30c6\u30ad\u30b9\u30c8 \U0001f600\U0001f468\u200d\U0001f469",
    "caf\u00e9 \u00df \u0410\u0411\u0412",
    "<|im_start|>user\n<tool_call>{}</tool_call><|fim_prefix|>x<|im_end|>",
)


class Large(FakeFile):
    """Its digest is computed once."""

    @cached_property
    def sha256(self) -> str:
        return super().sha256


def converted(home: Path) -> dict[str, Path]:
    path = home / "manifests" / "qwen2.5-coder%3A0.5b-safetensors.json"
    files = json.loads(path.read_bytes())["files"]
    return {file["name"]: home / "blobs" / file["sha256"] for file in files}


@pytest.fixture(scope="module")
def pulled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store into which it was pulled; the hub is gone."""
    from_here = vllm.home()
    files = {
        name: Large(path.read_bytes(), lfs=name.endswith("safetensors"))
        for name, path in converted(from_here).items()
    }
    beside = {"pytorch_model.bin": FakeFile(b"\x80\x04"), "README.md": FakeFile(b"# x", lfs=False)}
    card = {"license": "apache-2.0", "base_model": "Qwen/Qwen2.5-Coder-0.5B-Instruct"}
    home = tmp_path_factory.mktemp("home")
    (home / "engines").symlink_to(from_here / "engines")
    with FakeHub([FakeRepository("someone/coder-0.5b", {**files, **beside}, card=card)]) as hub:
        done = freehold(home, "pull", REFERENCE, extra={"HF_ENDPOINT": hub.endpoint}, timeout=200)
        assert done.status == 0, done.err
        assert not [path for path in hub.paths("hub") if path.endswith(".bin")]
    return home


def manifest(home: Path) -> list[dict[str, str]]:
    (path,) = (home / "manifests").glob("*.json")
    files: list[dict[str, str]] = json.loads(path.read_bytes())["files"]
    return files


def test_its_tokens_are_those_of_the_gguf_file(pulled: Path) -> None:
    made = pulled / "blobs" / manifest(pulled)[-1]["sha256"]
    gguf = vllm.home() / "manifests" / "qwen2.5-coder%3A0.5b.json"
    original = vllm.home() / "blobs" / json.loads(gguf.read_bytes())["files"][0]["sha256"]
    opened = [open_vocabulary((path,)) for path in (made, original)]
    try:
        ours, theirs = opened
        assert ours.size == theirs.size
        assert ours.ends == theirs.ends
        assert ours.table().unseen == theirs.table().unseen
        assert ours.table().pieces == theirs.table().pieces
        for text in (*TEXTS, Path(__file__).read_text()):
            for special in (False, True):
                assert both(ours, text, special=special) == both(theirs, text, special=special)
    finally:
        for vocabulary in opened:
            close_vocabulary(vocabulary)


def both(vocabulary: Vocabulary, text: str, *, special: bool) -> tuple[list[int], list[int]]:
    tokens = vocabulary.tokenize(text, special=special)
    return tokens, vocabulary.with_beginning(vocabulary.with_ending(tokens))


def test_it_is_locked_and_judged_as_any(pulled: Path) -> None:
    licence = freehold(pulled, "licence", REFERENCE, "--json")
    assert licence.status == 0, licence.err
    assert "Apache-2.0" in licence.out
    verified = freehold(pulled, "verify-files", REFERENCE)
    assert verified.status == 0, verified.err
    shown = freehold(pulled, "show", REFERENCE)
    assert shown.status == 0, shown.err
    assert "qwen2" in shown.out


def test_llama_cpp_is_not_asked_to_run_it(pulled: Path) -> None:
    done = freehold(pulled, "run", REFERENCE, "x")
    assert done.status == 2
    assert "vllm" in done.err.lower()


def test_it_is_served(pulled: Path) -> None:
    words = (REFERENCE, "--vllm", REFERENCE, "--context", "1024", "--parallel", "2")
    with serving(pulled, *words) as running:
        wait_until_ready(running.url)
        asked = {
            "model": REFERENCE,
            "messages": [{"role": "user", "content": "Count from one to five in words."}],
            "temperature": 0,
            "max_tokens": 40,
        }
        said = httpx2.post(
            f"{running.url}/v1/chat/completions", json=asked, timeout=100, trust_env=False
        )
        assert said.status_code == 200, said.text
        assert "three" in said.json()["choices"][0]["message"]["content"].lower()
