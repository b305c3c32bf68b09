"""vLLM with the real 0.5B model: installed, its weights made, its servers shared among tests.

A server takes half a minute to start, so tests that do not end it borrow one.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import signal
import struct
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Coroutine, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from freehold.domain.engine import Quantization
from freehold.domain.errors import EngineCrashed
from freehold.domain.settings import environment, resolve
from freehold.engines.base import Adapter, AdapterKind, Engine
from freehold.engines.vllm.client import VllmEngine
from freehold.engines.vllm.launch import GIBIBYTE, VllmConfig
from freehold.engines.vllm.server import VllmServer
from freehold.machine.plan import gigabytes
from freehold.machine.probe import memory, own_instruction_sets
from freehold.machine.vllm_need import VllmNeed, precision
from freehold.runtime.chat import vocabulary_source
from freehold.runtime.vllm import Vllm
from freehold.text.client import TextService
from freehold.text.token_table import TokenTable
from freehold.weights.library import Library
from tests.support.command import FREEHOLD, freehold
from tests.support.command import environment as variables

MODEL = "qwen2.5-coder:0.5b"
STEPS = (
    ("engine", "install", "vllm", "--cpu"),  # what it needs of the machine is said before a fetch
    ("pull", MODEL),
    ("convert", MODEL, "--to", "safetensors"),
)
START_SECONDS = 600.0  # half a minute, unless the disk is slow
MOST_SHARED = 2  # servers that live at once for several tests, beside one of a test's own
WEIGHTS = 494_032_768

T = TypeVar("T")


def folder() -> Path:
    """FREEHOLD_TEST_VLLM_HOME, or ``.cache/vllm-home`` in the checkout."""
    default = Path(__file__).parents[2] / ".cache" / "vllm-home"
    found = Path(os.environ.get("FREEHOLD_TEST_VLLM_HOME", default))
    found.mkdir(parents=True, exist_ok=True)
    return found


@functools.cache
def home() -> Path:
    """The same, with everything in it; `make test-vllm` has seen to that before."""
    here = folder()
    for words in STEPS:
        done = freehold(here, *words, timeout=1800)
        assert done.status == 0, done.err[-2000:]
    return here


def needed() -> int:
    """Bytes of all servers at once, and of the tests."""
    computed = precision({}, Quantization.NONE, own_instruction_sets())
    server = VllmNeed(WEIGHTS * computed.bytes, GIBIBYTE)
    return (MOST_SHARED + 1) * server.total + GIBIBYTE


def main() -> int:
    """Set everything up, in sight of whoever waits for it; the status of what failed."""
    available = memory().available
    if available < needed():
        print(
            f"The tests on vLLM need {gigabytes(needed())} of memory, and {gigabytes(available)} "
            "are available: they cannot run here.",
            file=sys.stderr,
        )
        return 1
    here = folder()
    for words in STEPS:
        status = subprocess.run([FREEHOLD, *words], env=variables(here), check=False).returncode
        if status != 0:
            print(
                f"The tests on vLLM need what failed: freehold {' '.join(words)}. When that is "
                "seen to, run the same again: what is there already is kept.",
                file=sys.stderr,
            )
            return status
    return 0


def prepared(folder: Path) -> tuple[VllmConfig, TokenTable]:
    """How the model is loaded, and its vocabulary."""

    async def ask() -> tuple[VllmConfig, TokenTable]:
        settings = resolve({"home": str(folder), "vllm": (MODEL,), "threads": 2}, environ={})
        library = Library.open(settings)
        model = library.local(MODEL)
        text = TextService()
        try:
            vllm = Vllm.of(library, text, settings)
            source = vocabulary_source(model)
            engine = (await vllm.builder(model, source))()
            return engine.config, await text.table(source)
        finally:
            await text.close()

    return asyncio.run(ask())


class Loop:
    """An event loop of its own in a thread: a server's processes belong to one."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(START_SECONDS)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class Borrowed(VllmServer):
    """Another's server, at ``at``: to end it is not ours."""

    def __init__(self, config: VllmConfig, at: Path | None) -> None:
        super().__init__(config, {}, Path())
        self.at = at

    @property
    def socket(self) -> Path:
        assert self.at is not None
        return self.at

    async def start(self) -> None:
        """It runs."""

    async def close(self) -> None:
        self.failure = self.failure or EngineCrashed("It has been given back.")
        self.ended.set()


