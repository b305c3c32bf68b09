"""Well-formed GGUF files of a few kilobytes, whole and split; they hold no usable weights."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Mapping
from pathlib import Path

from freehold.weights.gguf_types import TensorType, ValueType
from freehold.weights.gguf_writer import Tensor, Typed, Value, write_gguf


def write_model(
    path: Path, *, seed: str = "", elements: int = 512, metadata: Mapping[str, Value] | None = None
) -> Path:
    """Write a file that passes every check of the header and return ``path``.

    It holds one tensor of ``elements`` times four bytes that differ by ``seed``.
    """
    described: dict[str, Value] = {
        "general.architecture": "llama",
        "general.name": f"model {seed}",
        "llama.context_length": 512,
        **(metadata or {}),
    }
    data = random.Random(seed).randbytes(4 * elements)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_gguf(path, described, [Tensor(f"weights.{seed or 0}", (elements,), TensorType.F32, data)])
    return path


def model_bytes(
    seed: str = "", *, elements: int = 512, metadata: Mapping[str, Value] | None = None
) -> bytes:
    """The content of such a file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.gguf"
        return write_model(path, seed=seed, elements=elements, metadata=metadata).read_bytes()


def part_name(stem: str, number: int, count: int) -> str:
    """``number`` counts from 1, as the names do."""
    return f"{stem}-{number:05}-of-{count:05}.gguf"


def write_parts(folder: Path, stem: str, count: int) -> tuple[Path, ...]:
    """Write the parts of one split model, in order."""
    return tuple(
        write_model(
            folder / part_name(stem, number + 1, count),
            seed=str(number),
            metadata={
                "split.no": Typed(ValueType.UINT16, number),
                "split.count": Typed(ValueType.UINT16, count),
                "split.tensors.count": Typed(ValueType.INT32, count),
            },
        )
        for number in range(count)
    )
