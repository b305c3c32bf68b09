"""Adapters of a loaded model: LoRA and control vectors, by name.

In llama.cpp they belong to a context, not to a sequence. So one set is in force at a time; the
scheduler lets sequences of equal sets share a step. Everything here belongs to the loop's thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from freehold.domain.chat import AdapterUse
from freehold.domain.errors import FreeholdError, InvalidModelFile, InvalidRequest
from freehold.engines.base import Adapter, AdapterKind
from freehold.engines.llamacpp.binding import Context
from freehold.weights.gguf import read_header
from freehold.weights.gguf_header import GgufHeader
from freehold.weights.gguf_types import TensorType

Directions = npt.NDArray[np.float32]


@dataclass(frozen=True)
class _Lora:
    handle: object


@dataclass(frozen=True)
class _ControlVector:
    """``directions`` has a row for each layer from 1 on; layers without one are zero."""

    directions: Directions
    first_layer: int
    last_layer: int


class Adapters:
    """Loaded adapters, and the set that is in force."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._loaded: dict[str, _Lora | _ControlVector] = {}
        self._in_force: tuple[AdapterUse, ...] = ()

    def add(self, adapter: Adapter) -> None:
        """Load one. Raises `InvalidRequest`, `RefusedFile` or `LoadFailed`."""
        if adapter.name in self._loaded:
            raise InvalidRequest(
                f"An adapter called {adapter.name!r} is loaded already.", field="adapters"
            )
        header = read_header(Path(adapter.path))
        if adapter.kind is AdapterKind.LORA:
            self._loaded[adapter.name] = self._load_lora(adapter, header)
        else:
            self._loaded[adapter.name] = self._load_control_vector(adapter, header)

    def remove(self, name: str) -> None:
        """Unload one that no running sequence uses. Raises `InvalidRequest`."""
        self.require((AdapterUse(name),))
        if any(use.name == name for use in self._in_force):
            self.apply(())
        loaded = self._loaded.pop(name)
        if isinstance(loaded, _Lora):
            self._context.free_lora(loaded.handle)

    def require(self, uses: Sequence[AdapterUse]) -> None:
        """Raises `InvalidRequest` if one of them is not loaded, or named twice."""
        for use in uses:
            if use.name not in self._loaded:
                known = ", ".join(sorted(self._loaded)) or "none"
                raise InvalidRequest(
                    f"There is no adapter called {use.name!r}; loaded: {known}.", field="adapters"
                )
        if len({use.name for use in uses}) < len(uses):
            raise InvalidRequest("An adapter is named twice.", field="adapters")

    def apply(self, uses: tuple[AdapterUse, ...]) -> None:
        """Put a set in force; costs a few milliseconds when it is another one."""
        if uses == self._in_force:
            return
        loras, vectors = [], []
        for use in uses:
            loaded = self._loaded[use.name]
            if isinstance(loaded, _Lora):
                loras.append((loaded.handle, use.scale))
            else:
                vectors.append((loaded, use.scale))
        self._context.set_loras(loras)
        self._apply_control(vectors)
        self._in_force = uses

    def _apply_control(self, vectors: Sequence[tuple[_ControlVector, float]]) -> None:
        """llama.cpp has room for one vector: several are summed, each on its own layers."""
        if not vectors:
            self._context.set_control(None)
            return
        total = np.zeros_like(vectors[0][0].directions)
        for vector, scale in vectors:
            rows = slice(vector.first_layer - 1, vector.last_layer)
            total[rows] += np.float32(scale) * vector.directions[rows]
        self._context.set_control(total)

    # Files

    def _load_lora(self, adapter: Adapter, header: GgufHeader) -> _Lora:
        if header.text("general.type") != "adapter" or header.text("adapter.type") != "lora":
            raise InvalidModelFile(f"{adapter.path} is a GGUF file, but not a LoRA adapter.")
        if "adapter.alora.invocation_tokens" in header.metadata:
            raise InvalidModelFile(
                f"{adapter.path} is an activated LoRA, which starts in mid-prompt; "
                "that is not supported."
            )
        return _Lora(self._context.load_lora(adapter.path))

    def _load_control_vector(self, adapter: Adapter, header: GgufHeader) -> _ControlVector:
        layers, width = self._context.layers - 1, self._context.width
        first, last = adapter.first_layer, adapter.last_layer or layers
        if not 1 <= first <= last <= layers:
            raise InvalidRequest(
                f"A control vector of this model acts on layers 1 to {layers}, "
                f"not {first} to {last}.",
                field="adapters",
            )
        directions = _read_directions(header, layers, width)
        return _ControlVector(directions, first, last)


def _read_directions(header: GgufHeader, layers: int, width: int) -> Directions:
    """Tensors ``direction.1``, ``direction.2`` … as rows. Raises `InvalidModelFile`."""
    directions: Directions = np.zeros((layers, width), dtype=np.float32)
    found = False
    for tensor in header.tensors:
        prefix, _, number = tensor.name.partition(".")
        if prefix != "direction" or not number.isdecimal() or not 1 <= int(number) <= layers:
            raise _unfit(header, f"has no layer for its tensor {tensor.name!r}")
        if tensor.type is not TensorType.F32 or tensor.shape != (width,):
            raise _unfit(header, f"needs {width} numbers (F32) in {tensor.name!r}")
        offset = header.data_offset + tensor.offset
        directions[int(number) - 1] = np.fromfile(header.path, np.float32, width, offset=offset)
        found = True
    if not found:
        raise _unfit(header, "finds no direction in it")
    if not np.isfinite(directions).all():
        raise _unfit(header, "would be given numbers that are not finite")
    return directions


def _unfit(header: GgufHeader, why: str) -> FreeholdError:
    return InvalidModelFile(f"{header.path} is no control vector for this model, which {why}.")