class Shared(Borrowed):
    """One that ``servers`` lend from the start to the end of this."""

    def __init__(self, config: VllmConfig, servers: Servers) -> None:
        super().__init__(config, None)
        self._servers = servers
        self._lent = False

    async def start(self) -> None:
        self.at = await asyncio.to_thread(self._servers.lend, self.config)
        self._lent = True

    async def close(self) -> None:
        if self._lent:
            self._lent = False
            self._servers.take_back(self.config)
        await super().close()


class Servers:
    """``make`` gives an engine on a shared server, ``own`` one whose server is its own."""

    def __init__(self, config: VllmConfig, table: TokenTable, cache: Path) -> None:
        self._config = config
        self._table = table
        self._cache = cache
        self._loop = Loop()
        self._shared: dict[VllmConfig, VllmEngine] = {}  # the longest unused first
        self._lent: Counter[VllmConfig] = Counter()

    def make(self, context: int, parallel: int) -> Engine:
        return self._borrowed(self._sized(context, parallel))

    def _borrowed(self, config: VllmConfig) -> Engine:
        return VllmEngine(Shared(config, self), self._read)

    def lend(self, config: VllmConfig) -> Path:
        """Where one answers; it is started unless it runs, in the place of those longest unused."""
        engine = self._shared.pop(config, None)
        if engine is not None and engine.failure is not None:
            self._loop.run(engine.close())
            engine = None
        if engine is None:
            self._make_room()
            engine = VllmEngine(VllmServer(config, environment(), self._cache), self._read)
            self._shared[config] = engine
            self._loop.run(engine.load())
        self._shared[config] = engine
        self._lent[config] += 1
        return engine.socket

    def _make_room(self) -> None:
        unused = [config for config in self._shared if not self._lent[config]]
        while len(self._shared) >= MOST_SHARED and unused:
            self._loop.run(self._shared.pop(unused.pop(0)).close())

    def take_back(self, config: VllmConfig) -> None:
        self._lent[config] -= 1

    def own(self, context: int, parallel: int) -> Engine:
        server = VllmServer(self._sized(context, parallel), environment(), self._cache)
        return VllmEngine(server, self._read)

    def embedder(self, context: int, parallel: int) -> Engine:
        """The same model, taken by its last token as llama.cpp takes it."""
        return self._borrowed(replace(self._sized(context, parallel), pooling="LAST", lora_slots=0))

    def broken(self, folder: Path) -> Engine:
        config = replace(self._sized(128, 1), weights=folder)
        return VllmEngine(VllmServer(config, environment(), self._cache), self._read)

    def _sized(self, context: int, parallel: int) -> VllmConfig:
        return replace(
            self._config, context=context, parallel=parallel, cache_bytes=GIBIBYTE, lora_slots=2
        )

    async def _read(self) -> TokenTable:
        return self._table

    def close(self) -> None:
        for engine in self._shared.values():
            self._loop.run(engine.close())
        self._loop.stop()


@contextlib.contextmanager
def servers(folder: Path) -> Iterator[Servers]:
    config, table = prepared(folder)
    made = Servers(config, table, folder / "engines" / "vllm" / "cache")
    try:
        yield made
    finally:
        made.close()


def write_lora(folder: Path, seed: int) -> Adapter:
    """A random LoRA for the 0.5B as PEFT writes them, strong enough to change answers."""
    dice = np.random.default_rng(seed)
    width, heads, rank = 896, {"q_proj": 896, "v_proj": 128}, 8
    tensors: dict[str, np.ndarray[Any, Any]] = {}
    for layer in range(24):
        for matrix, rows in heads.items():
            name = f"base_model.model.model.layers.{layer}.self_attn.{matrix}"
            tensors[f"{name}.lora_A.weight"] = dice.normal(0, 0.05, (rank, width))
            tensors[f"{name}.lora_B.weight"] = dice.normal(0, 0.05, (rows, rank))
    place = folder / f"adapter-{seed}"
    place.mkdir(exist_ok=True)
    (place / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "r": rank, "lora_alpha": 16, "target_modules": [*heads]})
    )
    write_safetensors(place / "adapter_model.safetensors", tensors)
    return Adapter(place.name, AdapterKind.LORA, str(place / "adapter_model.safetensors"))


def write_safetensors(path: Path, tensors: dict[str, np.ndarray[Any, Any]]) -> None:
    header, data = {}, b""
    for name, values in tensors.items():
        raw = values.astype("<f4").tobytes()
        offsets = [len(data), len(data) + len(raw)]
        header[name] = {"dtype": "F32", "shape": list(values.shape), "data_offsets": offsets}
        data += raw
    encoded = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(encoded)) + encoded + data)


def kill(engine: Engine) -> None:
    """The process that answers; its keeper lives."""
    assert engine.pid is not None
    os.kill(engine.pid, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
