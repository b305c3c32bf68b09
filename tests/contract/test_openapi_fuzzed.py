"""Thousands of requests made from our own OpenAPI description, over the scripted engine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from freehold.engines.scripted import Script
from tests.support.gateway import gateway
from tests.support.tiny_model import write_tiny_llama

pytestmark = pytest.mark.native

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
)


def test_no_request_finds_an_undocumented_answer(tmp_path: Path) -> None:
    tiny = write_tiny_llama(tmp_path / "tiny.gguf")
    with gateway(
        tmp_path / "home", (tiny,), script=lambda _: Script(), context=256, offline=True
    ) as server:
        done = subprocess.run(
            [
                *(str(Path(sys.executable).parent / "st"), "run", f"{server.url}/openapi.json"),
                *("--checks", ",".join(CHECKS), "--phases", "coverage,fuzzing"),
                *("--max-time", "75", "--seed", "1", "--no-color"),
            ],
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-6000:]
        # Whatever was asked, it goes on as before.
        assert server.chat().json()["choices"][0]["message"]["content"] == "All is well."
