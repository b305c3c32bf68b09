"""Run in vLLM's environment in place of its own module: the same server, sooner. It imports nothing
of freehold: that environment has none.

On a CPU vLLM starts its processes anew, one out of the other: the server, its engine, the engine's
worker. Each imports PyTorch and vLLM, which takes longer than everything else in a start. Here a
process that only imports is begun beside the server, and the other two are forked from it:

    server ── imports ─────────▶ reads the configuration ──▶ waits ───────────────▶ serves
      └▶ fork server ── imports ──────────────────────────────▶ └▶ engine └▶ worker

Nothing has been computed in parallel where a process is forked. OpenMP's library has been loaded
there, and makes itself anew in whoever is forked, from the environment that vLLM gives each: how
many threads, on which processors. Its default for a forked process is one thread on one processor,
unless the fork server was begun with KMP_AFFINITY=none (`launch.environ`). Where vLLM wants another
library to be loaded before everything else, its processes are begun anew as it does by itself.
"""

import importlib
import multiprocessing
import os
import runpy
from collections.abc import Callable
from multiprocessing import context, forkserver
from pathlib import Path
from typing import Any

SERVER = "vllm.entrypoints.openai.api_server"
# What the engine and its worker import.
_HEAVY = (
    __name__,
    "vllm.v1.engine.core",
    "vllm.v1.executor.multiproc_executor",
    "vllm.v1.worker.cpu_worker",
)

_PRELOADED = "LD_PRELOAD"

Context = context.BaseContext


class _Forked(context.ForkServerProcess):
    """Has the environment its parent had when it was started, as a process begun anew has."""

    def start(self) -> None:
        self._variables = dict(os.environ)
        super().start()

    def run(self) -> None:
        _take_over(self._variables)
        _instead_of_new(multiprocessing.get_context("fork"))
        super().run()


class _FromForkServer(context.ForkServerContext):
    Process = _Forked


def _take_over(variables: dict[str, str]) -> None:
    """What is the same stays where it is: the processes' titles are written over it."""
    for name in os.environ.keys() - variables.keys():
        del os.environ[name]
    for name, value in variables.items():
        if os.environ.get(name) != value:
            os.environ[name] = value


def _instead_of_new(wanted: Context) -> None:
    """From here on this process gets ``wanted`` where it asks to start processes anew."""
    usual: Callable[..., Context] = multiprocessing.get_context
    loaded = os.environ.get(_PRELOADED)

    def get_context(method: str | None = None) -> Context:
        forks = method == "spawn" and os.environ.get(_PRELOADED) == loaded
        return wanted if forks else usual(method)

    replaced: Any = multiprocessing
    replaced.get_context = get_context


def main() -> None:
    multiprocessing.set_forkserver_preload(list(_HEAVY))
    forkserver.ensure_running()
    _instead_of_new(_FromForkServer())
    runpy.run_module(SERVER, run_name="__main__")


if __name__ == "__main__":
    # Once more as the module that it is: there those who are forked look for its classes.
    importlib.import_module(Path(__file__).stem).main()
