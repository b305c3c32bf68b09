"""A server for a crowd: `freehold serve`, or the same with a scripted worker behind the real wire.

``python -P -m tests.support.crowd_server HOME MODEL PARALLEL real|scripted`` prints its address.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from freehold.api.server import bind, serve, url_of
from freehold.domain.settings import resolve
from freehold.engines.base import Engine, EngineConfig
from freehold.engines.llamacpp.client import LlamaCppEngine
from freehold.runtime.wiring import open_runtime
from tests.support.scripted_worker import MODULE


def scripted(config: EngineConfig) -> Engine:
    return LlamaCppEngine(config, MODULE)


async def run(home: Path, model: Path, parallel: int, *, script: bool) -> None:
    settings = resolve(
        {"home": str(home), "port": 0, "parallel": parallel, "context": 1024}, environ={}
    )
    with bind(settings) as sock:
        print(url_of(sock), flush=True)
        async with open_runtime(
            settings,
            notice=print,
            served_paths=(model,),
            make_engine=scripted if script else None,
        ) as runtime:
            await serve(runtime, sock, preload=(str(model),), say=print)


if __name__ == "__main__":
    _, home, model, parallel, kind = sys.argv
    asyncio.run(run(Path(home), Path(model), int(parallel), script=kind == "scripted"))
