"""Threads of a worker that stay on cores of their own."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from freehold.domain.chat import GenerateRequest
from freehold.domain.engine import Affinity
from freehold.domain.sampling import Sampling
from freehold.engines.base import EngineConfig
from freehold.engines.llamacpp.client import LlamaCppEngine
from tests.support.endless import write_endless_llama
from tests.support.running import collect, run

pytestmark = [
    pytest.mark.native,
    pytest.mark.skipif(sys.platform != "linux", reason="threads are looked up in /proc"),
]


def allowed(pid: int) -> set[str]:
    """Where each thread of a process may run, as Linux writes it: ``0-1``, ``1``."""
    found = set()
    for status in Path(f"/proc/{pid}/task").glob("*/status"):
        (cores,) = re.findall(r"^Cpus_allowed_list:\s*(.+)$", status.read_text(), re.MULTILINE)
        found.add(cores)
    return found


async def while_answering(model: Path, affinity: Affinity) -> set[str]:
    config = EngineConfig("endless", (str(model),), 512, 1, threads=2, affinity=affinity)
    engine = LlamaCppEngine(config)
    await engine.load()
    try:
        request = GenerateRequest("one", tuple(range(100)), 8, Sampling(temperature=0))
        await collect(engine.generate(request))
        assert engine.pid is not None
        return allowed(engine.pid)
    finally:
        await engine.close()


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="there is one processor")
def test_threads_that_compute_have_a_core_each_where_that_is_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OMP_PLACES", "OMP_PROC_BIND"):
        monkeypatch.delenv(name, raising=False)
    model = write_endless_llama(tmp_path / "endless.gguf")
    everywhere = allowed(os.getpid())
    assert run(while_answering(model, Affinity.FREE)) == everywhere
    bound = run(while_answering(model, Affinity.CORES)) - everywhere
    assert len(bound) >= 2
    assert not any("-" in cores for cores in bound)
