"""The worker killed under sixteen streams: what the crash rules promise to each of them."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from freehold.domain.chat import GenerateRequest
from freehold.domain.errors import EngineCrashed
from freehold.domain.events import Finished, FinishReason, TextDelta
from freehold.domain.sampling import Sampling
from freehold.engines.base import EngineConfig
from freehold.engines.llamacpp.client import LlamaCppEngine
from freehold.runtime.lifecycle import Supervisor
from tests.support.endless import write_endless_llama
from tests.support.running import run

pytestmark = pytest.mark.native

STREAMS, AT_ONCE = 16, 8
GREEDY = Sampling(temperature=0)


def test_every_stream_gets_what_the_crash_rules_promise(tmp_path: Path) -> None:
    model = write_endless_llama(tmp_path / "endless.gguf", layers=8, context_length=2048)
    config = EngineConfig("endless", (str(model),), 2048, AT_ONCE, threads=1)

    async def scenario() -> None:
        supervisor = Supervisor("endless", lambda: LlamaCppEngine(config))
        await supervisor.start()
        begun: set[int] = set()
        kill = asyncio.Event()

        async def stream(number: int) -> FinishReason:
            prompt = tuple((number + position) % 256 for position in range(50))
            # Those that begin go on for seconds; those that wait for a place are soon done.
            count = 1900 if number < AT_ONCE else 5
            request = GenerateRequest(f"{number}", prompt, count, GREEDY)
            async for event in supervisor.generate(request):
                if isinstance(event, TextDelta):
                    begun.add(number)
                    if len(begun) == AT_ONCE:
                        kill.set()
                if isinstance(event, Finished):
                    return event.reason
            raise AssertionError("a stream ended without a reason")

        streams = [asyncio.create_task(stream(number)) for number in range(STREAMS)]
        await kill.wait()
        assert supervisor.engine is not None
        assert supervisor.engine.pid is not None
        os.kill(supervisor.engine.pid, signal.SIGKILL)
        outcomes = await asyncio.gather(*streams, return_exceptions=True)
        # What had begun ends with the error; what had not is answered by the next worker.
        for number, outcome in enumerate(outcomes):
            if number < AT_ONCE:
                assert isinstance(outcome, EngineCrashed), number
            else:
                assert outcome is FinishReason.LENGTH, number
        assert await stream(AT_ONCE) is FinishReason.LENGTH
        await supervisor.close()

    run(scenario(), seconds=60)
