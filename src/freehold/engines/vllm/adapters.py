"""LoRA adapters of a vLLM server: read by us first, then by vLLM, from a folder with nothing else.

    adapter_model.safetensors, adapter_config.json ──copied, read──▶ folder of ours ──▶ vLLM

Where vLLM finds no safetensors it unpickles, and a configuration may name code; neither gets so
far.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from freehold.domain.chat import AdapterUse
from freehold.domain.errors import InvalidModelFile, InvalidRequest, UnsupportedFile
from freehold.engines.base import Adapter, AdapterKind
from freehold.engines.vllm.launch import MAX_RANK
from freehold.weights.files import require_file
from freehold.weights.safetensors import read_header

WEIGHTS = "adapter_model.safetensors"
CONFIGURATION = "adapter_config.json"
_MAX_CONFIGURATION_BYTES = 1 << 20
_LOAD, _UNLOAD = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"

Post = Callable[[str, dict[str, Any]], Awaitable[bytes]]


@dataclass
class _Loaded:
    """``name`` is what vLLM calls it: no two have had the same, for its prefix cache goes by it."""

    name: str
    folder: Path
    users: int = 0
    leaving: bool = False
    free: asyncio.Event = field(default_factory=asyncio.Event)


class Adapters:
    """``folder`` is one that only we can enter; ``slots`` 0: there are none."""

    def __init__(self, slots: int, post: Post, folder: Path) -> None:
        self._slots = slots
        self._post = post
        self._folder = folder
        self._loaded: dict[str, _Loaded] = {}
        self._count = 0

    async def add(self, adapter: Adapter) -> None:
        """Raises `InvalidRequest` or `RefusedFile`."""
        self._require_slots()
        if adapter.kind is not AdapterKind.LORA:
            raise InvalidRequest(
                "vLLM applies LoRA adapters only, no control vectors.", field="adapters"
            )
        if adapter.name in self._loaded:
            raise InvalidRequest(
                f"An adapter called {adapter.name!r} is loaded already.", field="adapters"
            )
        self._count += 1
        name = f"adapter-{self._count}"
        loaded = _Loaded(name, self._folder / name, leaving=True)  # nobody may use it yet
        self._loaded[adapter.name] = loaded
        try:
            await asyncio.to_thread(stage, Path(adapter.path), loaded.folder)
            await self._post(_LOAD, {"lora_name": name, "lora_path": str(loaded.folder)})
        except BaseException:
            del self._loaded[adapter.name]
            shutil.rmtree(loaded.folder, ignore_errors=True)
            raise
        loaded.leaving = False

    async def remove(self, name: str) -> None:
        """When the answers that use it are over. Raises `InvalidRequest`."""
        loaded = self._find(name)
        loaded.leaving = True
        while loaded.users:
            loaded.free.clear()
            await loaded.free.wait()
        await self._post(_UNLOAD, {"lora_name": loaded.name})
        del self._loaded[name]
        shutil.rmtree(loaded.folder, ignore_errors=True)

    @contextmanager
    def used(self, uses: Sequence[AdapterUse]) -> Iterator[str | None]:
        """What vLLM calls the one that is asked for; None: none is. Raises `InvalidRequest`."""
        if not uses:
            yield None
            return
        self._require_slots()
        if len(uses) > 1:
            raise InvalidRequest(
                "vLLM applies one adapter to an answer, not several.",
                field="adapters",
                hint="The llama.cpp engine applies several.",
            )
        if uses[0].scale != 1.0:
            raise InvalidRequest(
                "vLLM applies an adapter at the strength it was trained with, and no other.",
                field="adapters",
                hint="The llama.cpp engine scales them.",
            )
        loaded = self._find(uses[0].name)
        loaded.users += 1
        try:
            yield loaded.name
        finally:
            loaded.users -= 1
            loaded.free.set()

    def _find(self, name: str) -> _Loaded:
        loaded = self._loaded.get(name)
        if loaded is None or loaded.leaving:
            known = ", ".join(sorted(self._loaded)) or "none"
            raise InvalidRequest(
                f"There is no adapter called {name!r}; loaded: {known}.", field="adapters"
            )
        return loaded

    def _require_slots(self) -> None:
        if not self._slots:
            raise InvalidRequest(
                "This vLLM was started without room for adapters.",
                field="adapters",
                hint="Set lora_slots to how many are to be used at once.",
            )


def stage(weights: Path, folder: Path) -> None:
    """Copy an adapter into ``folder``, and read the copy. Raises `RefusedFile`."""
    if weights.name != WEIGHTS:
        raise UnsupportedFile(
            f"{weights.name} is no adapter for vLLM.",
            hint=f"It reads {WEIGHTS} with {CONFIGURATION} beside it.",
        )
    configuration = weights.with_name(CONFIGURATION)
    for file in (weights, configuration):
        require_file(file)
    folder.mkdir(mode=0o700)
    shutil.copyfile(configuration, folder / CONFIGURATION)
    _require_lora(folder / CONFIGURATION)
    shutil.copyfile(weights, folder / WEIGHTS)
    header = read_header(folder / WEIGHTS)
    strange = [each.name for each in header.tensors if ".lora_" not in each.name]
    if strange or not header.tensors:
        raise InvalidModelFile(
            f"{WEIGHTS} holds what is no LoRA: {strange[0] if strange else 'nothing'}.",
            hint="vLLM is given adapters that PEFT has written.",
        )


def _require_lora(path: Path) -> None:
    if path.stat().st_size > _MAX_CONFIGURATION_BYTES:
        raise InvalidModelFile(f"{path.name} is too large to be one.")
    try:
        said = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InvalidModelFile(f"{path.name} is no JSON.") from error
    rank = said.get("r") if isinstance(said, dict) else None
    if not isinstance(said, dict) or said.get("peft_type") != "LORA" or type(rank) is not int:
        raise UnsupportedFile(f"{path.name} describes no LoRA.", hint="vLLM applies no others.")
    if "auto_map" in json.dumps(said):
        raise UnsupportedFile(
            f"{path.name} names code to be run (auto_map).", hint="Freehold runs none."
        )
    if not 1 <= rank <= MAX_RANK:
        raise UnsupportedFile(
            f"The adapter has rank {rank}; up to {MAX_RANK} is there room for.",
            hint="llama.cpp takes any rank, from a GGUF file.",
        )
