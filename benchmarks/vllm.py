"""vLLM for the benchmarks: installed where `make test-vllm` has it, and started as we start it."""

from __future__ import annotations

import asyncio
import os
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.servers import THREADS, Server, Watch
from benchmarks.weights import ROOT, SOURCE, BenchmarkError, freehold_command, freehold_environment
from freehold.domain.engine import Precision
from freehold.domain.settings import environment, resolve
from freehold.engines.vllm import launch
from freehold.engines.vllm.installation import Installed, Place
from freehold.runtime.chat import vocabulary_source
from freehold.runtime.vllm import Vllm
from freehold.text.client import TextService
from freehold.weights.library import Library

_STEPS = (
    ("pull", SOURCE),
    ("engine", "install", "vllm", "--cpu"),
    ("convert", SOURCE, "--to", "safetensors"),
)
# What the model is called by a vLLM that we have started.
BARE_NAME = "model"


def home() -> Path:
    """The store of `make test-vllm`, with vLLM, the model, and its weights as safetensors."""
    default = ROOT / ".cache" / "vllm-home"
    folder = Path(os.environ.get("FREEHOLD_TEST_VLLM_HOME", default))
    for words in _STEPS:
        done = subprocess.run(
            [freehold_command(), *words],
            env=home_environment(folder),
            stdin=subprocess.DEVNULL,
            check=False,
        )
        if done.returncode != 0:
            raise BenchmarkError(f"`freehold {' '.join(words)}` failed (see above).")
    return folder


def home_environment(folder: Path) -> dict[str, str]:
    return {**freehold_environment(), "FREEHOLD_HOME": str(folder)}


def installed(folder: Path) -> Installed:
    return Place.of(folder).require()


@dataclass(frozen=True)
class Size:
    """``context`` is tokens a sequence, ``parallel`` how many run at once."""

    context: int
    parallel: int

    @property
    def flags(self) -> tuple[str, ...]:
        return (
            *("--parallel", str(self.parallel), "--context", str(self.context)),
            *("--threads", str(THREADS)),
        )


def precision_here(folder: Path) -> Precision:
    """What the model is computed in."""
    return asyncio.run(_config(folder, Size(1024, 1))).precision


def managed(name: str, folder: Path, size: Size) -> Server:
    """Our server, with the model run by vLLM."""
    command = (freehold_command(), "serve", SOURCE, "--vllm", SOURCE, "--port", "{port}")
    return Server(name, (*command, *size.flags), "/readyz", home_environment(folder))


def bare(name: str, folder: Path, size: Size, precision: Precision | None = None) -> Server:
    """vLLM's own server, with the arguments and the environment that ours gives it, save that it
    computes in ``precision`` (None: in what ours would)."""
    config = asyncio.run(_config(folder, size))
    return _by_port(name, folder, replace(config, precision=precision or config.precision))


def plain(name: str, folder: Path, size: Size) -> Server:
    """The same with nothing of ours in its processes."""
    return _by_port(name, folder, replace(asyncio.run(_config(folder, size)), plugin=None))


def _by_port(name: str, folder: Path, config: launch.VllmConfig) -> Server:
    words = list(launch.arguments(config, Path("socket")))
    at = words.index("--uds")
    words[at : at + 2] = ["--host", "127.0.0.1", "--port", "{port}"]
    cache = Place.of(folder).folder / "cache"
    return Server(name, tuple(words), "/health", launch.environ(config, environment(), cache))


async def _config(folder: Path, size: Size) -> launch.VllmConfig:
    asked = {
        "home": str(folder),
        "vllm": (SOURCE,),
        "threads": THREADS,
        "context": size.context,
        "parallel": size.parallel,
    }
    settings = resolve(asked, environ={})
    library = Library.open(settings)
    model = library.local(SOURCE)
    text = TextService()
    try:
        vllm = Vllm.of(library, text, settings)
        build = await vllm.builder(model, vocabulary_source(model))
        return build().config
    finally:
        await text.close()


def socket_of(watch: Watch) -> str:
    """Where the vLLM behind a server of ours answers, for who wants to ask it directly."""
    for process in watch.processes():
        words = process.cmdline()
        if "--uds" in words:
            return words[words.index("--uds") + 1]
    raise BenchmarkError("There is no vLLM behind our server.")
