"""What requantising starts from: the best weights of the same model that the store has.

The same model is one that its catalogue row, its repository, or its name and declared base says is
the same, *and* whose norms are the same bytes: every format keeps them as they were trained, so a
model that was trained further has others.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from freehold.domain.errors import FreeholdError
from freehold.weights.gguf_header import GgufHeader, TensorInfo
from freehold.weights.gguf_types import TensorType
from freehold.weights.library import Library, LocalModel

# So many times as many bits a weight are worth starting elsewhere.
_BETTER = 1.1


@dataclass(frozen=True)
class Source:
    """``why`` it is the same model; None: it is the model itself, and nothing better is here."""

    model: LocalModel
    why: str | None = None

    @property
    def quantised(self) -> bool:
        return self.model.header.quantisation not in ("F32", "F16", "BF16")


def best_source(library: Library, model: LocalModel) -> Source:
    """Reads headers, and the norms of what may be the same model."""
    found = [Source(model)]
    if len(model.paths) == 1:
        found += _others(library, model)
    best = max(found, key=lambda source: bits(source.model.header))
    return best if bits(best.model.header) >= _BETTER * bits(model.header) else found[0]


def bits(header: GgufHeader) -> float:
    """Of a weight."""
    return 8 * header.data_size / max(1, header.parameter_count)


def _others(library: Library, model: LocalModel) -> Iterator[Source]:
    for manifest in library.registry.models():
        if manifest.files[0].sha256 == model.digest or len(manifest.files) > 1:
            continue
        try:
            other = library.local(manifest.reference)
            why = _kinship(library, model, other)
            if why is not None and _same_norms(model, other):
                yield Source(other, why)
        except (FreeholdError, OSError):  # what cannot be read is no source
            continue


def _kinship(library: Library, model: LocalModel, other: LocalModel) -> str | None:
    rows = [library.catalog.with_digest(each.digest) for each in (model, other)]
    if rows[0] and rows[1] and rows[0][0] == rows[1][0]:
        return f"the catalogue has both as {rows[0][0].reference}"
    mine, theirs = model.manifest, other.manifest
    name = model.header.text("general.name")
    if mine is None or theirs is None or name != other.header.text("general.name"):
        return None
    if mine.origin == theirs.origin and "://" in mine.origin:
        return f"both come from {mine.origin}"
    if name and mine.base_models and mine.base_models == theirs.base_models:
        return f"both are called {name} and made of {', '.join(mine.base_models)}"
    return None


def _same_norms(model: LocalModel, other: LocalModel) -> bool:
    if _shapes(model.header) != _shapes(other.header):
        return False
    mine, theirs = (dict(_vectors(each.paths[0], each.header)) for each in (model, other))
    return bool(mine) and mine == theirs


def _shapes(header: GgufHeader) -> dict[str, tuple[int, ...]]:
    return {tensor.name: tensor.shape for tensor in header.tensors}


def _vectors(path: Path, header: GgufHeader) -> Iterator[tuple[str, bytes]]:
    with path.open("rb") as file:
        for tensor in header.tensors:
            if len(tensor.shape) == 1 and tensor.type is TensorType.F32:
                yield tensor.name, _read(file.fileno(), header, tensor)


def _read(descriptor: int, header: GgufHeader, tensor: TensorInfo) -> bytes:
    return os.pread(descriptor, tensor.nbytes, header.data_offset + tensor.offset)
